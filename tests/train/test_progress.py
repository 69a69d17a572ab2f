"""Counters that survive JSON, a fingerprint that sees every change of the data, settings that may not change."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from tiny_run import PatternBatches

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.progress import Progress, Step, check_same_run, fingerprint


def test_windows_are_means_and_begin_anew():
    progress = Progress()
    assert math.isnan(progress.take(progress.logged))
    for loss in (1.0, 2.0, 6.0):
        progress.add(loss)
    assert progress.take(progress.logged) == 3.0
    progress.add(5.0)
    assert progress.take(progress.logged) == 5.0
    assert progress.take(progress.evaluated) == 14 / 4


def test_progress_goes_through_json_exactly():
    progress = Progress(step=3, tokens=10**12, seconds=0.1 + 0.2)
    progress.add(1 / 3)
    assert Progress(**json.loads(json.dumps(asdict(progress)))) == progress


def test_the_weightiest_event_is_the_last():
    step = Step(1, 2, 0.5, 0.1, 1.0, 10, 5.0, 1.0, 0)
    assert step.event == ""
    assert Step(1, 2, 0.5, 0.1, 1.0, 10, 5.0, 1.0, 0, events=("evaluated", "saved")).event == "saved"


def test_data_without_a_fingerprint_are_hashed():
    class Bare:
        def __init__(self, inner):
            self.batch = inner.batch

    assert fingerprint(Bare(PatternBatches())) == fingerprint(Bare(PatternBatches()))
    assert fingerprint(Bare(PatternBatches())) != fingerprint(Bare(PatternBatches(seed=1)))
    assert fingerprint(Bare(PatternBatches())) != fingerprint(Bare(PatternBatches(rows=2)))


def test_data_may_bring_their_own():
    assert fingerprint(PatternBatches(seed=4)) == PatternBatches(seed=4).fingerprint


def saved(config, max_steps=50):
    return {
        "train": config.model_dump(mode="json"),
        "model": {"hidden_size": 8, "layer_types": ["full_attention"]},
        "data": "a" * 64,
        "max_steps": max_steps,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.5},
        {"seed": 1},
        {"max_minutes": 9.0},
        {"max_steps": 51},
        {"dtype": "float32"},
    ],
)
def test_a_changed_setting_is_named(change):
    config = TrainConfig(max_minutes=3)
    ((name, value),) = change.items()
    with pytest.raises(MalmoiError, match=rf"train\.{name} was .* and is {value!r} now") as caught:
        check_same_run(
            Path("run/checkpoint-5"), saved(config), config.replace(**change), saved(config)["model"], "a" * 64
        )
    assert "checkpoint-5" in str(caught.value)


def test_what_may_change():
    config = TrainConfig(max_minutes=3)
    state = saved(config)
    for now in (config, config.replace(save_steps=7, save_total_limit=9, num_threads=2), config.replace(max_steps=50)):
        check_same_run(Path("p"), state, now, state["model"], "a" * 64)


def test_a_changed_model_or_changed_data_are_named():
    config = TrainConfig()
    state = saved(config)
    with pytest.raises(MalmoiError, match=r"model\.hidden_size was 8 .* is 16 now"):
        check_same_run(Path("p"), state, config, {**state["model"], "hidden_size": 16}, "a" * 64)
    with pytest.raises(MalmoiError, match=r"data have changed .*aaaaaaaaaaaaaaaa then, bbbbbbbbbbbbbbbb now"):
        check_same_run(Path("p"), state, config, state["model"], "b" * 64)


def test_the_fingerprint_of_token_files_sees_text_shape_seed_and_weights(tmp_path):
    pytest.importorskip("malmoi.data.shards")
    from malmoi.data.batches import Batches
    from malmoi.data.corpus import Document
    from malmoi.data.mixture import Mixture, Part
    from malmoi.data.shards import build
    from malmoi.tokens.vocabulary import learn

    texts = [f"한때 {n} cats lived by the sea, and {n * 7} dogs. " * 3 for n in range(40)]
    tokenizer = learn(texts, 300)
    files = [
        build((Document(text=text) for text in chosen), tokenizer, tmp_path / name)
        for name, chosen in (("a", texts), ("b", texts), ("c", [*texts[:-1], texts[-1] + "!"]))
    ]
    one = fingerprint(Batches(files[0], 16, 2, seed=1))
    assert one == fingerprint(Batches(files[0], 16, 2, seed=1))
    assert one == fingerprint(Batches(files[0], 16, 2, seed=1, rank=1, world_size=2))
    moved = files[0].folder.rename(tmp_path / "moved")
    assert one == fingerprint(Batches(type(files[0]).open(moved), 16, 2, seed=1))
    others = [
        Batches(files[2], 16, 2, seed=1),
        Batches(files[0], 8, 2, seed=1),
        Batches(files[0], 16, 4, seed=1),
        Batches(files[0], 16, 2, seed=2),
        Batches(Mixture([Part(files[0].train, epochs=2)]), 16, 2, seed=1),
    ]
    assert len({one, *map(fingerprint, others)}) == 6


def test_a_setting_younger_than_the_checkpoint_counts_as_its_default():
    config = TrainConfig()
    state = saved(config)
    for name in ("spike_threshold", "track", "ema_decay"):
        del state["train"][name]
    check_same_run(Path("p"), state, config, state["model"], "a" * 64)
    with pytest.raises(MalmoiError, match=r"train\.ema_decay was 0\.0 .* is 0\.9 now"):
        check_same_run(Path("p"), state, config.replace(ema_decay=0.9), state["model"], "a" * 64)
