"""A step that does not fit is the same step in pieces."""

import os
import subprocess
import sys

import pytest
import torch
from tiny_run import PatternBatches, tiny_model

from malmoi.config import TrainConfig
from malmoi.train.memory import OutOfMemoryInLearning, in_pieces, is_out_of_memory
from malmoi.train.optimizer import build
from malmoi.train.precision import Precision
from malmoi.train.step import optimizer_step


def test_pieces_hold_all_rows_once_and_count_their_targets():
    batches = [PatternBatches(rows=5).batch(index) for index in range(2)]
    assert in_pieces(batches, 1) == batches
    for pieces in (2, 3, 8):
        cut = in_pieces(batches, pieces)
        assert len(cut) == 2 * min(pieces, 5)
        for name in ("input_ids", "labels", "position_ids", "document_ids"):
            whole = torch.cat([getattr(batch, name) for batch in batches])
            assert torch.equal(torch.cat([getattr(piece, name) for piece in cut]), whole)
        assert sum(piece.num_target_tokens for piece in cut) == sum(batch.num_target_tokens for batch in batches)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_is_told_from_other_mistakes(error, is_memory):
    assert is_out_of_memory(error) == is_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("shapes")])
def test_a_step_that_broke_off_has_changed_nothing(dtype, error):
    """Also what a working copy in bfloat16 had gathered is gone: the next try is as if there had been none."""
    precision = Precision(dtype, dtype, "cpu")
    batches = [PatternBatches().batch(index) for index in range(2)]
    how = {"learning_rate_factor": 1.0, "max_grad_norm": 1.0, "precision": precision, "seed": 0, "step": 0}
    model, untouched = tiny_model(), tiny_model()
    optimizer = build(model, TrainConfig())

    class Torn:  # its second use finds no memory
        uses = 0

        def __getattr__(self, name):
            if name == "input_ids":
                raise error
            return getattr(batches[1], name)

    expected = OutOfMemoryInLearning if isinstance(error, MemoryError) else RuntimeError
    with pytest.raises(expected):
        optimizer_step(model, optimizer, [batches[0], Torn()], **how)
    for one, other in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other) and one.grad is None
    again = optimizer_step(model, optimizer, batches, **how)
    straight = optimizer_step(
        untouched, build(untouched, TrainConfig()), batches, **how | {"precision": Precision(dtype, dtype, "cpu")}
    )
    assert again == straight
    for one, other in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other)


REAL = """
import resource, sys
sys.path.insert(0, {here!r})
import torch
from tiny_run import PatternBatches, tiny_model
from malmoi.config import TrainConfig
from malmoi.train.loop import train
torch.set_num_threads(1)
model = tiny_model(hidden_size=64, num_attention_heads=4, max_position_embeddings=256)
config = TrainConfig(sequence_length=256, per_device_train_batch_size=256, max_steps=2, num_threads=1, dtype="float32",
                     eval_steps=100, memorization_samples=0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20), -1))
for step in train(model, PatternBatches(rows=256, length=256), config):
    print(step.events, step.message)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="an address-space limit is a thing of Linux")
def test_memory_that_really_runs_out(tmp_path):
    from pathlib import Path

    code = REAL.format(here=str(Path(__file__).parent))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "'halved'" in result.stdout and "Out of memory: from step 1 on" in result.stdout
    assert "Finished after 2 steps" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_is_freed_stays_with_the_process():
    """In a process of its own: the setting is for good."""
    probe = """
import torch
from pathlib import Path
from malmoi.train.memory import keep_memory
kept = keep_memory()
big = torch.ones(1 << 25)  # 128 MiB
del big
print(kept, int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""

    def after(environment):
        answer = subprocess.run(
            [sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment
        )
        kept, resident = answer.stdout.split()
        return kept == "True", int(resident)

    kept, with_heap = after(dict(os.environ))
    left_out, without = after({**os.environ, "MALMOI_KEEP_MEMORY": "0"})
    assert not left_out
    if kept:
        assert with_heap > without + (100 << 20)
