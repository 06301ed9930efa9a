"""What augmentation adds to a training step: the recipe of CIFAR to a ResNet-18, that of ImageNet to a ResNet-50.

Steps with and without augmentation take turns, on the same batch; every second round, the other one comes first. A
share is the time added, divided by the time of the step without it. It is given of the time that passes, and of the
processor time of all threads, to which other programs add little. Every augmentation by name is also measured alone,
compiled by itself. Writes experiments/results/augmentation_cost.json.

    python experiments/augmentation_cost.py                      # about 6 minutes on 2 CPU cores
    python experiments/augmentation_cost.py resnet18_cifar       # one model, whose results replace the older ones
"""

import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reports import read_report, write_report

from jaxcnn.benchmark.spread import spread
from jaxcnn.data import parse_augment
from jaxcnn.models import catalog
from jaxcnn.training import init_train_state, make_train_step

ROUNDS = 24


class Seconds(NamedTuple):
    """What a step or an augmentation takes.

    Attributes:
      passed: seconds that pass.
      processor: seconds of all threads together.
    """

    passed: float
    processor: float


class Case(NamedTuple):
    """A model with the augmentations to measure.

    Attributes:
      batch_size: images in a step.
      size: height and width of the images.
      classes: number of classes.
      recipe: the augmentation to measure in the step.
      bound: the largest share of the step that it may add.
      alone: augmentations to measure by themselves.
    """

    batch_size: int
    size: int
    classes: int
    recipe: str
    bound: float
    alone: tuple[str, ...]


_POLICIES = ("rand_augment()", "trivial_augment()", "aug_mix()")

CASES = {
    "resnet18_cifar": Case(16, 32, 10, "crop-flip-cutout", 0.05, ("crop-flip-cutout", "affine", *_POLICIES)),
    "resnet50": Case(
        2,
        224,
        1000,
        "color-jitter",
        0.1,
        (
            "standard",
            "color-jitter",
            "color_jitter(0.4, 0.4, 0.4, 0.1)",
            "rotate(15)",
            "blur(23)",
            "jpeg((30, 90))",
            "equalize()",
            *_POLICIES,
        ),
    ),
}


def measure(name: str) -> dict[str, Any]:
    """Times steps with and without augmentation in turns, and augmentations alone.

    Args:
      name: of a case.

    Returns:
      The milliseconds of a step, the shares that the augmentation adds with their spread, and the milliseconds of each
      augmentation alone.
    """
    case = CASES[name]
    model = catalog.build(name, case.classes, (case.size, case.size, 3))
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.uniform(size=(case.batch_size, case.size, case.size, 3)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, case.classes, case.batch_size), jnp.int32),
    }
    optimizer, key = optax.sgd(1e-3, momentum=0.9), jax.random.key(0)
    steps = [make_train_step(model, optimizer, augment=parse_augment(text)) for text in (case.recipe, "none")]
    states = [init_train_state(model, optimizer, key) for _ in steps]
    times: tuple[list[Seconds], list[Seconds]] = ([], [])
    for number in range(ROUNDS + 1):
        for place in (0, 1) if number % 2 else (1, 0):
            started = _now()
            states[place], _ = jax.block_until_ready(steps[place](states[place], batch, key))
            if number:  # the first round compiles
                times[place].append(_since(started))
    augmented, plain = times
    # Seconds are pairs, and so are their ratios.
    ratios = [[a / b - 1 for a, b in zip(one, other, strict=True)] for one, other in zip(augmented, plain, strict=True)]
    passed, processor = (spread(share).as_dict() for share in zip(*ratios, strict=True))
    return {
        "batch_size": case.batch_size,
        "size": case.size,
        "recipe": case.recipe,
        "bound": case.bound,
        "step_ms": round(1e3 * statistics.median(seconds.passed for seconds in plain), 2),
        "share": passed,
        "share_of_processor_time": processor,
        "alone_ms": {text: round(1e3 * _alone(text, batch, key), 2) for text in case.alone},
    }


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def _since(started: Seconds) -> Seconds:
    return Seconds(*(end - start for end, start in zip(_now(), started, strict=True)))


def _alone(text: str, batch: Any, key: jax.Array) -> float:
    """Returns the median seconds of an augmentation of a batch."""
    augment = parse_augment(text)
    assert augment is not None
    size = batch["image"].shape[0]
    run = jax.jit(lambda key, batch: jax.vmap(augment)(jax.random.split(key, size), batch)["image"])
    jax.block_until_ready(run(key, batch))
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        jax.block_until_ready(run(key, batch))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main(names: list[str]) -> None:
    """Measures cases, prints them, and writes the results.

    Args:
      names: names of `CASES`; all if empty.
    """
    rows = {row["model"]: row for row in read_report(__file__).get("models", [])} if names else {}
    for name in names or CASES:
        row = measure(name)
        rows[name] = {"model": name, **row, "met": row["share_of_processor_time"]["median"] <= row["bound"]}
        print(f"{name}: a step takes {row['step_ms']:.0f} ms, {row['recipe']} may add {row['bound']:.0%}")
        for what in ("share", "share_of_processor_time"):
            share = row[what]
            print(
                f"  {what}: {share['median']:+.1%} ({share['lower_quartile']:+.1%} to {share['upper_quartile']:+.1%})",
                flush=True,
            )
        for text, milliseconds in row["alone_ms"].items():
            print(
                f"  {text:36} alone {milliseconds:8.2f} ms, {milliseconds / row['step_ms']:.1%} of a step", flush=True
            )
    write_report(__file__, {"rounds": ROUNDS, "models": list(rows.values())})


if __name__ == "__main__":
    main(sys.argv[1:])
