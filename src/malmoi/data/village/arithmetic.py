"""Sums with worked steps: bare ones, and small stories about how many. Carries and borrows are written out.

The last number of the answer is the result. Operand pairs with a two-digit number obey the held-out split.
"""

from __future__ import annotations

from malmoi.data.village import french, hangul
from malmoi.data.village.held_out import is_held_out
from malmoi.data.village.lexicon import KINDS, NOUNS
from malmoi.data.village.people import NAMES, VILLAGERS
from malmoi.data.village.scenes import Draw

CALCULATE = {"ko": "계산하세요: ", "en": "Calculate: ", "fr": "Calcule : "}
_CARRY = {"ko": "올림 1", "en": "carry 1", "fr": "retenue 1"}
_BORROW = {"ko": "내림 1", "en": "borrow 1", "fr": "emprunt 1"}


def steps(a: int, sign: str, b: int, language: str) -> str:
    """The worked answer, digit by digit: `7 + 5 = 12, carry 1. 1 + 2 + 1 = 4. 17 + 25 = 42.`"""
    if sign == "×":
        return _product(a, b)
    result = a + b if sign == "+" else a - b
    whole = f"{a} {sign} {b} = {result}."
    if max(a, b) < 10:
        return whole
    units, tens = (a % 10, b % 10), (a // 10, b // 10)
    if sign == "+":
        carried = sum(units) >= 10
        first = f"{units[0]} + {units[1]} = {sum(units)}" + (f", {_CARRY[language]}" if carried else "")
        second = f"{tens[0]} + {tens[1]}{' + 1' if carried else ''} = {sum(tens) + carried}"
    else:
        borrowed = units[0] < units[1]
        above = units[0] + 10 * borrowed
        first = f"{above} - {units[1]} = {above - units[1]}" + (f", {_BORROW[language]}" if borrowed else "")
        second = f"{tens[0]} - {tens[1]}{' - 1' if borrowed else ''} = {tens[0] - tens[1] - borrowed}"
    return f"{first}. {second}. {whole}"


def _product(a: int, b: int) -> str:
    if a < 10:
        return f"{a} × {b} = {a * b}."
    tens, units = a // 10 * 10, a % 10
    if not units:
        return f"{a // 10} × {b} = {a // 10 * b}. {a} × {b} = {a * b}."
    return f"{units} × {b} = {units * b}. {tens} × {b} = {tens * b}. {tens * b} + {units * b} = {a * b}."


def operands(
    draw: Draw, signs: tuple[str, ...] = ("+", "+", "+", "-", "-", "×"), most: int = 99
) -> tuple[int, str, int]:
    """A sum that belongs to the split."""
    while True:
        sign = draw.pick(signs)
        if sign == "×":
            a, b = draw.between(2, 19), draw.between(2, 9)
        elif sign == "+":
            total = draw.between(2, most)
            a = draw.between(1, total - 1)
            b = total - a
        else:
            a = draw.between(2, most)
            b = draw.between(1, a - 1)
        held = max(a, b) >= 10 and is_held_out("sum", f"{a} {sign}", str(b))
        if held == draw.held_out:
            return a, sign, b


def _counted(noun: str, number: int, language: str) -> str:
    """7 apples, with the number in digits."""
    data = NOUNS[noun]
    if language == "ko":
        return f"{data.ko} {number}{data.counter}"
    if language == "en":
        return f"{number} {data.en if number == 1 else data.en_plural}"
    return f"{number} {data.fr if number == 1 else data.fr_plural}"


def problem(draw: Draw, language: str) -> tuple[str, str]:
    """A small story that ends in "how many?", and its worked answer."""
    a, sign, b = operands(draw, ("+", "+", "-", "-", "×"), 40)
    name, other = draw.some(NAMES, 2)
    noun = draw.pick(KINDS["thing"])
    while not draw.held_out and (is_held_out("object", "have", noun) or is_held_out("object", "give", noun)):
        noun = draw.pick(KINDS["thing"])
    result = a + b if sign == "+" else a - b if sign == "-" else a * b
    return {"ko": _korean, "en": _english, "fr": _french}[language](name, other, noun, a, sign, b, result)


def _korean(name: str, other: str, noun: str, a: int, sign: str, b: int, result: int) -> tuple[str, str]:
    who, friend, data = VILLAGERS[name].ko, VILLAGERS[other].ko, NOUNS[noun]
    have = f"{hangul.topic(who)} {hangul.direct(_counted(noun, a, 'ko'))} 가지고 있어요."
    if sign == "+":
        change = f"{hangul.subject(friend)} {who}에게 {hangul.direct(_counted(noun, b, 'ko'))} 줘요."
    elif sign == "-":
        change = f"{hangul.topic(who)} {friend}에게 {hangul.direct(_counted(noun, b, 'ko'))} 줘요."
    else:
        have = f"상자 한 개에 {hangul.subject(_counted(noun, a, 'ko'))} 있어요."
        change = f"{hangul.topic(who)} 상자 {b}개를 가지고 있어요."
    question = f"{hangul.topic(who)} {hangul.direct(data.ko)} 몇 {data.counter} 가지고 있어요?"
    answer = f"{hangul.topic(who)} {hangul.direct(_counted(noun, result, 'ko'))} 가지고 있어요."
    return f"{have} {change} {question}", f"{steps(a, sign, b, 'ko')} {answer}"


def _english(name: str, other: str, noun: str, a: int, sign: str, b: int, result: int) -> tuple[str, str]:
    data = NOUNS[noun]
    have = f"{name} has {_counted(noun, a, 'en')}."
    if sign == "+":
        change = f"{other} gives {_counted(noun, b, 'en')} to {name}."
    elif sign == "-":
        change = f"{name} gives {_counted(noun, b, 'en')} to {other}."
    else:
        have, change = f"There are {_counted(noun, a, 'en')} in a box.", f"{name} has {b} boxes."
    question = f"How many {data.en_plural} does {name} have?"
    return f"{have} {change} {question}", f"{steps(a, sign, b, 'en')} {name} has {_counted(noun, result, 'en')}."


def _french(name: str, other: str, noun: str, a: int, sign: str, b: int, result: int) -> tuple[str, str]:
    data = NOUNS[noun]
    have = f"{name} a {_counted(noun, a, 'fr')}."
    if sign == "+":
        change = f"{other} donne {_counted(noun, b, 'fr')} à {name}."
    elif sign == "-":
        change = f"{name} donne {_counted(noun, b, 'fr')} à {other}."
    else:
        have, change = f"Il y a {_counted(noun, a, 'fr')} dans une boîte.", f"{name} a {b} boîtes."
    question = f"Combien {french.elide('de', data.fr_plural)} a {name} ?"
    return f"{have} {change} {question}", f"{steps(a, sign, b, 'fr')} {name} a {_counted(noun, result, 'fr')}."


def exercise(draw: Draw, language: str) -> tuple[str, str]:
    """A bare sum or a word problem with its answer."""
    if draw.chance(0.35):
        return problem(draw, language)
    a, sign, b = operands(draw)
    return f"{CALCULATE[language]}{a} {sign} {b}", steps(a, sign, b, language)


def document(draw: Draw, language: str) -> str:
    return "\n".join(line for _ in range(draw.between(2, 3)) for line in exercise(draw, language))


def example(draw: Draw, language: str) -> tuple[str, str]:
    question, answer = exercise(draw, language)
    return question + "\n", answer
