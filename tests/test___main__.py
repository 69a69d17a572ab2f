"""`python -m malmoi` is the same program as `malmoi`."""

import subprocess
import sys

import malmoi


def test_python_m_malmoi():
    said = subprocess.run([sys.executable, "-m", "malmoi", "--version"], capture_output=True, text=True)
    assert (said.returncode, said.stdout.strip()) == (0, f"malmoi {malmoi.__version__}"), said.stderr
