"""Short rows at first: the same tokens, half the sight, and a resumed run that knows where it was."""

import pytest
import torch
from tiny_run import PatternBatches, tiny_model

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, TrainConfig
from malmoi.train.layout import layout
from malmoi.train.loop import train
from malmoi.train.loss import cross_entropy
from malmoi.train.short_rows import shortened

SETTINGS = {"sequence_length": 16, "per_device_train_batch_size": 4, "max_steps": 10, "save_steps": 3, "num_threads": 1}


def config(**changes):
    return TrainConfig(**{**SETTINGS, **changes})


def test_rows_are_cut_while_it_lasts_and_nothing_is_lost():
    batch = PatternBatches().batch(0)
    for setting, last in ((0.3, 3), (5, 5), (0, 0)):
        lengths = [shortened([batch], i, config(short_rows_steps=setting), 10)[0].input_ids.shape[1] for i in range(10)]
        assert lengths == [8] * last + [16] * (10 - last)
    (cut,) = shortened([batch], 0, config(short_rows_steps=1), 10)
    assert cut.num_target_tokens == batch.num_target_tokens
    for name in ("input_ids", "labels", "position_ids", "document_ids"):
        assert torch.equal(getattr(cut, name).flatten(), getattr(batch, name).flatten())


def test_second_halves_do_not_see_the_first():
    model, batch = tiny_model().eval(), PatternBatches().batch(0)
    (cut,) = shortened([batch], 0, config(short_rows_steps=1), 10)
    with torch.no_grad():
        whole, _ = cross_entropy(model, batch)
        halves, count = cross_entropy(model, cut)
        changed = cut.input_ids.clone()
        changed[0] = (changed[0] + 1) % 32  # the first half of the first row
        before, after = (model.hidden_states(ids, position_ids=cut.position_ids) for ids in (cut.input_ids, changed))
    assert count == batch.num_target_tokens and whole != halves
    assert torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0])


def test_interrupted_is_straight_across_the_change(tmp_path):
    def run(folder, until=None, resume=False):
        model = tiny_model()
        for step in train(model, PatternBatches(), config(short_rows_steps=0.5), folder=folder, resume=resume):
            if step.step == until:
                break
        return model

    straight = run(tmp_path / "straight")
    run(tmp_path / "broken", until=4)
    resumed = run(tmp_path / "broken", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_pipeline_refuses_it():
    model, parallel = ModelConfig(num_hidden_layers=4, vocab_size=64), ParallelConfig(pipeline_parallel=2)
    settings = config(short_rows_steps=0.3, gradient_accumulation_steps=4)
    with pytest.raises(MalmoiError, match="short_rows_steps"):
        layout(parallel, 2, model, settings)
