"""Several processes on this computer for a test: each runs one function of a test module, and none may hang.

    results = together(4, "test_parallel", "train_some", {"parallel": {...}})

The function gets the settings as a dictionary and returns what JSON can hold; the results come back in order of rank.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT = 500  # seconds; on two slow cores four processes take three minutes

RUN = """
import importlib, json, os, sys
sys.path.insert(0, {here!r})
import torch
import torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + {store!r}, rank={rank}, world_size={size})
function = getattr(importlib.import_module({module!r}), {function!r})
for settings in json.loads({settings!r}):
    result = function(settings)
    with open({out!r}, "a") as file:
        file.write(json.dumps(result) + chr(10))
dist.destroy_process_group()
"""


def together(size, module, function, *settings):
    """Run `module.function(settings)` in `size` processes, once for each settings: a list of lists, one a process."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"out-{rank}" for rank in range(size)]
        logs = [(Path(folder) / f"log-{rank}").open("w+") for rank in range(size)]
        crew = []
        for rank in range(size):
            code = RUN.format(
                here=str(HERE),
                store=str(Path(folder) / "store"),
                rank=rank,
                size=size,
                module=module,
                function=function,
                settings=json.dumps(list(settings)),
                out=str(outs[rank]),
            )
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
            crew.append(
                subprocess.Popen([sys.executable, "-c", code], stdout=logs[rank], stderr=logs[rank], env=environment)
            )
        try:
            for process in crew:
                process.wait(timeout=TIMEOUT)
                if process.returncode:
                    break
        except subprocess.TimeoutExpired:
            pass
        finally:
            for process in crew:
                process.kill()
                process.wait()
        said = []
        for log in logs:
            log.seek(0)
            said.append(log.read())
            log.close()
        assert all(process.returncode == 0 for process in crew), "\n-----\n".join(text[-3000:] for text in said)
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
