"""Short conversations: greetings, small talk about the village, and every other skill asked for in a chat."""

from __future__ import annotations

from malmoi.data.village import arithmetic, hangul, questions, translation
from malmoi.data.village.held_out import is_held_out
from malmoi.data.village.meaning import Fact
from malmoi.data.village.people import NAMES, VILLAGERS
from malmoi.data.village.scenes import FACTS, Draw
from malmoi.data.village.translation import DIRECTIONS, GRAMMARS

Turn = tuple[str, str]  # what the user says, what the assistant answers

HELLO: dict[str, tuple[Turn, ...]] = {
    "ko": (
        ("안녕하세요!", "안녕하세요! 무엇을 도와드릴까요?"),
        ("안녕하세요. 누구세요?", "저는 말모이예요. 작은 언어 모델이에요."),
        ("무엇을 할 수 있어요?", "번역하고, 계산하고, 이야기에 대한 질문에 답할 수 있어요."),
    ),
    "en": (
        ("Hello!", "Hello! How can I help you?"),
        ("Hello. Who are you?", "I am Malmoi, a small language model."),
        ("What can you do?", "I can translate, calculate and answer questions about stories."),
    ),
    "fr": (
        ("Bonjour !", "Bonjour ! Comment puis-je vous aider ?"),
        ("Bonjour. Qui êtes-vous ?", "Je suis Malmoi, un petit modèle de langue."),
        ("Que savez-vous faire ?", "Je sais traduire, calculer et répondre à des questions sur des histoires."),
    ),
}
THANKS: dict[str, tuple[Turn, ...]] = {
    "ko": (("고마워요!", "천만에요!"), ("안녕히 계세요!", "안녕히 가세요!")),
    "en": (("Thank you!", "You are welcome!"), ("Goodbye!", "Goodbye! See you soon!")),
    "fr": (("Merci !", "Je vous en prie !"), ("Au revoir !", "Au revoir ! À bientôt !")),
}
SKILLS = ("fact", "fact", "fact", "translation", "question1", "arithmetic", "arithmetic", "name")


def _name(draw: Draw, language: str) -> Turn:
    """Introducing oneself."""
    name = draw.pick(NAMES)
    if language == "ko":
        known = VILLAGERS[name].ko
        return f"저는 {hangul.copula(known)}.", f"안녕하세요, {known} 님! 만나서 반가워요."
    if language == "en":
        return f"I am {name}.", f"Hello, {name}! Nice to meet you."
    return f"Je m'appelle {name}.", f"Bonjour, {name} ! Enchanté de vous rencontrer."


def _is_known(fact: Fact) -> bool:
    """Facts never ask for a held-out combination: they always hold, so training must be able to say them."""
    return fact.kind != "work" or not is_held_out("place", fact.person.relation, fact.value)


KNOWN_FACTS: tuple[Fact, ...] = tuple(fact for fact in FACTS if _is_known(fact))


def _fact(draw: Draw, language: str) -> Turn:
    fact = draw.pick(KNOWN_FACTS)
    grammar = GRAMMARS[language]
    return grammar.question(fact, fact.kind), grammar.sentence(fact, focus=False)


def _translation(draw: Draw, language: str) -> Turn:
    """A request by a speaker of `language`: from it or, with an instruction in it, from another."""
    direction = draw.pick([d for d in DIRECTIONS if d.startswith(language)])
    request, answer = translation.example(draw, direction, alone=True)
    return request[:-1], answer


def turn(draw: Draw, language: str, skill: str) -> Turn:
    """One exchange about one skill."""
    if skill == "name":
        return _name(draw, language)
    if skill == "fact":
        return _fact(draw, language)
    if skill == "translation":
        return _translation(draw, language)
    if skill == "arithmetic":
        request, answer = arithmetic.example(draw, language)
    else:
        request, answer = questions.example(draw, skill, language)
    return request[:-1], answer


def messages(draw: Draw, language: str) -> tuple[dict[str, str], ...]:
    """A conversation of one to four exchanges."""
    count = draw.pick((1, 2, 3, 3, 4, 4))
    turns: list[Turn] = []
    if draw.chance(0.4):
        turns.append(draw.pick(HELLO[language]))
    last = [draw.pick(THANKS[language])] if count > 1 and draw.chance(0.25) else []
    skills = [draw.pick(RICH)]  # makes the conversation unlike every other, and in the held-out split an unseen one
    while len(turns) + len(skills) + len(last) < max(count, 1 + len(last)):
        skill = draw.pick(SKILLS)
        if skill == "question1" and "question1" in skills:
            continue  # one story is enough for a short context
        skills.append(skill)
    turns += [turn(draw, language, skill) for skill in draw.some(skills, len(skills))]
    return conversation([*turns, *last])


def conversation(turns: list[Turn]) -> tuple[dict[str, str], ...]:
    return tuple(
        {"role": role, "content": content}
        for exchange in turns
        for role, content in zip(("user", "assistant"), exchange, strict=True)
    )


def scored(draw: Draw, language: str) -> tuple[tuple[dict[str, str], ...], str, str]:
    """A conversation that ends in a request with one right answer: the messages so far, the answer, the skill."""
    turns = [draw.pick(HELLO[language])] if draw.chance(0.4) else []
    skill = draw.pick(("fact", "translation", "question1", "arithmetic") if not draw.held_out else SCORED)
    request, answer = turn(draw, language, skill)
    return (*conversation(turns), {"role": "user", "content": request}), answer, skill


RICH = ("translation", "translation", "question1")
SCORED = ("translation", "question1", "arithmetic")
