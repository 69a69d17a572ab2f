"""A vocabulary that grows: nothing changes for the tokens that were there."""

import pytest
import torch

from malmoi.config import MalmoiError, ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.train.vocabulary import grow_vocabulary


def built(**changes) -> GPT4LMHeadModel:
    config = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **changes}
    return GPT4LMHeadModel(ModelConfig(**config)).eval()


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"ngram_sizes": (2,), "ngram_vocab_size": 32}])
def test_a_text_has_the_same_logits_whether_or_not_the_model_knows_more_tokens(changes):
    """What makes this the promise for pictures: their ids are such additional ones."""
    text, both = built(**changes), built(**changes)
    grow_vocabulary(both, 100, seed=3)
    ids = torch.arange(2, 40)[None]
    assert both(ids).logits.shape[-1] == 100
    assert torch.equal(both(ids).logits[..., :64], text(ids).logits)
    assert (both.lm_head.weight is both.model.embed_tokens.weight) == text.config.tie_word_embeddings
    again = built(**changes)
    grow_vocabulary(again, 100, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(both.parameters(), again.parameters(), strict=True))
    grow_vocabulary(again, 100)
    assert torch.equal(both(ids).logits, again(ids).logits)


def test_a_grown_model_learns_its_new_tokens_and_is_saved(tmp_path):
    model = built()
    grow_vocabulary(model, 100)
    model.train()
    ids = torch.tensor([[5, 99, 98, 99, 7]])
    model(ids, labels=ids).loss.backward()
    assert model.model.embed_tokens.weight.grad[99].abs().sum() > 0
    model.eval()
    model.save_pretrained(tmp_path / "model")
    opened = GPT4LMHeadModel.from_pretrained(tmp_path / "model")
    assert opened.config.vocab_size == 100
    assert torch.equal(opened(ids).logits, model(ids).logits)


def test_it_never_shrinks():
    with pytest.raises(MalmoiError, match="64 tokens; 10 would"):
        grow_vocabulary(built(), 10)
