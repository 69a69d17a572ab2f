"""The Village: the embedded corpus, a small consistent world told in Korean, English and French.

lexicon, verbs, people   the words and the villagers: tables
meaning                  what a sentence means, apart from any language
korean, english, french  three grammars that render one meaning as one sentence (hangul: Korean word forms)
held_out                 combinations that training never sees
scenes, episodes         drawing meanings; chains of them whose state is known
translation, stories, questions, arithmetic, dialogue   the tasks
tasks                    documents to learn from, examples to be examined on
world                    the tables as one inspectable thing, and the facts that always hold
"""

from malmoi.data.village.tasks import (
    DIRECTIONS,
    LANGUAGES,
    SPLITS,
    TASKS,
    WEIGHTS,
    Example,
    documents,
    examples,
    is_correct,
    labels,
)
from malmoi.data.village.world import describe, facts

__all__ = [
    "DIRECTIONS",
    "LANGUAGES",
    "SPLITS",
    "TASKS",
    "WEIGHTS",
    "Example",
    "describe",
    "documents",
    "examples",
    "facts",
    "is_correct",
    "labels",
]
