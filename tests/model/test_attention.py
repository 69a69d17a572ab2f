"""Who may see whom, and what the heads gather, against formulas written out."""

import pytest
import torch

from malmoi.model.attention import Sight, pattern
from small_models import build

CPU = torch.device("cpu")


def test_without_limits_there_is_no_mask():
    assert Sight(5, 0, {None}, CPU).mask(None) is None
    assert Sight(1, 9, {None}, CPU).mask(None) is None
    assert Sight(5, 0, {7}, CPU).mask(7) is None  # the window reaches everywhere


def test_several_new_tokens_after_a_past():
    visible = Sight(2, 3, {None}, CPU).mask(None)
    assert visible[0, 0].tolist() == [[True] * 4 + [False], [True] * 5]


def test_a_window_counts_the_token_itself():
    visible = Sight(4, 0, {2}, CPU).mask(2)
    assert visible[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_documents_and_padding():
    documents = torch.tensor([[3, 3, 4]])
    visible = Sight(3, 0, {None}, CPU, document_ids=documents).mask(None)
    assert visible[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    visible = Sight(3, 0, {None}, CPU, real=torch.tensor([[False, True, True]])).mask(None)
    assert visible[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]  # padding sees itself, nobody sees it


def test_the_additive_mask_is_the_boolean_one():
    sight = Sight(4, 0, {2, None}, CPU)
    for window in (2, None):
        assert torch.equal(sight.additive(window, torch.float32) == 0, sight.matrix(window))
    assert sight.additive(2, torch.float32).min() == float("-inf")


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_the_pattern_is_the_softmax_of_scaled_products(key_value_heads):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 4, 3, 8, generator=generator)
    keys = torch.randn(2, key_value_heads, 5, 8, generator=generator)
    visible = torch.ones(3, 5, dtype=torch.bool).tril(2)
    weights = pattern(queries, keys, visible)
    for head in range(4):
        scores = queries[:, head] @ keys[:, head * key_value_heads // 4].mT / 8**0.5
        expected = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        torch.testing.assert_close(weights[:, head], expected)


@pytest.mark.parametrize("kind", ["modern", "gpt2", "untied"])
def test_training_and_reading_agree(kind, ids):
    """With gradients other code may run than without; the numbers must be the same."""
    model = build(kind).train()
    documents = torch.arange(20).expand(3, 20) // 7
    trained = model(ids, document_ids=documents).logits
    with torch.no_grad():
        read = model(ids, document_ids=documents).logits
    torch.testing.assert_close(trained, read, atol=2e-5, rtol=1e-4)
