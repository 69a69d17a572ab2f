# ruff: noqa: E501 (a table's line is as long as its concept)
"""The Village's words: one line a concept, three languages side by side. Data, no grammar.

A table is a text whose cells are parted by `|`; the first cell of a line is the concept's key (its English word). What a
rule can make (regular plurals, articles, particles) is not written down; what it cannot (irregular plurals, genders,
counters) is. An empty cell means "by the rule".
"""

from __future__ import annotations

from dataclasses import dataclass


def rows(table: str) -> list[list[str]]:
    """The cells of a table, blank lines left out."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing or an animal. `mass` nouns are not counted (water); `kinds` say which verbs and adjectives fit."""

    key: str
    kinds: frozenset[str]
    ko: str
    counter: str  # Korean counts with a word of its own: 사과 두 개, 고양이 두 마리, 책 두 권
    en: str
    en_plural: str
    fr: str
    gender: str  # of the French word
    fr_plural: str

    @property
    def mass(self) -> bool:
        return "mass" in self.kinds


# key | kinds | Korean | counter | English plural | French | gender | French plural
_NOUNS = """
apple    | food fruit thing       | 사과   | 개   |          | pomme     | f |
peach    | food fruit thing       | 복숭아 | 개   | peaches  | pêche     | f |
orange   | food fruit thing       | 오렌지 | 개   |          | orange    | f |
egg      | food thing             | 달걀   | 개   |          | œuf       | m |
carrot   | food fruit thing       | 당근   | 개   |          | carotte   | f |
tomato   | food fruit thing       | 토마토 | 개   | tomatoes | tomate    | f |
cake     | food make thing        | 케이크 | 개   |          | gâteau    | m | gâteaux
biscuit  | food make thing        | 과자   | 개   |          | biscuit   | m |
bread    | food make mass         | 빵     |      |          | pain      | m |
rice     | food make mass         | 밥     |      |          | riz       | m |
soup     | food make mass hot     | 국     |      |          | soupe     | f |
cheese   | food make mass         | 치즈   |      |          | fromage   | m |
honey    | food mass              | 꿀     |      |          | miel      | m |
water    | drink mass hot         | 물     |      |          | eau       | f |
milk     | drink mass hot         | 우유   |      |          | lait      | m |
tea      | drink mass hot make    | 차     |      |          | thé       | m |
juice    | drink mass make        | 주스   |      |          | jus       | m | jus
ball     | thing object toy       | 공     | 개   |          | ballon    | m |
doll     | thing object toy make  | 인형   | 개   |          | poupée    | f |
kite     | thing object toy make  | 연     | 개   |          | cerf-volant | m | cerfs-volants
drum     | thing object toy       | 북     | 개   |          | tambour   | m |
book     | thing object read      | 책     | 권   |          | livre     | m |
letter   | thing object read open | 편지   | 통   |          | lettre    | f |
map      | thing object read      | 지도   | 장   |          | carte     | f |
flower   | thing object           | 꽃     | 송이 |          | fleur     | f |
hat      | thing object wear make | 모자   | 개   |          | chapeau   | m | chapeaux
scarf    | thing object wear make | 목도리 | 개   | scarves  | écharpe   | f |
bag      | thing object open      | 가방   | 개   |          | sac       | m |
box      | thing object open      | 상자   | 개   | boxes    | boîte     | f |
basket   | thing object make      | 바구니 | 개   |          | panier    | m |
umbrella | thing object open      | 우산   | 개   |          | parapluie | m |
key      | thing object           | 열쇠   | 개   |          | clé       | f |
lamp     | thing object           | 램프   | 개   |          | lampe     | f |
cup      | thing object dish      | 컵     | 개   |          | tasse     | f |
pencil   | thing object           | 연필   | 자루 |          | crayon    | m |
bicycle  | thing object           | 자전거 | 대   |          | vélo      | m |
chair    | thing object           | 의자   | 개   |          | chaise    | f |
watch    | thing object           | 시계   | 개   | watches  | montre    | f |
gift     | thing object open      | 선물   | 개   |          | cadeau    | m | cadeaux
cat      | animal                 | 고양이 | 마리 |          | chat      | m |
dog      | animal                 | 개     | 마리 |          | chien     | m |
horse    | animal                 | 말     | 마리 |          | cheval    | m | chevaux
cow      | animal                 | 소     | 마리 |          | vache     | f |
pig      | animal                 | 돼지   | 마리 |          | cochon    | m |
rabbit   | animal                 | 토끼   | 마리 |          | lapin     | m |
bird     | animal                 | 새     | 마리 |          | oiseau    | m | oiseaux
duck     | animal                 | 오리   | 마리 |          | canard    | m |
hen      | animal                 | 암탉   | 마리 |          | poule     | f |
fox      | animal                 | 여우   | 마리 | foxes    | renard    | m |
bear     | animal                 | 곰     | 마리 |          | ours      | m | ours
sheep    | animal                 | 양     | 마리 | sheep    | mouton    | m |
frog     | animal                 | 개구리 | 마리 |          | grenouille | f |
mouse    | animal                 | 쥐     | 마리 | mice     | souris    | f | souris
"""


def _nouns() -> dict[str, Noun]:
    table = {}
    for key, kinds, ko, counter, en_plural, fr, gender, fr_plural in rows(_NOUNS):
        table[key] = Noun(
            key, frozenset(kinds.split()), ko, counter, key, en_plural or key + "s", fr, gender, fr_plural or fr + "s"
        )
    return table


NOUNS: dict[str, Noun] = _nouns()
KINDS: dict[str, tuple[str, ...]] = {
    kind: tuple(key for key, noun in NOUNS.items() if kind in noun.kinds)
    for kind in ("food", "drink", "fruit", "make", "thing", "object", "toy", "read", "open", "dish", "animal", "mass")
}


@dataclass(frozen=True, slots=True)
class Place:
    """A place of the village; there is one of each, so it is always definite."""

    key: str
    ko: str
    at: str  # English
    to: str
    origin: str
    bare: str
    fr: str
    gender: str
    fr_at: str  # "à", "dans" or "sur": French says the same for being there and going there


# key | Korean | English preposition of rest | French | gender | French preposition
_PLACES = """
home        | 집     | at | maison       | f | à
school      | 학교   | at | école        | f | à
market      | 시장   | at | marché       | m | à
forest      | 숲     | in | forêt        | f | dans
river       | 강     | at | rivière      | f | à
garden      | 정원   | in | jardin       | m | dans
library     | 도서관 | at | bibliothèque | f | à
park        | 공원   | in | parc         | m | à
bakery      | 빵집   | at | boulangerie  | f | à
farm        | 농장   | on | ferme        | f | à
lake        | 호수   | at | lac          | m | à
mountain    | 산     | on | montagne     | f | sur
station     | 역     | at | gare         | f | à
hospital    | 병원   | at | hôpital      | m | à
beach       | 바닷가 | on | plage        | f | à
kitchen     | 부엌   | in | cuisine      | f | dans
bridge      | 다리   | on | pont         | m | sur
hill        | 언덕   | on | colline      | f | sur
square      | 광장   | in | place        | f | sur
post office | 우체국 | at | poste        | f | à
shop        | 가게   | at | magasin      | m | à
"""


def _places() -> dict[str, Place]:
    table = {}
    for key, ko, at, fr, gender, fr_at in rows(_PLACES):
        the = f"the {key}"
        table[key] = Place(key, ko, f"{at} {the}", f"to {the}", f"from {the}", the, fr, gender, fr_at)
    home = table["home"]
    table["home"] = Place("home", home.ko, "at home", "home", "from home", "home", home.fr, home.gender, home.fr_at)
    return table


PLACES: dict[str, Place] = _places()


@dataclass(frozen=True, slots=True)
class Adjective:
    """A quality: the `kinds` of nouns that can have it; Korean before the noun, and the stem of the predicate."""

    key: str
    kinds: tuple[str, ...]
    ko: str
    ko_stem: str  # a conjugated stem, or a noun in -색 that takes the copula
    forms: tuple[str, str, str, str]  # French: masculine, feminine, and their plurals
    before: bool  # French: stands before the noun
    elided: str  # French: masculine before a vowel (vieil, nouvel)


# key | kinds | Korean attribute | predicate stem | French m | f | "before" | m before a vowel
_ADJECTIVES = """
red       | object fruit  | 빨간     | 빨간색   | rouge    | rouge      |        |
blue      | object        | 파란     | 파란색   | bleu     | bleue      |        |
yellow    | object fruit  | 노란     | 노란색   | jaune    | jaune      |        |
green     | object fruit  | 초록색   | 초록색   | vert     | verte      |        |
white     | object animal | 하얀     | 하얀색   | blanc    | blanche    |        |
black     | object animal | 검은     | 검은색   | noir     | noire      |        |
grey      | object animal | 회색     | 회색     | gris     | grise      |        |
pink      | object        | 분홍색   | 분홍색   | rose     | rose       |        |
big       | thing animal  | 큰       | 크       | grand    | grande     | before |
small     | thing animal  | 작은     | 작       | petit    | petite     | before |
old       | object        | 오래된   | 오래되   | vieux    | vieille    | before | vieil
pretty    | object animal | 예쁜     | 예쁘     | joli     | jolie      | before |
heavy     | object        | 무거운   | 무겁     | lourd    | lourde     |        |
fast      | animal        | 빠른     | 빠르     | rapide   | rapide     |        |
clever    | animal        | 똑똑한   | 똑똑하   | intelligent | intelligente | |
strange   | object animal | 이상한   | 이상하   | étrange  | étrange    |        |
warm      | hot           | 따뜻한   | 따뜻하   | chaud    | chaude     |        |
cold      | hot           | 차가운   | 차갑     | froid    | froide     |        |
delicious | food          | 맛있는   | 맛있     | délicieux | délicieuse |       |
"""


def _adjectives() -> dict[str, Adjective]:
    table = {}
    for key, kinds, ko, stem, masculine, feminine, before, elided in rows(_ADJECTIVES):
        plural = masculine if masculine[-1] in "sx" else masculine + "s"
        forms = (masculine, feminine, plural, feminine + "s")
        table[key] = Adjective(key, tuple(kinds.split()), ko, stem, forms, bool(before), elided or masculine)
    return table


ADJECTIVES: dict[str, Adjective] = _adjectives()
COLOURS: tuple[str, ...] = ("red", "blue", "yellow", "green", "white", "black", "grey", "pink")
FITTING: dict[str, tuple[str, ...]] = {  # noun -> the adjectives that it can have
    key: tuple(a.key for a in ADJECTIVES.values() if noun.kinds.intersection(a.kinds)) for key, noun in NOUNS.items()
}


@dataclass(frozen=True, slots=True)
class Feeling:
    """How a person is. French says some with `être` and an adjective, some with `avoir` and a noun (avoir faim)."""

    key: str
    ko_stem: str
    ko_honorific: str  # an own stem for elders (편찮으시), or empty
    en: str
    forms: tuple[str, str, str, str] | None  # French adjective: m, f, m plural, f plural
    noun: str  # French noun after `avoir`


# key | Korean stem | honorific stem | French m | f | French noun
_FEELINGS = """
happy   | 기쁘   |          | content | contente |
sad     | 슬프   |          | triste  | triste   |
tired   | 피곤하 |          | fatigué | fatiguée |
sick    | 아프   | 편찮으시 | malade  | malade   |
busy    | 바쁘   |          | occupé  | occupée  |
hungry  | 배고프 |          |         |          | faim
thirsty | 목마르 |          |         |          | soif
sleepy  | 졸리   |          |         |          | sommeil
"""


def _feelings() -> dict[str, Feeling]:
    table = {}
    for key, stem, honorific, masculine, feminine, noun in rows(_FEELINGS):
        forms = (masculine, feminine, masculine + "s", feminine + "s") if masculine else None
        table[key] = Feeling(key, stem, honorific, key, forms, noun)
    return table


FEELINGS: dict[str, Feeling] = _feelings()


@dataclass(frozen=True, slots=True)
class Time:
    """When: stands first in the sentence and fits one tense."""

    key: str
    tense: str
    ko: str
    en: str
    fr: str


# key | tense | Korean | English | French
_TIMES = """
yesterday     | past   | 어제       | Yesterday     | Hier
last night    | past   | 어젯밤에   | Last night    | La nuit dernière
this morning  | past   | 오늘 아침에 | This morning | Ce matin
then          | past   | 그다음에   | Then          | Ensuite
later         | past   | 나중에     | Later         | Plus tard
now           | now    | 지금       | Now           | Maintenant
every day     | habit  | 날마다     | Every day     | Tous les jours
every morning | habit  | 아침마다   | Every morning | Tous les matins
every evening | habit  | 저녁마다   | Every evening | Tous les soirs
often         | habit  | 자주       | Often         | Souvent
tomorrow      | future | 내일       | Tomorrow      | Demain
tonight       | future | 오늘 밤에  | Tonight       | Ce soir
soon          | future | 곧         | Soon          | Bientôt
"""
_DAYS = """
Monday | 월요일 | lundi
Tuesday | 화요일 | mardi
Wednesday | 수요일 | mercredi
Thursday | 목요일 | jeudi
Friday | 금요일 | vendredi
Saturday | 토요일 | samedi
Sunday | 일요일 | dimanche
"""
_SEASONS = """
spring | 봄 | Au printemps
summer | 여름 | En été
autumn | 가을 | En automne
winter | 겨울 | En hiver
"""

_NUMBERS = """
영 | 한 | 두 | 세 | 네 | 다섯 | 여섯 | 일곱 | 여덟 | 아홉 | 열 | 열한 | 열두
zero | one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
zéro | un | deux | trois | quatre | cinq | six | sept | huit | neuf | dix | onze | douze
"""
NUMBERS_KO, NUMBERS_EN, NUMBERS_FR = rows(_NUMBERS)  # before a counter: 사과 두 개


def _times() -> dict[str, Time]:
    table = {key: Time(key, tense, ko, en, fr) for key, tense, ko, en, fr in rows(_TIMES)}
    for key, ko, fr in rows(_DAYS):
        table[f"last {key}"] = Time(f"last {key}", "past", f"지난 {ko}에", f"Last {key}", f"{fr.capitalize()} dernier")
        table[f"every {key}"] = Time(f"every {key}", "habit", f"{ko}마다", f"Every {key}", f"Tous les {fr}s")
        table[f"next {key}"] = Time(
            f"next {key}", "future", f"다음 {ko}에", f"Next {key}", f"{fr.capitalize()} prochain"
        )
    for key, ko, fr in rows(_SEASONS):
        table[f"in {key}"] = Time(f"in {key}", "habit", f"{ko}에", f"In {key}", fr)
    for hour in range(1, 13):
        en, fr = NUMBERS_EN[hour], "une heure" if hour == 1 else f"{NUMBERS_FR[hour]} heures"
        table[f"{hour} h"] = Time(f"{hour} h", "past", f"{NUMBERS_KO[hour]} 시에", f"At {en} o'clock", f"À {fr}")
    return table


TIMES: dict[str, Time] = _times()


@dataclass(frozen=True, slots=True)
class Sky:
    """A kind of weather: Korean subject and stem; English and French by tense (past, now, future)."""

    key: str
    ko_subject: str
    ko_stem: str
    en: tuple[str, str, str]
    fr: tuple[str, str, str]


# key | Korean subject | stem | English past | now | future | French past | now | future
_WEATHER = """
rain   | 비가   | 오   | it rained        | it is raining    | it will rain         | il a plu         | il pleut         | il pleuvra
snow   | 눈이   | 오   | it snowed        | it is snowing    | it will snow         | il a neigé       | il neige         | il neigera
sunny  | 날씨가 | 맑   | it was sunny     | it is sunny      | it will be sunny     | il faisait beau  | il fait beau     | il fera beau
cold   | 날씨가 | 춥   | it was cold      | it is cold       | it will be cold      | il faisait froid | il fait froid    | il fera froid
hot    | 날씨가 | 덥   | it was hot       | it is hot        | it will be hot       | il faisait chaud | il fait chaud    | il fera chaud
windy  | 바람이 | 불   | it was windy     | it is windy      | it will be windy     | il y avait du vent | il y a du vent | il y aura du vent
cloudy | 날씨가 | 흐리 | it was cloudy    | it is cloudy     | it will be cloudy    | il y avait des nuages | il y a des nuages | il y aura des nuages
"""

WEATHER: dict[str, Sky] = {
    key: Sky(key, subject, stem, (e1, e2, e3), (f1, f2, f3))
    for key, subject, stem, e1, e2, e3, f1, f2, f3 in rows(_WEATHER)
}
