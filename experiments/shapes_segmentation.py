"""What `small_unet` learns of `jaxcnn.data.shapes` in about a minute on two cores, beside a threshold.

It trains with three seeds; `shapes_baseline.py` has the threshold. The seconds are those of the whole call, which
compiles, trains, validates and tests. Writes experiments/results/shapes_segmentation.json.

    python experiments/shapes_segmentation.py
"""

import dataclasses
import time

from reports import write_report

import jaxcnn
from jaxcnn import data
from jaxcnn.models import small_unet
from jaxcnn.tasks import Segmentation
from jaxcnn.training import Recipe

RECIPE = Recipe(epochs=9, batch_size=32, learning_rate=4e-3, augment="none")
SEEDS = (0, 1, 2)


def main() -> None:
    """Trains with each seed, prints the figures of the test set and writes them."""
    splits = data.shapes()
    class_names = splits["train"].class_names
    # The digits cover few pixels, and the dice loss counts each class alike.
    task = Segmentation(len(class_names), dice_weight=1.0)
    runs = []
    for seed in SEEDS:
        started = time.perf_counter()
        result = jaxcnn.train(
            small_unet(len(class_names), in_channels=3), splits, dataclasses.replace(RECIPE, seed=seed), task=task
        )
        seconds = time.perf_counter() - started
        runs.append(
            {
                "seed": seed,
                "seconds": round(seconds, 1),
                "miou": round(result.figures["test_mean_iou"], 4),
                "mean_dice": round(result.figures["test_mean_dice"], 4),
                "pixel_accuracy": round(result.figures["test_pixel_accuracy"], 4),
            }
        )
        print(f"seed {seed}: mIoU {runs[-1]['miou']:.3f} in {seconds:.0f} s")
    write_report(
        __file__, {"recipe": RECIPE.to_json(), "task": repr(task), "test_images": len(splits["test"]), "runs": runs}
    )


if __name__ == "__main__":
    main()
