"""A small tokenizer and the texts that every test of this room uses."""

import pytest

from malmoi.tokens.tokenizer import GPT4Tokenizer
from malmoi.tokens.vocabulary import learn

KOREAN = [
    "옛날 옛적에 한 마을에 할머니가 고양이와 함께 살았습니다. 고양이는 할머니를 좋아했습니다.",
    "할머니는 아침마다 밥을 짓고, 고양이는 문 앞에서 할머니를 기다렸습니다.",
    "“오늘은 비가 오는구나.” 할머니가 말했습니다. 고양이는 야옹 하고 대답했습니다.",
    "마을 사람들은 말을 모아 사전을 만들었습니다. 그 사전의 이름은 말모이였습니다.",
]
ENGLISH = [
    "Once upon a time an old woman lived in a village with her cat. The cat liked the old woman.",
    "Every morning the old woman cooked rice, and the cat waited for her at the door.",
    "\"It's raining today,\" said the old woman. The cat answered: miaow! They've 1,234 words.",
    "The people of the village gathered words and made a dictionary. Its name was Malmoi.",
]
FRENCH = [
    "Il était une fois une vieille femme qui vivait dans un village avec son chat. Le chat aimait la vieille femme.",
    "Chaque matin, la vieille femme cuisait du riz, et le chat l'attendait devant la porte.",
    "« Il pleut aujourd'hui », dit la vieille femme. Où est l'été ? Ça va, répondit le chat.",
]
EMOJI = ["👨‍👩‍👧‍👦 🇰🇷🇫🇷🇬🇧 ❤️‍🔥 👋🏽 🏴󠁧󠁢󠁥󠁮󠁧󠁿 e\u0301 1️⃣", "🐈 🐈‍⬛ 😀😀😀"]
CODE = [
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n",
    "for (int i = 0; i < 10; ++i) {\n\tsum += i;\r\n}\n",
]
AWKWARD = ["", " ", "   \n\n  \t ", "\u00a0\u200b\ufeff", "한\u200d글", "각\u1100\u1161", "\x00\x07", "ﬀİß", "x" * 300]
TEXTS = [*KOREAN, *ENGLISH, *FRENCH, *EMOJI, *CODE, *AWKWARD]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def by_language() -> dict[str, list[str]]:
    return {"ko": KOREAN, "en": ENGLISH, "fr": FRENCH}


@pytest.fixture(scope="session")
def tokenizer() -> GPT4Tokenizer:
    return learn(TEXTS, 440)


@pytest.fixture(scope="session")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return path
