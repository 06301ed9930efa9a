"""A small detector learns `jaxcnn.data.digit_scenes` on two cores, and draws what it finds.

The model is a RetinaNet of two levels, narrow enough for a CPU. It sees each of 16,000 scenes once: `digit_scenes`
draws 2,000 for each seed. The seconds are those of the training, with compilation and validation, and those of drawing
the scenes. COCO's figures are those of the 400 scenes for validation and of the 400 for the test, whose digits and
parts of the photographs are not those of training. Writes experiments/results/digit_scenes_detection.json and
docs/digit_scenes_detection.png; needs `.[cli,detection]`.

    python experiments/digit_scenes_detection.py    # 136 s on 2 CPU cores, one of which was not idle
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from reports import write_report

import jaxcnn
from jaxcnn import data, evaluation, plots
from jaxcnn.layers import Backbone, BatchNorm, Sequential
from jaxcnn.models.blocks import conv_norm, relu
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.retinanet import RetinaNet, retinanet_head
from jaxcnn.tasks import Detection
from jaxcnn.training import Recipe, make_predict_step, predict
from jaxcnn.types import Layer

SIZE = 64
SEEDS = range(8)
RECIPE = Recipe(
    epochs=1, batch_size=32, optimizer="muon", learning_rate=0.01, warmup_epochs=0.05, augment="none", seed=0
)
DRAWN = 3
PICTURE = Path(__file__).parents[1] / "docs" / "digit_scenes_detection.png"


def detector(width: int = 64, channels: int = 48) -> RetinaNet:
    """Builds a RetinaNet with strides 4 and 8 for digits of 8 to 24 pixels.

    Args:
      width: channels of the first stage; the second has twice as many.
      channels: channels of the levels and of the head.
    """

    def block(in_channels: int, out_channels: int, strides: int, size: int = 3) -> Layer:
        options: Any = {"norm": BatchNorm, "activation": relu}
        return conv_norm(in_channels, out_channels, size, strides, padding=size // 2, **options)

    body = Sequential(
        stem=block(3, width // 2, 2, 5),
        stage1=Sequential(block0=block(width // 2, width, 2), block1=block(width, width, 1)),
        stage2=Sequential(block0=block(width, 2 * width, 2), block1=block(2 * width, 2 * width, 1)),
    )
    return RetinaNet(
        Backbone(body, at=["stage1", "stage2"]),
        feature_pyramid((width, 2 * width), channels, norm=BatchNorm),
        # Norms, because a head with kernels as small as the paper's learns little in 500 steps without them.
        retinanet_head(10, channels, anchors=2, depth=1, norm=BatchNorm),
        anchor_sizes=((11.0,), (18.0,)),
        # Digits are taller than wide.
        aspect_ratios=(1.3, 2.2),
    )


def scenes() -> dict[str, Any]:
    """Draws the training scenes of all seeds; validation and test are those of the first seed."""
    first = data.digit_scenes(SIZE, seed=SEEDS[0])
    examples = [
        part[k] for part in (data.digit_scenes(SIZE, seed=seed)["train"] for seed in SEEDS) for k in range(2000)
    ]
    arrays = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    return {**first, "train": data.arrays(class_names=first["test"].class_names, **arrays)}


def found_in(task: Detection, result: Any, model: Layer, source: data.Source) -> dict[str, np.ndarray]:
    """Finds the objects of all scenes of a source."""
    step = make_predict_step(model, task)
    found = predict(step, result.params, result.state, data.eval_batches(source, 50))
    return {name: np.asarray(array)[: len(source)] for name, array in found.items()}


def coco_shares(task: Detection, result: Any, model: Layer, source: data.Source) -> dict[str, float]:
    """Computes COCO's figures of boxes."""
    results = evaluation.coco_results(source, found_in(task, result, model, source))
    figures = evaluation.coco_figures(evaluation.coco_annotations(source), results).figures
    return {name: round(figures[name], 4) for name in ("AP", "AP50", "AP75", "AR100")}


def draw(found: Mapping[str, np.ndarray], test: data.Source) -> None:
    """Draws the first scenes with several digits."""
    places = [k for k in range(len(test)) if test[k]["valid"].sum() > 2][:DRAWN]
    drawn = [test[k] for k in places]
    figure = plots.detections(
        [one["image"].astype(np.float32) / 255 for one in drawn],
        [{name: array[k] for name, array in found.items()} for k in places],
        test.class_names,
        objects=drawn,
        subtitle="scenes of the test set",
    )
    figure.set_dpi(70)
    plots.save(figure, PICTURE)


def main() -> None:
    """Trains, computes the figures, draws some test scenes and writes both."""
    started = time.perf_counter()
    model, splits = detector(), scenes()
    task = model.task((SIZE, SIZE), alpha=0.5, gamma=1.5)
    drawing = time.perf_counter() - started
    result = jaxcnn.train(model, splits, RECIPE, task=task)
    seconds = time.perf_counter() - started
    coco = {name: coco_shares(task, result, model, splits[name]) for name in ("validation", "test")}
    print(f"AP {coco['test']['AP']:.1%}, AP50 {coco['test']['AP50']:.1%} in {seconds:.0f} s")
    # A digit that resembles two classes has one box in the picture.
    draw(found_in(dataclasses.replace(task, agnostic=True), result, model, splits["test"]), splits["test"])
    write_report(
        __file__,
        {
            "recipe": RECIPE.to_json(),
            "model": repr(model),
            "task": repr(task),
            "training_scenes": len(splits["train"]),
            "test_scenes": len(splits["test"]),
            "seconds": {"scenes": round(drawing, 1), "training": round(seconds - drawing, 1)},
            "coco": coco,
        },
    )


if __name__ == "__main__":
    main()
