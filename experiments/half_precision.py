"""bfloat16 against float32 on CPU: ours and torch's (autocast, channels_last), all four in turns, of the standard set.

Each contestant runs in a separate process. Writes experiments/results/half_precision.json: milliseconds of a step (the
quartiles over the rounds), and the ratio of ours in bfloat16 to each of the others in the same round. Models that were
measured before are kept. Run nothing else on the machine.

    python experiments/half_precision.py                          the whole set
    python experiments/half_precision.py resnet18_cifar unet      some models
"""

import importlib.metadata
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from reports import read_report, write_report

from jaxcnn.benchmark.contest import WorkerProcess
from jaxcnn.benchmark.spec import Mode, Precision, Spec
from jaxcnn.benchmark.standard import STANDARD
from jaxcnn.models import catalog

ROUNDS = 7
ROUND_SECONDS = 0.5
CONTESTANTS: tuple[tuple[str, Precision], ...] = (
    ("jaxcnn", "bfloat16"),
    ("jaxcnn", "float32"),
    ("torch", "bfloat16"),
    ("torch", "float32"),
)


def measure(name: str, mode: Mode) -> dict[str, Any]:
    """Measures a model in turns.

    Args:
      name: its name in the standard set.
      mode: "train" or "infer".

    Returns:
      A row of the report.
    """
    model, image_shape = catalog.build(name), catalog.CATALOG[name].image_shape
    seconds: dict[str, list[float]] = {f"{who} {precision}": [] for who, precision in CONTESTANTS}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(WorkerProcess(Spec(who, model, image_shape, STANDARD[name], mode, precision)))
            for who, precision in CONTESTANTS
        ]
        for turn in range(ROUNDS + 1):
            turns = list(zip(seconds.values(), workers, strict=True))
            for times, worker in turns if turn % 2 else turns[::-1]:
                answer = worker.round(ROUND_SECONDS)
                # The first round warms up.
                if turn:
                    times.append(statistics.median(answer["samples"]))
    ours, *others = seconds
    return {
        "model": name,
        "mode": mode,
        "batch_size": STANDARD[name],
        "milliseconds": {who: _spread([1e3 * s for s in times], 1) for who, times in seconds.items()},
        "jaxcnn bfloat16 over": {
            who: _spread([a / b for a, b in zip(seconds[ours], seconds[who], strict=True)], 3) for who in others
        },
    }


def _spread(numbers: Sequence[float], digits: int) -> list[float]:
    """Returns the lower quartile, the median and the upper quartile."""
    return [round(number, digits) for number in statistics.quantiles(numbers, n=4)]


def main(names: Sequence[str]) -> None:
    """Measures models, prints them and adds them to the report.

    Args:
      names: names in the standard set; all if empty.
    """
    rows = {(row["model"], row["mode"]): row for row in read_report(__file__).get("rows", ())}
    for name in names or STANDARD:
        for mode in ("infer", "train"):
            row = rows[name, mode] = measure(name, mode)
            times = ", ".join(f"{who} {spread[1]:,.1f} ms" for who, spread in row["milliseconds"].items())
            ratios = ", ".join(f"{spread[1]:.2f} of {who}" for who, spread in row["jaxcnn bfloat16 over"].items())
            print(f"{name}, {mode}: {times}; {ratios}", flush=True)
            versions = {"torch": importlib.metadata.version("torch")}
            write_report(__file__, {**versions, "rounds": ROUNDS, "rows": list(rows.values())})


if __name__ == "__main__":
    main(sys.argv[1:])
