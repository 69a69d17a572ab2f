"""Two hundred blows (benchmarks/kill.py in small), or two minutes of them: every run ends as if there had been none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked from one parent")
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_a_straight_one():
    command = [sys.executable, str(SCRIPT), "--kills", "200", "--minutes", "2", "--no-results"]
    # In memory, where there is such a place: a slow disk would else take most of each blow's time.
    memory = Path("/dev/shm")
    place = {"TMPDIR": str(memory)} if os.access(memory, os.W_OK) else {}
    environment = {**os.environ, **place, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    blows = [int(number) for number in re.findall(r"^(\d+) blows", result.stdout, flags=re.MULTILINE)]
    assert blows and blows[-1] >= 20, result.stdout
