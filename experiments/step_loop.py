"""The cost of the loop of `jaxcnn.training.fit` over the bare compiled steps, on data so small that it could matter.

Bare: the compiled step is called with batches that are already on the device, and no result is read.
The loop: `fit` takes the batches from arrays on the host by a shuffled index, prepares them ahead in a thread or not,
reads and adds up the metrics of each step, and checks them. Both train the same steps, in turns. Ratios are of the time
of all steps, loop to bare. Writes experiments/results/step_loop.json.

    python experiments/step_loop.py
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from reports import write_report

from jaxcnn.benchmark.spread import spread
from jaxcnn.models import lenet5, small_cnn
from jaxcnn.training import fit, init_train_state, make_train_step

ROUNDS = 7
EXAMPLES = 4096

CASES = {
    "lenet5, 32 images of 16x16": (lenet5, (16, 16, 1), 32, 400),
    "lenet5, 128 images of 28x28": (lenet5, (28, 28, 1), 128, 100),
    "small_cnn, 64 images of 32x32": (small_cnn, (32, 32, 3), 64, 30),
}
"""Model, shape of the images, batch size and number of steps."""


class Shuffled(NamedTuple):
    """Batches by step, from arrays on the host."""

    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    steps_per_epoch: int

    def __getitem__(self, step: Any) -> Any:
        """Returns the batch of a step."""
        chosen = np.random.default_rng(step).integers(0, len(self.images), self.batch_size)
        return {"image": self.images[chosen], "label": self.labels[chosen]}


def measure(name: str) -> dict[str, Any]:
    """Times the loop, with and without a thread, and the bare steps, in turns.

    Args:
      name: a name of `CASES`.

    Returns:
      The median time of a bare step in milliseconds, and the spread of both ratios.
    """
    build, shape, batch_size, steps = CASES[name]
    model, optimizer = build(10, in_channels=shape[2], image_size=shape[:2]), optax.sgd(0.01, momentum=0.9)
    random = np.random.default_rng(0)
    images = random.uniform(size=(EXAMPLES, *shape)).astype(np.float32)
    batches = Shuffled(images, random.integers(0, 10, EXAMPLES).astype(np.int32), batch_size, steps)
    train_step, key = make_train_step(model, optimizer), jax.random.key(1)
    on_device = [jax.device_put(batches[step]) for step in range(steps)]

    def bare(train_state: Any) -> Any:
        for batch in on_device:
            train_state, _ = train_step(train_state, batch, key)
        return train_state

    def looped(prefetch: int) -> Callable[[Any], Any]:
        return lambda train_state: fit(train_state, train_step, batches, key, epochs=1, prefetch=prefetch).train_state

    def timed(run: Callable[[Any], Any]) -> float:
        train_state = jax.block_until_ready(init_train_state(model, optimizer, jax.random.key(0)))
        started = time.perf_counter()
        jax.block_until_ready(run(train_state))
        return time.perf_counter() - started

    runs = {"bare": bare, "ahead": looped(2), "no thread": looped(0)}
    for run in runs.values():
        timed(run)  # compiles, and fills caches
    seconds = [{way: timed(run) for way, run in runs.items()} for _ in range(ROUNDS)]
    return {
        "steps": steps,
        "bare_step_ms": round(1e3 * statistics.median(turn["bare"] for turn in seconds) / steps, 3),
        "ahead": spread([turn["ahead"] / turn["bare"] for turn in seconds]).as_dict(),
        "no_thread": spread([turn["no thread"] / turn["bare"] for turn in seconds]).as_dict(),
    }


def main() -> None:
    """Measures all cases, prints them and writes the results."""
    rows = []
    for name in CASES:
        results = measure(name)
        rows.append({"case": name, **results})
        ratios = "   ".join(
            f"{way} {results[way]['median']:.2f} ({results[way]['lower_quartile']:.2f} to "
            f"{results[way]['upper_quartile']:.2f})"
            for way in ("ahead", "no_thread")
        )
        print(f"{name:<30} {results['bare_step_ms']:8.3f} ms a step   {ratios}", flush=True)
    write_report(__file__, {"rounds": ROUNDS, "cases": rows})


if __name__ == "__main__":
    main()
