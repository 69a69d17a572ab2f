"""Figures that the pages quote are those that the scripts have written."""

import json
import re
import statistics
from pathlib import Path

import pytest

from malmoi.cli.quickstart import MOST_MINUTES, TOKENS

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = json.loads((DOCS / "results" / "images.json").read_text(encoding="utf-8"))
QUICKSTART = json.loads((DOCS / "results" / "quickstart.json").read_text(encoding="utf-8"))
TRAIN = json.loads((DOCS / "results" / "train.json").read_text(encoding="utf-8"))


def hundredths(rows):
    """The smallest and the largest share of some rows, in whole hundredths."""
    shares = [round(100 * row["exact"]) for row in rows]
    return min(shares), max(shares)


def digits():
    digits = IMAGES["mnist"]
    read, drawn = hundredths(digits["reading"]), hundredths(digits["drawing"])
    by = {(row["guidance_scale"], row["temperature"]): row for row in digits["drawing_by_settings"]}
    guided = hundredths([row for (guidance, _), row in by.items() if guidance > 1])
    plain, colder = (round(100 * by[1.0, temperature]["exact"]) for temperature in (1.0, 0.8))
    assert read[0] == read[1]
    assert digits["run"]["parameters"] < 1e6
    return read[0], *drawn, plain, colder, *guided


def emoji():
    def spread(which, key):
        return hundredths([row[key] for row in IMAGES["emoji"]["naming"][which]])

    return *spread("trained", "exact"), *spread("trained", "keyword"), *spread("held_out", "keyword")


def scenes():
    return (round(100 * IMAGES["scenes"]["through_the_image_tokenizer"]["exact"]),)


def ways_in():
    def share(way, which, key):
        rows = IMAGES["ways_in"][way]["naming"][which]
        return round(100 * sum(row[key]["exact"] for row in rows) / len(rows))

    learned = [share(way, "trained", key) for way in ("codes", "features") for key in ("exact", "keyword")]
    return *learned, share("codes", "held_out", "keyword"), share("features", "held_out", "keyword")


def quickstart():
    """Tokens (ten thousands), minutes they take where the processor has bfloat16, most minutes."""
    runs = QUICKSTART["bfloat16"]["runs"]
    pace = statistics.mean(run["tokens"] / run["train_seconds"] for run in runs)
    return f"{TOKENS / 1e4:g}", f"{TOKENS / pace / 60:.0f}", f"{MOST_MINUTES:g}"


def quickstart_in_words():
    tokens, minutes, most = quickstart()
    words = {"3": "three", "6": "six"}
    return int(tokens) / 100, words[minutes], words[most]


def nano_turns(part, settings):
    """The turns of some of nano's runs, which one machine has made."""
    (measured,) = (found["measured"][part] for found in TRAIN.values() if part in found["measured"])
    return measured[settings].values()


def nats(part, settings):
    return statistics.mean(turn["nats"] for turn in nano_turns(part, settings))


def nano():
    """What nano's rates and momentum are worth beside the larger sizes', and its momentum alone: nats a token."""

    def gain(part, settings):
        return f"{nats(part, 'rates 0.003 and 0.02, momentum 0.95') - nats(part, settings):.3f}"

    languages = "dial nano, 1,000 steps", "dial nano, Korean, 1,000 steps"
    settings = "rates 0.006 and 0.03, momentum 0.9", "rates 0.003 and 0.02, momentum 0.9"
    return [gain(part, each) for each in settings for part in languages]


def steps_and_decay():
    """Half as much text in a step: what it loses in nats, and how many times as long it takes; and a longer decay."""
    batch, decay = "batch nano, 1,000 steps", "decay nano, 1,000 steps"

    def cost(settings):
        return statistics.mean(turn["core_seconds"] / turn["tokens"] for turn in nano_turns(batch, settings))

    behind = nats(batch, "1,024 tokens") - nats(batch, "2,048 tokens")
    ahead = nats(decay, "the last 40%") - nats(decay, "the last 80%")
    return f"{behind:.3f}", f"{cost('1,024 tokens') / cost('2,048 tokens'):.2f}", f"{ahead:.3f}"


QUOTED = {
    "training.md": [
        (
            "they win {} nats a token over three seeds of English books and {} with one of Korean text; of that the "
            "momentum alone is {} and {}.",
            nano,
        ),
        (
            "steps of 1,024 tokens are {} nats a token behind the dial's 2,048, and cost {} times as much time. A rate "
            'that falls during the last 80 % of the run instead of the last 40 % ("When the rate begins to fall", '
            "`python benchmarks/train.py decay`) is {} nats ahead.",
            steps_and_decay,
        ),
    ],
    "training.ko.md": [
        (
            "영어 책은 씨앗 셋에서 토큰마다 {} nat, 한국어 글은 씨앗 하나에서 {} nat을 얻습니다. "
            "그 가운데 모멘텀만으로 얻는 것이 {}와 {}입니다.",
            nano,
        ),
        (
            "한 걸음에 1,024토큰이면 다이얼의 2,048토큰보다 토큰마다 {} nat 뒤지고 시간은 {}배 듭니다. 학습률을 마지막 "
            '40%가 아니라 마지막 80% 동안 내리면(표 "When the rate begins to fall", `python benchmarks/train.py '
            "decay`) {} nat을 더 얻습니다.",
            steps_and_decay,
        ),
    ],
    "seeing.md": [
        (
            "a model that read codes named {} of 100 of the emoji that it had learned from exactly and found a keyword "
            "for {}, one that read features {} and {}. Of emoji never seen both found a keyword for {} and {} of 100",
            ways_in,
        ),
    ],
    "seeing.ko.md": [
        (
            "100개 가운데 {}개의 이름을 똑같이 말하고 {}개에서 핵심 낱말을 맞혔으며, "
            "특징으로 읽은 모델은 {}개와 {}개였습니다. 처음 보는 이모지에서는 둘이 100개 가운데 {}개와 {}개에서",
            ways_in,
        ),
    ],
    "pictures.md": [
        (
            "reads {} of 100 digits that it never saw and draws {} to {} of 100 as asked. Guidance helps drawing most: "
            "without it {} of 100 are right, a little colder {}, with it {} to {}",
            digits,
        ),
        (
            "a model names {} to {} of 100 exactly and finds a keyword for {} to {}; of emoji that it never saw, a "
            "keyword for {} to {}",
            emoji,
        ),
        ("Scenes come back exactly right {} times in 100", scenes),
    ],
    "../README.md": [
        (
            "Training ends when {} million tokens are read, which takes {} minutes on two cores that compute in "
            "bfloat16, or after about {} minutes.",
            quickstart_in_words,
        ),
    ],
    "../README.ko.md": [
        (
            "훈련은 {}만 토큰을 읽거나(bfloat16으로 계산하는 코어 둘이면 {}분) {}분쯤 지나면 끝납니다.",
            quickstart,
        ),
    ],
    "pictures.ko.md": [
        (
            "숫자를 100개 가운데 {}개 읽고, 그려 달라는 숫자를 100개 가운데 {}~{}개 제대로 그려요. "
            "그리기에는 안내가 가장 크게 도와요. 안내 없이는 {}개, 온도를 조금 낮추면 {}개, 안내가 있으면 {}~{}개가",
            digits,
        ),
        (
            "100개에 {}~{}개의 이름을 똑같이 말하고 {}~{}개에서 핵심 낱말을 맞히며, 처음 보는 이모지에서는 {}~{}개에서",
            emoji,
        ),
        ("100번 가운데 {}번 그대로 돌아와요", scenes),
    ],
}


@pytest.mark.parametrize(
    ("page", "sentence", "found"), [(page, *each) for page, quotes in QUOTED.items() for each in quotes]
)
def test_a_quoted_figure_is_the_measured_one(page, sentence, found):
    text = re.sub(r"\s+", " ", (DOCS / page).read_text(encoding="utf-8"))
    assert sentence.format(*found()) in text
