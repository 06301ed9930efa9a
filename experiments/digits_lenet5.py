"""LeNet-5 on handwritten digits: the numbers of the README.

Trains the default of `jaxcnn train` for seeds 0 to 4, each in a separate process, timed from its start to its end with
compilation; and for comparison a support vector machine (scikit-learn's SVC, C=10, on the 8x8 pixels) on the same
split. Writes experiments/results/digits_lenet5.json.

    python experiments/digits_lenet5.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from reports import write_report
from sklearn.svm import SVC

from jaxcnn import data

SEEDS = range(5)


def train(seed: int, folder: Path) -> dict[str, Any]:
    """Trains one seed in a separate process.

    Args:
      seed: seed of the run.
      folder: where to put the run.

    Returns:
      The run's result, and its seconds from the start of the process to its end.
    """
    run = folder / str(seed)
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "jaxcnn.cli", "train", "--seed", str(seed), "--run-dir", str(run)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - started
    result = json.loads((run / "result.json").read_text())
    config = json.loads((run / "config.json").read_text())
    return {"seed": seed, **result, "seconds": round(seconds, 1), "config": config}


def support_vector_machine() -> float:
    """Trains an SVC on the pixels of the same training set.

    Returns:
      Its accuracy on the same test set.
    """
    splits = data.split(data.digits(image_size=8))
    machine = SVC(C=10).fit(*_flat(splits["train"]))
    return float(machine.score(*_flat(splits["test"])))


def _flat(source: data.Source) -> tuple[np.ndarray, np.ndarray]:
    entries = data.in_memory(source).entries
    return entries["image"].reshape(len(source), -1), entries["label"]


def main() -> None:
    """Runs everything, prints a summary and writes the results."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(seed, Path(folder)) for seed in SEEDS]
    accuracies = [run["test_accuracy"] for run in runs]
    config = runs[0]["config"]
    results = {
        "model": "lenet5",
        "test_accuracy_mean": statistics.mean(accuracies),
        "test_accuracy_std": statistics.stdev(accuracies),
        "test_accuracy_min": min(accuracies),
        "test_accuracy_max": max(accuracies),
        "seconds_max": max(run["seconds"] for run in runs),
        "svc_test_accuracy": support_vector_machine(),
        "options": config["options"],
        "commit": config["commit"],
        "versions": config["versions"],
        "runs": [{name: value for name, value in run.items() if name != "config"} for run in runs],
    }
    write_report(__file__, results)
    print(
        f"test accuracy {results['test_accuracy_mean']:.4f} +- {results['test_accuracy_std']:.4f} "
        f"({results['test_accuracy_min']:.4f} to {results['test_accuracy_max']:.4f}, seeds 0-4); "
        f"SVC {results['svc_test_accuracy']:.4f}; slowest run {results['seconds_max']:.1f} s"
    )


if __name__ == "__main__":
    main()
