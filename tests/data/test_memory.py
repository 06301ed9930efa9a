"""Streams need no more memory from epoch to epoch."""

import subprocess
import sys

import pytest

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

SCRIPT = """
import gc, re, sys
from pathlib import Path
from jaxcnn.benchmark.loading import photographs
from jaxcnn.data import Batches
from jaxcnn.data.prefetch import ahead

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

workload = photographs(Path(sys.argv[1]), count=40, batch_size=8)
batches = Batches(workload.source, workload.batch_size, seed=0, prepare=workload.prepare, workers=3)
after = []
for epoch in range(12):
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    assert sum(len(batch["image"]) for batch in ahead(batches.at(steps), 2)) == 40
    gc.collect()
    after.append(resident())
print(*after)
"""


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="does not apply: memory is read from /proc")
def test_ten_epochs_of_a_stream_leave_memory_flat(tmp_path):
    """All batches of an epoch are 6 MB: a stream that kept them would grow by 60 MB."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, check=True)
    after = [float(size) for size in done.stdout.split()]
    assert len(after) == 12
    assert max(after[2:]) - after[1] < 12, after
