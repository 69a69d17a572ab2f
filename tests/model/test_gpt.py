"""The whole model: cached = uncached, alone = in a batch, documents apart, loss, seeds, limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from malmoi.config import MalmoiError, ModelConfig
from malmoi.model.cache import Cache
from malmoi.model.gpt import GPT4LMHeadModel
from small_models import BASE, KINDS, build

close = {"atol": 2e-5, "rtol": 1e-4}


def in_parts(model, ids, cuts, mask=None):
    """The logits of `ids`, read piece by piece through a cache."""
    cache, logits, start = Cache(capacity=3), [], 0
    for end in (*cuts, ids.shape[1]):
        piece = None if mask is None or start else mask[:, :end]  # later tokens are all real: no mask needed
        logits.append(model(ids[:, start:end], attention_mask=piece, cache=cache).logits)
        start = end
    assert cache.length == ids.shape[1]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("cuts", [(1,), (19,), (5, 6, 7, 15), tuple(range(1, 20))])
def test_cached_is_uncached(model, ids, cuts):
    with torch.no_grad():
        torch.testing.assert_close(in_parts(model, ids, cuts), model(ids).logits, **close)


@pytest.mark.parametrize("cuts", [(17,), (18, 19)])
def test_cached_is_uncached_with_left_padding(model, ids, left_padding, cuts):
    real = left_padding.bool()
    with torch.no_grad():
        whole = model(ids, attention_mask=left_padding).logits
        torch.testing.assert_close(in_parts(model, ids, cuts, left_padding)[real], whole[real], **close)


def test_a_mask_over_past_and_new_is_understood_too(model, ids, left_padding):
    with torch.no_grad():
        whole = model(ids, attention_mask=left_padding).logits
        cache = Cache()
        model(ids[:, :18], attention_mask=left_padding[:, :18], cache=cache)
        rest = model(ids[:, 18:], attention_mask=left_padding, cache=cache).logits
    torch.testing.assert_close(rest, whole[:, 18:], **close)


def test_alone_is_in_a_batch(model, ids, left_padding):
    with torch.no_grad():
        together = model(ids, attention_mask=left_padding).logits
        for row, length in enumerate((20, 13, 4)):
            alone = model(ids[row : row + 1, -length:]).logits
            torch.testing.assert_close(together[row : row + 1, -length:], alone, **close)


def test_padding_does_not_matter(model, ids, left_padding):
    other = torch.where(left_padding.bool(), ids, 0)
    with torch.no_grad():
        first, second = (model(x, attention_mask=left_padding).logits for x in (ids, other))
    torch.testing.assert_close(first[left_padding.bool()], second[left_padding.bool()], **close)
    assert first.isfinite().all()


def test_the_future_does_not_matter(model, ids):
    other = ids.clone()
    other[:, 12:] = (other[:, 12:] + 1) % BASE["vocab_size"]
    with torch.no_grad():
        before, after = model(ids).logits, model(other).logits
    torch.testing.assert_close(before[:, :12], after[:, :12], **close)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-3)


def test_documents_of_a_packed_row_do_not_see_each_other(model, ids):
    documents = torch.tensor([[0] * 6 + [1] * 9 + [2] * 5, [0] * 20, [4] + [5] * 19])
    with torch.no_grad():
        packed = model(ids, document_ids=documents).logits
        for row, start, end in ((0, 0, 6), (0, 6, 15), (0, 15, 20), (1, 0, 20), (2, 0, 1), (2, 1, 20)):
            alone = model(ids[row : row + 1, start:end]).logits
            torch.testing.assert_close(packed[row : row + 1, start:end], alone, **close)


def test_given_positions_are_used(model, ids):
    with torch.no_grad():
        plain = model(ids).logits
        same = model(ids, position_ids=torch.arange(20).expand(3, 20)).logits
        stretched = model(ids, position_ids=torch.arange(20).expand(3, 20) * 2).logits
    torch.testing.assert_close(plain, same, **close)
    assert not torch.allclose(plain, stretched, atol=1e-3)


def test_loss_is_the_mean_surprise_at_the_next_token(ids):
    model = build("modern")
    labels = ids.clone()
    labels[:, :5] = -100
    output = model(ids, labels=labels)
    surprise = -F.log_softmax(output.logits[:, 4:-1], -1).gather(-1, ids[:, 5:, None])
    torch.testing.assert_close(output.loss, surprise.mean(), **close)
    assert model(ids, labels=torch.full_like(ids, -100)).loss == 0


def test_a_new_model_is_as_surprised_as_a_guess(ids):
    loss = GPT4LMHeadModel(ModelConfig(**BASE))(ids, labels=ids).loss
    assert loss.item() == pytest.approx(math.log(BASE["vocab_size"]), rel=0.05)


def test_gradient_reaches_every_parameter(model, ids):
    model.train()
    model(ids, labels=ids).loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a table of positions learns only about places that occur
    assert still == []


def test_logits_to_keep(model, ids):
    with torch.no_grad():
        kept, whole = model(ids, logits_to_keep=2).logits, model(ids).logits
    assert kept.shape == (3, 2, BASE["vocab_size"])
    torch.testing.assert_close(kept, whole[:, -2:], **close)


def test_hidden_states_and_head_are_the_forward_pass(model, ids):
    with torch.no_grad():
        hidden = model.hidden_states(ids)
        assert hidden.shape == (3, 20, BASE["hidden_size"])
        assert torch.equal(model.lm_head(hidden), model(ids).logits)


def test_initialisation_is_a_function_of_the_seed():
    first, second, other = build("modern", 5), build("modern", 5), build("modern", 6)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dim() == 1 or not torch.equal(a, c), name


def test_initialisation_leaves_the_global_generator_alone():
    model = build("modern", 5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model.initialize(6)
    assert torch.equal(torch.rand(3), expected)


def test_initialisation_has_the_right_scale():
    model = GPT4LMHeadModel(
        ModelConfig(**BASE | {"hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 512})
    )
    block = model.model.layers[0]
    assert block.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.self_attn.o_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert block.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert (block.input_layernorm.weight == 1).all()


def test_tied_tables_are_one():
    tied, untied = build("modern"), build("untied")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


@pytest.mark.parametrize("kind", KINDS)
def test_works_in_bfloat16(kind, ids, left_padding):
    model = build(kind, initializer_range=0.05)
    with torch.no_grad():
        exact = model(ids, attention_mask=left_padding).logits
        coarse = model.to(torch.bfloat16)(ids, attention_mask=left_padding).logits
    assert coarse.dtype == torch.bfloat16
    assert (coarse - exact).abs().max() < 0.1 * exact.abs().max()


def test_dropout_is_for_training_only(ids):
    model = build("modern", embedding_dropout=0.2, attention_dropout=0.2, residual_dropout=0.2)
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["modern", "gpt2", "windows"])
def test_dense_models_are_one_graph_for_the_compiler(kind, ids):
    explained = torch._dynamo.explain(build(kind).hidden_states)(ids, document_ids=torch.arange(20).expand(3, 20) // 6)
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize("kind", ["modern", "gpt2"])
def test_beyond_the_context(kind):
    model, ids = build(kind), torch.zeros(1, 49, dtype=torch.long)
    model(ids[:, :48])
    with pytest.raises(MalmoiError, match="49 tokens are more than the model's context of 48"):
        model(ids)
    cache = Cache()
    model(ids[:, :48], cache=cache)
    with pytest.raises(MalmoiError, match="49 tokens are more"):
        model(ids[:, :1], cache=cache)
    assert cache.length == 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "at least one token"),
        ({"input_ids": torch.zeros(5, dtype=torch.long)}, r"shape \(batch, tokens\)"),
        ({"input_ids": torch.tensor([[0, 61]])}, "token id 61 is outside the model's range, 0 to 60"),
        ({"input_ids": torch.tensor([[0, -1]])}, "token id -1 is outside"),
        ({"input_ids": torch.tensor([[0, 1]]), "position_ids": torch.tensor([[0, 48]])}, "position 48 is outside"),
        ({"input_ids": torch.tensor([[0, 1]]), "attention_mask": torch.ones(1, 3)}, "attention_mask has shape"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    with pytest.raises(MalmoiError, match=message):
        build("modern")(**arguments)


def test_documents_cannot_be_continued_from_a_cache(ids):
    model, cache = build("modern"), Cache()
    model(ids, cache=cache)
    with pytest.raises(MalmoiError, match="packed rows"):
        model(ids, document_ids=ids, cache=cache)


def test_balance_loss_is_added_once_and_then_gone(ids):
    model = build("experts", router_aux_loss_coef=0.5)
    plain = model(ids, labels=ids).loss  # not training: text alone
    model.train()
    trained = model(ids, labels=ids).loss
    assert model.auxiliary_loss() is None
    model.hidden_states(ids)
    balance = model.auxiliary_loss()
    torch.testing.assert_close(trained, plain + balance, **close)
    assert balance >= 0.5  # coefficient times at least 1
