"""Several processes on this computer for a test: each runs one function of a test module, and none may hang.

    results = together(4, "test_parallel", "train_some", {"parallel": {...}})

The function gets the settings as a dictionary and returns what JSON can hold; the results come back in order of rank.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT = 500  # seconds; on two slow cores four processes take minutes

# One process imports what all need, then becomes all of them: imports are most of what a small crew does.
RUN = """
import importlib, json, os, sys
sys.path.insert(0, {here!r})
import torch
import torch._dynamo  # two seconds, which the first DTensor of each process would take
import torch.distributed as dist
import malmoi.train.cluster, malmoi.train.parallel, malmoi.train.sharded_checkpoint, malmoi.train.sharded_optimizer
torch.set_num_threads(1)
function = getattr(importlib.import_module({module!r}), {function!r})

def work(rank):
    log = os.open(os.path.join({folder!r}, "log-" + str(rank)), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    dist.init_process_group("gloo", init_method="file://" + {store!r}, rank=rank, world_size={size})
    for settings in json.loads({settings!r}):
        result = function(settings)
        with open(os.path.join({folder!r}, "out-" + str(rank)), "a") as file:
            file.write(json.dumps(result) + chr(10))
    dist.destroy_process_group()

for rank in range({size}):
    if not os.fork():
        work(rank)
        sys.exit()
for _ in range({size}):
    _, status = os.wait()
    if status:
        sys.exit(1)
"""


def together(size, module, function, *settings):
    """Run `module.function(settings)` in `size` processes, once for each settings: a list of lists, one a process."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with tempfile.TemporaryDirectory() as folder:
        outs, logs = ([Path(folder) / f"{name}-{rank}" for rank in range(size)] for name in ("out", "log"))
        code = RUN.format(
            here=str(HERE),
            folder=folder,
            store=str(Path(folder) / "store"),
            size=size,
            module=module,
            function=function,
            settings=json.dumps(list(settings)),
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with (Path(folder) / "log").open("w") as log:
            parent = subprocess.Popen(
                [sys.executable, "-c", code], stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                parent.wait(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(parent.pid, signal.SIGKILL)  # none of them outlives the test
                parent.wait()
        said = [path.read_text(errors="replace")[-3000:] for path in (Path(folder) / "log", *logs) if path.is_file()]
        assert parent.returncode == 0, "\n-----\n".join(said)
        return [[json.loads(line) for line in out.read_text().splitlines()] for out in outs]


@contextmanager
def a_job_of_one(folder):
    """Within this context the test's own process is a whole job."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
