"""MEASURING A MODEL: how well it predicts text (perplexity), how often it answers exactly (village)."""

from malmoi.evaluate.perplexity import bits_per_byte
from malmoi.evaluate.village import village_accuracy

__all__ = ["bits_per_byte", "village_accuracy"]
