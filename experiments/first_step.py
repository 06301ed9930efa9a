"""Seconds from the start of a process to the end of its first training step: jaxcnn, torch and flax, in turns.

Each start is a fresh process, as in `jaxcnn bench`; jaxcnn starts a second time with the compiled programs that the
first process has kept. Writes the medians of all parts to experiments/results/first_step.json. Run nothing else on the
machine: the script records the load of others.

    python experiments/first_step.py                                about 5 minutes on 2 CPU cores
    python experiments/first_step.py --models mobilenet_v2 --add    keep the results of other models
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxcnn import benchmark, environment
from jaxcnn.benchmark.contest import WorkerProcess
from jaxcnn.benchmark.peers import OURS
from jaxcnn.benchmark.program import COLD_START
from jaxcnn.files import write_text
from jaxcnn.models import catalog

RESULTS = Path(__file__).parent / "results" / "first_step.json"
MODELS = ("resnet18_cifar", "mobilenet_v2", "convnext_tiny")
PEERS = ("torch", "flax")

Start = dict[str, float | None]


def main() -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--add", action="store_true")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text())["models"] if options.add and RESULTS.exists() else {}
    for name in options.models:
        with environment.OtherWork() as others:
            starts = measured(name, options.repeats)
        results[name] = {
            "batch_size": benchmark.STANDARD[name],
            "busy_cores": others.cores,
            "seconds": {label: medians(found) for label, found in starts.items()},
        }
        print(table(name, results[name]["seconds"]), flush=True)
        record = {
            "script": "experiments/first_step.py",
            "cpu": environment.processor(),
            "cores": environment.usable_cores(),
            "commit": environment.commit(),
            "versions": environment.versions("jax", "torch", "flax"),
            "models": results,
        }
        write_text(RESULTS, json.dumps(record, indent=1) + "\n")


def measured(name: str, repeats: int) -> dict[str, list[Start]]:
    """Starts all contestants in turns.

    Args:
      name: name of a model of the standard set.
      repeats: how often each one starts.

    Returns:
      The seconds of the parts of each start, by contestant.
    """
    model, image_shape = catalog.build(name), catalog.CATALOG[name].image_shape
    contest = benchmark.Contest(name, model, image_shape, benchmark.STANDARD[name])
    starts: dict[str, list[Start]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as programs:
            ours = replace(contest.spec(OURS), programs=programs)
            specs = {OURS: ours, f"{OURS}, kept programs": ours, **{peer: contest.spec(peer) for peer in PEERS}}
            for label, spec in specs.items():
                with WorkerProcess(spec) as worker:
                    starts.setdefault(label, []).append(worker.ready["cold_start"])
    return starts


def medians(starts: list[Start]) -> dict[str, Any]:
    """Returns the median of each part and of the sum."""
    parts = {part: [start[part] or 0.0 for start in starts] for part in COLD_START}
    sums = [sum(filter(None, start.values())) for start in starts]
    return {**{part: statistics.median(found) for part, found in parts.items()}, "sum": statistics.median(sums)}


def table(name: str, seconds: dict[str, dict[str, float]]) -> str:
    """Formats the seconds of a model."""
    lines = [f"{name:22}" + "".join(f"{part:>11}" for part in (*COLD_START, "sum"))]
    lines += [
        f"{label:22}" + "".join(f"{found[part]:11.2f}" for part in (*COLD_START, "sum"))
        for label, found in seconds.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
