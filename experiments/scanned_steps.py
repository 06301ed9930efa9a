"""Training steps in `jax.lax.scan` against the same steps called from a Python loop, for the benchmark's standard set.

To map whole runs over seeds, all steps must be in one program, and XLA's own convolutions on CPU take a slow path in
loops. Both run the benchmark's step on the same batches in the same order, in turns. Ratios are of the time of all
steps, scan to loop: above 1 the scan is slower. Writes experiments/results/scanned_steps.json.

    python experiments/scanned_steps.py                     # the whole set: about 12 minutes on 2 CPU cores
    python experiments/scanned_steps.py lenet5 small_cnn    # some models: printed, not written
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reports import write_report

from jaxcnn.benchmark.jax_program import first_carry, make_train_step
from jaxcnn.benchmark.peers import ours
from jaxcnn.benchmark.program import draw_batch
from jaxcnn.benchmark.spec import Spec
from jaxcnn.benchmark.spread import spread
from jaxcnn.benchmark.standard import STANDARD
from jaxcnn.models import catalog

ROUNDS = 5
SECONDS = 2.0
"""Approximate duration of all steps of a turn, within the limits of FEWEST_STEPS and MOST_STEPS."""
FEWEST_STEPS, MOST_STEPS = 3, 50
TOLERANCE = 1e-4
"""Largest relative difference between the losses of both."""


def measure(name: str) -> dict[str, Any]:
    """Times steps in a scan and in a loop, in turns.

    Args:
      name: of a model in the standard set.

    Returns:
      The number of steps of a turn, the median time of a step in the loop in milliseconds, the spread of the ratios,
      and the largest difference between the first losses of both.

    Raises:
      ArithmeticError: scan and loop differ in their first losses by more than rounding.
    """
    model, image_shape = catalog.build(name), catalog.CATALOG[name].image_shape
    spec = Spec("jaxcnn", model, image_shape, STANDARD[name])
    built = ours.make_model(spec)
    step, batch = make_train_step(built.apply), jax.tree.map(jnp.asarray, draw_batch(spec))
    compiled_step = jax.jit(step, donate_argnums=0)

    def loop(carry: Any, batches: Any) -> tuple[Any, list[jax.Array]]:
        losses = []
        for images, labels in zip(*batches, strict=True):
            carry, loss = compiled_step(carry, images, labels)
            losses.append(loss)
        return carry, losses

    @partial(jax.jit, donate_argnums=0)
    def scan(carry: Any, batches: Any) -> tuple[Any, jax.Array]:
        return jax.lax.scan(lambda carry, batch: step(carry, *batch), carry, batches)

    def timed(run: Callable[..., Any], batches: Any) -> tuple[float, np.ndarray]:
        carry = jax.block_until_ready(jax.tree.map(jnp.copy, first_carry(built)))
        started = time.perf_counter()
        _, losses = jax.block_until_ready(run(carry, batches))
        return time.perf_counter() - started, np.array(losses)

    one = jax.tree.map(lambda array: array[None], batch)
    timed(loop, one)  # compiles
    steps = int(np.clip(SECONDS / timed(loop, one)[0], FEWEST_STEPS, MOST_STEPS))
    # Different batches, so that XLA cannot move the work on a batch out of the loop.
    stacked = jax.tree.map(lambda array: jnp.stack([jnp.roll(array, i, axis=0) for i in range(steps)]), batch)
    listed = [list(array) for array in stacked]
    looped, scanned = timed(loop, listed)[1], timed(scan, stacked)[1]
    # Only the first losses: rounding differs between the programs, and training amplifies the difference.
    difference = float(np.max(np.abs(scanned - looped)[:FEWEST_STEPS] / looped[:FEWEST_STEPS]))
    if not difference < TOLERANCE:
        raise ArithmeticError(f"{name}: expected losses {looped[:FEWEST_STEPS]}, got {scanned[:FEWEST_STEPS]}")
    seconds = [(timed(loop, listed)[0], timed(scan, stacked)[0]) for _ in range(ROUNDS)]
    return {
        "steps": steps,
        "loop_step_ms": round(1e3 * statistics.median(in_loop for in_loop, _ in seconds) / steps, 2),
        "ratio": spread([in_scan / in_loop for in_loop, in_scan in seconds]).as_dict(),
        "difference": difference,
    }


def main(names: list[str]) -> None:
    """Measures the models, prints them, and writes the results if they are the whole set.

    Args:
      names: names in the standard set; all if empty.
    """
    rows = []
    for name in names or STANDARD:
        results = measure(name)
        rows.append({"model": name, "batch_size": STANDARD[name], **results})
        ratio = results["ratio"]
        print(
            f"{name:<16} {results['steps']:3} steps of {results['loop_step_ms']:8.1f} ms   scan / loop "
            f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})",
            flush=True,
        )
    if names:
        return
    write_report(__file__, {"rounds": ROUNDS, "models": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
