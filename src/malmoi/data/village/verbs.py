# ruff: noqa: E501 (a table's line is as long as its concept)
"""The Village's actions: verb frames, each with its pattern and its forms in three languages. Data, no grammar.

A pattern says which roles a verb has and how they are marked:

    to      agent, place          goes there                    시장에 / to the market / au marché
    toward  agent, place          moves in that direction       시장으로 / to the market / jusqu'au marché
    from    agent, place          comes from there              시장에서 / from the market / du marché
    leave   agent, place          the place is the object       시장을 / the market / le marché
    act     agent, (place)        does something there          시장에서 / at the market / au marché
    do      agent, object, (place)
    move    agent, object, place  the object ends up there      사과를 시장에 / the apple to the market
    put     agent, object, place                                사과를 시장에 / the apple at the market
    give    agent, object, recipient
    social  agent, object         the object is a person
"""

from __future__ import annotations

from dataclasses import dataclass

from malmoi.data.village.lexicon import NOUNS, PLACES, rows


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb frame. `objects` are the nouns that it may take, `places` where it may happen."""

    key: str
    pattern: str
    objects: tuple[str, ...]
    places: tuple[str, ...]
    agents: str  # "people", or "all" where animals do it too
    tenses: str  # letters of the tenses that sound right: p(ast) n(ow) h(abit) f(uture)
    ko: str
    ko_honorific: str  # an own stem for an elder's doing (드시), or empty
    ko_humble: str  # an own stem for what is done to an elder (드리), or empty
    en: tuple[str, str, str, str]  # base, third person, past, -ing
    fr: tuple[str, str, str, str]  # present singular, present plural, stem of the future, past participle
    fr_be: bool  # compound past with être
    fr_reflexive: bool


# key | pattern | objects or places | agents | tenses | Korean stem, honorific, humble | English | French | être, se
_VERBS = """
go        | to     |                  | all    | pnhf | 가           | go, goes, went, going                | va, vont, ir, allé | être
come      | to     |                  | people | phf  | 오           | come, comes, came, coming            | vient, viennent, viendr, venu | être
run       | toward |                  | all    | pnhf | 뛰어가       | run, runs, ran, running              | court, courent, courr, couru |
return    | from   |                  | people | phf  | 돌아오       | come back, comes back, came back, coming back | revient, reviennent, reviendr, revenu | être
leave     | leave  |                  | people | pf   | 떠나         | leave, leaves, left, leaving         | quitte, quittent, quitter, quitté |
sleep     | act    | home forest garden park farm beach school | all | pnhf | 자, 주무시 | sleep, sleeps, slept, sleeping | dort, dorment, dormir, dormi |
play      | act    | home school forest river garden park farm lake beach square hill | all | pnhf | 놀 | play, plays, played, playing | joue, jouent, jouer, joué |
work      | act    | home school market garden library bakery farm station hospital kitchen post_office shop | people | pnhf | 일하 | work, works, worked, working | travaille, travaillent, travailler, travaillé |
sing      | act    | home school market forest garden park farm kitchen bridge hill square beach | all | pnhf | 노래하 | sing, sings, sang, singing | chante, chantent, chanter, chanté |
dance     | act    | home school garden park beach kitchen bridge hill square | people | pnhf | 춤을 추 | dance, dances, danced, dancing | danse, dansent, danser, dansé |
rest      | act    | home garden park lake beach hill river library square forest farm | all | pnhf | 쉬 | rest, rests, rested, resting | repose, reposent, reposer, reposé | se
study     | act    | home school library kitchen garden park | people | pnhf | 공부하 | study, studies, studied, studying | étudie, étudient, étudier, étudié |
walk      | act    | forest river garden park lake beach hill farm mountain bridge square | people | pnhf | 산책하 | take a walk, takes a walk, took a walk, taking a walk | promène, promènent, promèner, promené | se
wait      | act    |                  | people | pnhf | 기다리       | wait, waits, waited, waiting         | attend, attendent, attendr, attendu |
swim      | act    | river lake beach | people | pnhf | 수영하       | swim, swims, swam, swimming          | nage, nagent, nager, nagé |
eat       | do     | food             | all    | pnhf | 먹, 드시     | eat, eats, ate, eating               | mange, mangent, manger, mangé |
drink     | do     | drink            | all    | pnhf | 마시, 드시   | drink, drinks, drank, drinking       | boit, boivent, boir, bu |
buy       | do     | food drink thing | people | pnhf | 사           | buy, buys, bought, buying            | achète, achètent, achèter, acheté |
sell      | do     | food drink thing | people | pnhf | 팔           | sell, sells, sold, selling           | vend, vendent, vendr, vendu |
see       | do     | object animal    | people | phf  | 보           | see, sees, saw, seeing               | voit, voient, verr, vu |
find      | do     | object fruit animal | people | pf | 찾           | find, finds, found, finding          | trouve, trouvent, trouver, trouvé |
lose      | do     | object           | people | pf   | 잃어버리     | lose, loses, lost, losing            | perd, perdent, perdr, perdu |
read      | do     | read             | people | pnhf | 읽           | read, reads, read, reading           | lit, lisent, lir, lu |
draw      | do     | object animal fruit | people | pnhf | 그리       | draw, draws, drew, drawing           | dessine, dessinent, dessiner, dessiné |
make      | do     | make             | people | pnhf | 만들         | make, makes, made, making            | fait, font, fer, fait |
wash      | do     | fruit dish       | people | pnhf | 씻           | wash, washes, washed, washing        | lave, lavent, laver, lavé |
open      | do     | open             | people | pf   | 열           | open, opens, opened, opening         | ouvre, ouvrent, ouvrir, ouvert |
hide      | do     | object           | people | pnf  | 숨기         | hide, hides, hid, hiding             | cache, cachent, cacher, caché |
follow    | do     | animal           | people | pnf  | 따라가       | follow, follows, followed, following | suit, suivent, suivr, suivi |
call      | do     | animal           | people | pnhf | 부르         | call, calls, called, calling         | appelle, appellent, appeller, appelé |
take      | move   | food thing       | people | pnhf | 가져가       | take, takes, took, taking            | emporte, emportent, emporter, emporté |
put       | put    | object fruit     | people | pf   | 놓           | put, puts, put, putting              | pose, posent, poser, posé |
give      | give   | food drink thing | people | pnhf | 주, , 드리   | give, gives, gave, giving            | donne, donnent, donner, donné |
show      | give   | object           | people | pnf  | 보여 주, , 보여 드리 | show, shows, showed, showing | montre, montrent, montrer, montré |
send      | give   | object fruit     | people | pnf  | 보내, , 보내 드리 | send, sends, sent, sending      | envoie, envoient, enverr, envoyé |
bring     | give   | food drink thing | people | pnhf | 가져다주, , 가져다드리 | bring, brings, brought, bringing | apporte, apportent, apporter, apporté |
meet      | social |                  | people | pf   | 만나, , 뵈   | meet, meets, met, meeting            | rencontre, rencontrent, rencontrer, rencontré |
help      | social |                  | people | pnhf | 돕, , 도와드리 | help, helps, helped, helping       | aide, aident, aider, aidé |
wait for  | social |                  | people | pnhf | 기다리       | wait for, waits for, waited for, waiting for | attend, attendent, attendr, attendu |
praise    | social |                  | people | pf   | 칭찬하       | praise, praises, praised, praising   | félicite, félicitent, féliciter, félicité |
"""

_EVERYWHERE = tuple(key for key in PLACES if key != "home")
_WITH_PLACE = {  # transitive verbs that may say where
    "buy": ("market", "bakery", "shop", "farm"),
    "sell": ("market", "bakery", "shop", "farm"),
    "eat": ("home", "kitchen", "park", "garden", "beach", "school", "bakery", "farm", "hill"),
    "drink": ("home", "kitchen", "park", "garden", "school", "bakery", "farm"),
    "see": tuple(key for key in PLACES if key not in ("home", "kitchen")),
    "find": tuple(key for key in PLACES if key not in ("home", "kitchen")),
    "lose": tuple(key for key in PLACES if key not in ("home", "kitchen")),
    "read": ("home", "school", "library", "park", "garden", "kitchen", "station", "beach"),
    "draw": ("home", "school", "library", "park", "garden", "kitchen", "beach", "hill", "farm"),
    "make": ("home", "school", "kitchen", "bakery", "farm"),
    "wash": ("home", "kitchen", "river", "lake", "farm", "garden"),
    "hide": ("home", "forest", "garden", "kitchen", "park", "library", "farm", "school"),
}


def _verb(cells: list[str]) -> Verb:
    key, pattern, fitting, agents, tenses, ko, en, fr, *marks = cells
    korean = [*(stem.strip() for stem in ko.split(",")), "", ""]
    objects: tuple[str, ...] = ()
    places = _EVERYWHERE if pattern in ("to", "toward", "from", "leave") else ()
    if pattern == "act":
        places = tuple(place.replace("_", " ") for place in fitting.split()) or tuple(PLACES)
    elif pattern in ("to", "from"):
        places = tuple(PLACES)
    elif pattern in ("do", "move", "put", "give"):
        kinds = fitting.split()
        objects = tuple(noun for noun, data in NOUNS.items() if data.kinds.intersection(kinds))
        places = _WITH_PLACE.get(key, ()) if pattern == "do" else tuple(PLACES)
        if pattern == "give":
            places = ()
    mark = marks[0] if marks else ""
    english = tuple(form.strip() for form in en.split(","))
    french = tuple(form.strip() for form in fr.split(","))
    assert len(english) == 4 and len(french) == 4, key
    return Verb(
        key, pattern, objects, places, agents, tenses, korean[0], korean[1], korean[2],
        (english[0], english[1], english[2], english[3]), (french[0], french[1], french[2], french[3]),
        mark in ("être", "se"), mark == "se",
    )  # fmt: skip


VERBS: dict[str, Verb] = {cells[0]: _verb(cells) for cells in rows(_VERBS)}
BY_PATTERN: dict[str, tuple[str, ...]] = {}
for _key, _data in VERBS.items():
    BY_PATTERN[_data.pattern] = (*BY_PATTERN.get(_data.pattern, ()), _key)
