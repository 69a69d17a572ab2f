"""A tiny model folder and tiny data sets, for the tests of the benchmarks."""

import json
from pathlib import Path
from typing import Any

from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.vocabulary import learn
from small_models import build

SENTENCES = [
    "옛날 옛적에 한 마을에 할머니가 고양이와 함께 살았습니다. 고양이는 할머니를 좋아했습니다.",
    "마을 사람들은 말을 모아 사전을 만들었습니다. 그 사전의 이름은 말모이였습니다.",
    "Once upon a time an old woman lived in a village with her cat. The cat liked the old woman.",
    "The people of the village gathered words and made a dictionary. Its name was Malmoi.",
    "Question: What did the cat like? Answer: The cat liked the old woman, and so did the people.",
    "Il était une fois une vieille femme qui vivait dans un village avec son chat.",
]
CONTEXT = 96


def model_folder(folder: Path, context: int = CONTEXT) -> Path:
    """A random model with visible preferences, and its tokenizer, as a folder that transformers opens too."""
    tokenizer = learn(SENTENCES * 2, 400)
    model: GPT4LMHeadModel = build("modern", vocab_size=400, max_position_embeddings=context, eos_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """Records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path


CHOICES = [
    {
        "question": f"What did the {who} like?",
        "choices": ["the cat", "the old woman of the village", "말"],
        "answer": i % 3,
    }
    for i, who in enumerate(("cat", "old woman", "people", "할머니", "dictionary", "village"))
]
# One record a task, of the shape that its file describes; several, so that examples can be shown.
DATA: dict[str, list[dict[str, Any]]] = {
    "arc_easy/test.jsonl": CHOICES,
    "arc_challenge/test.jsonl": CHOICES,
    "openbookqa/dev.jsonl": CHOICES[:3],
    "openbookqa/train.jsonl": CHOICES[3:],
    "piqa/valid.jsonl": CHOICES,
    "hellaswag/val.jsonl": [
        {"activity": "Words", "ctx": "The people gather words. then", "endings": ["they rest.", "그들"], "label": 0}
    ],
    "winogrande/dev.jsonl": [
        {"context_options": ["The cat saw the woman and the cat", "The cat saw the woman and she"]}
        | {"continuation": "said nothing.", "gold": gold}
        for gold in (0, 1)
    ],
    "blimp/all.jsonl": [{"good": "The cat likes her.", "bad": "The cat like her."}],
    "truthfulqa/eval.jsonl": [
        {"question": "What is Malmoi?", "best_answer": "A dictionary.", "best_incorrect_answer": "A cat."}
    ],
    "kobbq/eval.jsonl": [
        {"context": "할머니와 고양이가 있습니다.", "question": "누가 말합니까?"}
        | {"choices": ["할머니", "고양이", "알 수 없음"], "answer": "알 수 없음"}
    ],
    "klue/nli.jsonl": [{"premise": "고양이가 있다.", "hypothesis": "할머니가 있다.", "label": "neutral"}],
    "klue/sts.jsonl": [{"sentence1": "고양이가 있다.", "sentence2": "말이 있다.", "binary": 0}],
    "lambada/test.jsonl": [{"text": sentence.rstrip(".")} for sentence in SENTENCES],
    "bbh/all.jsonl": [{"input": "not ( True ) is", "target": "False"}],
    "gsm8k/test.jsonl": [{"question": "2 cats and 3 cats?", "answer": "2 + 3 = 5\n#### 5"}],
    "gsm8k/train.jsonl": [{"question": "2 cats and 2 cats?", "answer": "2 + 2 = 4\n#### 4"}] * 3,
}


def data_folder(folder: Path) -> Path:
    for name, records in DATA.items():
        write(folder / name, records)
    return folder
