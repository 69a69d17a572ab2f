"""The proofs hold for our models, and fail where something is wrong."""

import pytest
import torch
from tiny_run import PatternBatches, tiny_model

from malmoi.config import TrainConfig
from malmoi.train import proofs as subject
from malmoi.train.proofs import Proof, Subject, proofs

CONFIG = TrainConfig(sequence_length=16, per_device_train_batch_size=4, num_threads=1, ema_decay=0.9)


def about(tmp_path, **changes):
    held_out = [PatternBatches(seed=9).batch(0)]
    return Subject(lambda: tiny_model(**changes), PatternBatches(), held_out, CONFIG, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"residual_dropout": 0.1},
        {"num_experts": 4, "num_experts_per_tok": 2},
        {"position_embedding_type": "learned", "norm": "layer_norm", "feed_forward": "plain", "hidden_act": "gelu"},
    ],
    ids=["dropout", "experts", "gpt2"],
)
def test_every_promise_holds(tmp_path, monkeypatch, changes):
    monkeypatch.setattr("malmoi.train.record.plot", lambda folder: folder / "loss.png")
    if "position_embedding_type" in changes and "position_embedding_type" not in tiny_model().config.model_dump():
        changes = {name: value for name, value in changes.items() if name != "position_embedding_type"}
    found = list(proofs(about(tmp_path, **changes), steps=4))
    assert [proof.name for proof in found] == [name for name, _, _ in subject.PROOFS]
    assert all(proof.holds for proof in found), found
    assert all(proof.difference == 0 for proof in found if proof.allowed == 0)


def test_a_broken_promise_is_seen(tmp_path):
    drawn = iter(range(100))

    def another_each_time():
        return tiny_model(seed=next(drawn))

    given = about(tmp_path)
    wrong = Subject(another_each_time, given.batches, given.held_out, given.config, given.place)
    assert subject.accumulated(wrong, 2) > subject.ROUNDING
    assert not Proof("x", float("nan"), 1.0, 0.0).holds
    assert not Proof("x", 1e-9, 0.0, 0.0).holds
    assert subject._apart(torch.ones(2), torch.ones(3)) == float("inf")
