"""A block is built from its record and adds to the stream."""

import torch

from malmoi.layers import Dense, Experts
from malmoi.model.attention import Sight
from malmoi.model.block import build_feed_forward
from malmoi.model.experts import Experts as ExpertsModule
from malmoi.model.feedforward import FeedForward
from small_models import build

DENSE = Dense(8, 12, "silu", gated=True, bias=False)


def test_records_become_modules():
    assert isinstance(build_feed_forward(DENSE), FeedForward)
    mixture = build_feed_forward(Experts(8, 3, 2, DENSE))
    assert isinstance(mixture, ExpertsModule)
    assert mixture.experts.up_proj.shape == (3, 12, 8)


def test_a_block_whose_outputs_are_zero_changes_nothing(ids):
    model = build("modern")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        stream = model.model.embed_tokens(ids)
        assert torch.equal(model.hidden_states(ids), model.model.norm(stream))


def test_norms_after_the_sums(ids):
    """GPT-1's order, written out: x = norm(x + f(x)) twice, and nothing after the last block."""
    model = build("gpt2", norm_placement="post", num_hidden_layers=1)
    block = model.model.layers[0]
    with torch.no_grad():
        T = ids.shape[1]
        stream = model.model.embed_tokens(ids) + model.model.embed_positions(torch.arange(T))
        sight = Sight(T, 0, [None], ids.device)
        stream = block.input_layernorm(stream + block.self_attn(stream, None, sight))
        stream = block.post_attention_layernorm(stream + block.mlp(stream))
        torch.testing.assert_close(model.hidden_states(ids), stream)
    assert not any(name.startswith("model.norm") for name in model.state_dict())
