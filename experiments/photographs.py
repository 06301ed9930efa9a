"""The newcomer's path: a folder of 300 photographs, and the four commands of the README.

The photographs are crops of three pictures that come with scikit-image: brick, grass and gravel. Crops for training and
validation come from the upper three quarters of each, those of the test set from the rest, so that no pixel is in both.
It needs scikit-image. Writes experiments/results/photographs.json: the time of each command, and the accuracy on the 60
test photographs.

    python experiments/photographs.py               # about a minute on 2 CPU cores
    python experiments/photographs.py FOLDER        # only makes the photographs, in that folder
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data  # pyright: ignore[reportMissingImports]
from PIL import Image
from reports import write_report

CLASSES = ("brick", "grass", "gravel")
COUNTS = {"train": 80, "test": 20}
TRAINED_SHARE = 0.75
SIDES = (90, 120)
"""Least and largest height and width of a crop, in pixels."""

COMMANDS = (
    "train --model resnet20 --data photos --image-size 48 --augment crop-flip --run-dir runs/photos",
    "evaluate runs/photos",
    "predict runs/photos photo.jpg",
    "export runs/photos",
)
"""Those of the README."""


def write_photographs(folder: Path) -> None:
    """Writes the photographs into `folder`/train and `folder`/test, in a folder for each class.

    Args:
      folder: a new folder.
    """
    rng = np.random.default_rng(0)
    for name in CLASSES:
        whole = getattr(skimage.data, name)()
        border = round(TRAINED_SHARE * len(whole))
        for part, rows in (("train", whole[:border]), ("test", whole[border:])):
            target = folder / part / name
            target.mkdir(parents=True)
            for number in range(COUNTS[part]):
                height, width = rng.integers(*SIDES, 2, endpoint=True).tolist()
                top = int(rng.integers(rows.shape[0] - height, endpoint=True))
                left = int(rng.integers(rows.shape[1] - width, endpoint=True))
                crop = rows[top : top + height, left : left + width]
                Image.fromarray(crop).convert("RGB").save(target / f"{number:02}.jpg", quality=90)


def main() -> None:
    """Makes the photographs, runs the commands, and writes what they took and reached."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_photographs(folder / "photos")
        (folder / "photo.jpg").write_bytes((folder / "photos" / "test" / "grass" / "00.jpg").read_bytes())
        steps = []
        for command in COMMANDS:
            started = time.perf_counter()
            words = [sys.executable, "-m", "jaxcnn.cli", *command.split()]
            done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
            steps.append({"command": f"jaxcnn {command}", "seconds": round(time.perf_counter() - started, 1)})
            print(f"jaxcnn {command}: {steps[-1]['seconds']} s\n{done.stdout.strip().splitlines()[-1]}", flush=True)
        result = json.loads((folder / "runs" / "photos" / "result.json").read_text())
        written = sorted(file.name for file in (folder / "runs" / "photos").iterdir())
    report = {"classes": CLASSES, "photographs": COUNTS, "steps": steps, "result": result, "files": written}
    write_report(__file__, report)


if __name__ == "__main__":
    if sys.argv[1:]:
        write_photographs(Path(sys.argv[1]))
    else:
        main()
