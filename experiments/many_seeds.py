"""LeNet-5 on digits for 16 seeds: `train_many` against 16 calls of `run`, timed with all compilation.

Both train the default recipe for fewer epochs, in one process each, and their figures are compared run by run. Writes
experiments/results/many_seeds.json.

    python experiments/many_seeds.py     # about 4 minutes on 2 CPU cores
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
from reports import write_report

from jaxcnn import data
from jaxcnn.models import lenet5
from jaxcnn.training import Recipe, Result, run, train_many

SEEDS = 16
RECIPE = Recipe(epochs=10)


def measured(results: list[Result], seconds: float) -> dict[str, Any]:
    """Describes runs.

    Args:
      results: their results.
      seconds: time of all of them.

    Returns:
      The seconds, and the figures of the test set.
    """
    return {
        "seconds": round(seconds, 1),
        "test_accuracy": [result.figures["test_accuracy"] for result in results],
        "test_loss": [result.figures["test_loss"] for result in results],
    }


def together() -> dict[str, Any]:
    """Trains all seeds as one program."""
    started = time.perf_counter()
    runs = train_many(lenet5(), data.digits(), RECIPE, seeds=SEEDS)
    return measured(list(runs.results), time.perf_counter() - started)


def alone() -> dict[str, Any]:
    """Trains one seed after the other."""
    started = time.perf_counter()
    results = [run(lenet5(), data.digits(), dataclasses.replace(RECIPE, seed=seed)) for seed in range(SEEDS)]
    return measured(results, time.perf_counter() - started)


def in_process(name: str) -> dict[str, Any]:
    """Measures a contestant in a process of its own.

    Args:
      name: "together" or "alone".

    Returns:
      What it returns.
    """
    done = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measures both, prints a summary and writes the results."""
    many, single = in_process("together"), in_process("alone")
    losses = [abs(a - b) for a, b in zip(many["test_loss"], single["test_loss"], strict=True)]
    results = {
        "model": "lenet5",
        "seeds": SEEDS,
        "epochs": RECIPE.epochs,
        "devices": [device.device_kind for device in jax.devices()],
        "together_seconds": many["seconds"],
        "alone_seconds": single["seconds"],
        "ratio": round(many["seconds"] / single["seconds"], 3),
        "largest_difference_of_test_loss": max(losses),
        "test_accuracy_mean": statistics.mean(many["test_accuracy"]),
        "test_accuracy_std": statistics.stdev(many["test_accuracy"]),
    }
    write_report(__file__, results)
    print(
        f"{SEEDS} seeds, {RECIPE.epochs} epochs: together {many['seconds']} s, alone {single['seconds']} s, ratio "
        f"{results['ratio']}; test losses differ by at most {max(losses):.1e}; test accuracy "
        f"{results['test_accuracy_mean']:.4f} +- {results['test_accuracy_std']:.4f}"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps({"together": together, "alone": alone}[sys.argv[1]]()))
    else:
        main()
