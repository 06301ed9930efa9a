"""Measures time and memory to load a published checkpoint: ResNet-50 from files of torch and safetensors.

The file has random weights under torchvision's names. `load_weights` reads it in separate processes. The first call,
which traces the shapes of the model, and a second call are timed separately. Memory is the largest anonymous resident
size during the first call, minus the size before it, compared with the size of the weights.

    python experiments/loading.py
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from reports import write_report

REPEATS = 5

_LOAD = """
import json, pathlib, re, sys, threading, time
import jax
from jaxcnn.interop.weights import load_weights
jax.block_until_ready(jax.numpy.zeros(3))
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
seen, done = [anonymous()], threading.Event()
def watch():
    while not done.wait(0.002):
        seen.append(anonymous())
watcher, seconds = threading.Thread(target=watch), []
for call in range(2):
    if call == 0:
        watcher.start()
    started = time.perf_counter()
    weights = load_weights("resnet50", sys.argv[1])
    jax.block_until_ready((weights.params, weights.state))
    seconds.append(time.perf_counter() - started)
    if call == 0:
        done.set()
        watcher.join()
    del weights
print(json.dumps({"first": seconds[0], "again": seconds[1], "added_mib": max(seen) - seen[0]}))
"""


def write_checkpoint(path: Path) -> float:
    """Writes a ResNet-50 with random weights.

    Args:
      path: file to write; its extension determines the format.

    Returns:
      The size of parameters and state in MiB.
    """
    import jax

    from jaxcnn.interop.weights import save_torch
    from jaxcnn.models import resnet50

    model = resnet50()
    params, state = model.init(jax.random.key(0))
    save_torch(path, model, params, state, architecture="torchvision/resnet50")
    return sum(leaf.nbytes for leaf in jax.tree.leaves((params, state))) / 2**20


def main() -> None:
    """Measures both formats, prints and writes the results."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".pth", ".safetensors"):
            path = Path(folder) / f"weights{ending}"
            size = write_checkpoint(path)
            runs = []
            for _ in range(REPEATS):
                command = [sys.executable, "-c", _LOAD, str(path)]
                runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            row = {"format": ending, "weights_mib": round(size, 1)}
            for what in ("first", "again", "added_mib"):
                values = [run[what] for run in runs]
                row |= {what: round(statistics.median(values), 3), f"{what}_range": [min(values), max(values)]}
            rows.append(row)
            print(
                f"{ending:13} first call {row['first']:.2f} s, again {row['again']:.2f} s, "
                f"{row['added_mib']:.0f} MiB more for {size:.0f} MiB of weights"
            )
    write_report(__file__, {"python": platform.python_version(), "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
