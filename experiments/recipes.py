"""The named trainings of `jaxcnn train --recipe`, end to end on scikit-learn's handwritten digits.

The trainings themselves are in `jaxcnn.training.presets`: they come with the package, so that the command works where
there is no folder of experiments. The digits come with a package, and CIFAR-10, photographs and weights of ImageNet do
not. So this shows that each recipe runs from its first epoch to its test. It says nothing about the published figures
that the recipes aim at; they were not measured here. Options that the digits need are given beside --recipe, in
`RECIPES` below:

- cifar10-cnn: only the data differ.
- cifar10-resnet18: 6 instead of 200 epochs, with batches of 32 and a rate that is as much smaller, on 16x16 pixels.
- cifar10-speed: batches of 64, so that an epoch has 17 steps.
- imagenet-resnet50 and imagenet-resnet50-600: 4 epochs, with batches of 32 and a smaller rate, on 32x32 pixels.
- fine-tune: a ResNet-20, pretrained on the digits 0 to 4, learns the digits 5 to 9.

Writes experiments/results/recipes.json.

    python experiments/recipes.py                   # about 8 minutes on 2 CPU cores
    python experiments/recipes.py cifar10-speed     # some of them, whose results replace the older ones
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reports import read_report, write_report

from jaxcnn.training.presets import PRESETS

PRETRAINING = ["--model", "resnet20", "--data", "digits", "--classes", *"01234", "--epochs", "6"]
IMAGENET = [
    *("--data", "digits", "--test-data", "None", "--image-size", "32"),
    *("--epochs", "4", "--warmup-epochs", "1", "--batch-size", "32", "--learning-rate", "0.0125"),
]
RECIPES = {
    "cifar10-cnn": ["--data", "digits"],
    "cifar10-resnet18": [
        "--data",
        "digits",
        "--image-size",
        "16",
        "--epochs",
        "6",
        "--batch-size",
        "32",
        "--learning-rate",
        "0.025",
    ],
    "cifar10-speed": ["--data", "digits", "--batch-size", "64"],
    "imagenet-resnet50": IMAGENET,
    "imagenet-resnet50-600": [*IMAGENET, "--training-size", "24"],
    "fine-tune": ["--data", "digits", "--classes", *"56789", "--model", "resnet20"],
}
"""The options beside --recipe."""


def train(folder: Path, *words: str) -> dict[str, Any]:
    """Runs `jaxcnn train` in a separate process.

    Args:
      folder: the run folder, which it makes.
      *words: the options.

    Returns:
      The result of the run.
    """
    command = [sys.executable, "-m", "jaxcnn.cli", "train", *words, "--run-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "result.json").read_text())


def main(names: list[str]) -> None:
    """Runs trainings, prints their results and writes them.

    Args:
      names: names of `PRESETS`; all if empty.
    """
    results = read_report(__file__).get("recipes", {}) if names else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or PRESETS:
            more = []
            if name == "fine-tune":
                pretrained = Path(folder) / "pretrained"
                train(pretrained, *PRETRAINING)
                more = ["--init-from", str(pretrained)]
            result = train(Path(folder) / name, "--recipe", name, *RECIPES[name], *more)
            results[name] = {"options": RECIPES[name], **result}
            print(f"{name}: test accuracy {result['test_accuracy']:.2%} on {result['test_images']} digits")
    write_report(__file__, {"pretraining": PRETRAINING, "recipes": results})


if __name__ == "__main__":
    main(sys.argv[1:])
