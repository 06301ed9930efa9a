"""A small share of the fault campaign (experiments/faults.py)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "faults.py"


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="does not apply: the campaign mounts file systems of Linux")
@pytest.mark.parametrize("seed", range(4))
def test_a_disturbed_run_ends_as_the_undisturbed_one(seed):
    options = ["--moments", "4", "--each", "1", "--seconds", "45", "--seed", str(seed)]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [int(row[1]) for row in re.findall(r"^\| ([^|]+) \| (\d+) \|", done.stdout, re.MULTILINE)]
    assert sum(cases) >= 4
