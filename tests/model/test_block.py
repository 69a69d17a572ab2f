"""A block is built from its record and adds to the stream."""

import torch

from malmoi.layers import Dense, Experts
from malmoi.model.block import build_feed_forward
from malmoi.model.experts import Experts as ExpertsModule
from malmoi.model.feedforward import FeedForward
from small_models import build

DENSE = Dense(8, 12, "silu", gated=True, bias=False)


def test_records_become_modules():
    assert isinstance(build_feed_forward(DENSE), FeedForward)
    mixture = build_feed_forward(Experts(8, 3, 2, DENSE))
    assert isinstance(mixture, ExpertsModule)
    assert len(mixture.experts) == 3


def test_a_block_whose_outputs_are_zero_changes_nothing(ids):
    model = build("modern")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        stream = model.model.embed_tokens(ids)
        assert torch.equal(model.hidden_states(ids), model.model.norm(stream))
