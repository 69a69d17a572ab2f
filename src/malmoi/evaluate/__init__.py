"""MEASURING A MODEL: how well it predicts text (perplexity), how often it answers exactly (village), and what it scores
in the questions of others (benchmarks, through harness: extra 'eval')."""

from malmoi.evaluate.perplexity import bits_per_byte
from malmoi.evaluate.village import village_accuracy

__all__ = ["bits_per_byte", "village_accuracy"]
