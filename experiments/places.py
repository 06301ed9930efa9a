"""Where examples are while a small model trains: in host memory, on the device, or a whole epoch in one `jax.lax.scan`.

All ways train the same steps on the same batches, in turns, and end with the same parameters. Bare: the compiled step
is called with batches that are on the device already. Memory: `fit` with batches that a thread gathers on the host, or
the loop itself. Device: `fit` with batches that the device gathers (`data.put(source, "device")`). Scan: the epoch is
one compiled program, which gathers its batches, and tells its metrics at the end. Ratios are of the time of an epoch to
bare. Writes experiments/results/places.json.

    python experiments/places.py
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reports import write_report

from jaxcnn import data
from jaxcnn.benchmark.spread import spread
from jaxcnn.models import lenet5, small_cnn
from jaxcnn.training import fit, init_train_state, make_train_step

ROUNDS = 7

CASES = {
    "lenet5, 32 images of 16x16": (lenet5, (16, 16, 1), 32, 400),
    "lenet5, 128 images of 32x32": (lenet5, (32, 32, 3), 128, 60),
    "small_cnn, 64 images of 32x32": (small_cnn, (32, 32, 3), 64, 30),
}
"""Model, shape of the images, batch size and number of steps of an epoch."""


def measure(name: str) -> dict[str, Any]:
    """Times an epoch in all ways, in turns.

    Args:
      name: a name of `CASES`.

    Returns:
      The median time of a bare step in milliseconds, and the spread of the ratios.

    Raises:
      ArithmeticError: the ways end with different parameters.
    """
    build, shape, batch_size, steps = CASES[name]
    model, optimizer = build(10, in_channels=shape[2], image_size=shape[:2]), optax.sgd(0.01, momentum=0.9)
    random, count = np.random.default_rng(0), batch_size * steps
    images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    memory = data.arrays(image=images, label=random.integers(0, 10, count), num_classes=10)
    in_memory, on_device = (data.Batches(data.put(memory, where), batch_size, seed=0) for where in ("memory", "device"))
    train_step, key = make_train_step(model, optimizer), jax.random.key(1)
    ready = [jax.device_put(batch) for batch in in_memory.at(range(steps))]
    entries = jax.device_put(dict(memory.entries))
    order = np.random.default_rng([0, 0]).permutation(count).astype(np.int32).reshape(steps, batch_size)

    def bare(train_state: Any) -> Any:
        for batch in ready:
            train_state, _ = train_step(train_state, batch, key)
        return train_state

    def fitted(batches: data.Batches, prefetch: int) -> Callable[[Any], Any]:
        return lambda state: fit(state, train_step, batches, key, epochs=1, prefetch=prefetch).train_state

    @partial(jax.jit, donate_argnums=0)
    def scan(train_state: Any) -> tuple[Any, Any]:
        def step(train_state: Any, indices: jax.Array) -> tuple[Any, Any]:
            return train_step(train_state, {name: entry[indices] for name, entry in entries.items()}, key)

        return jax.lax.scan(step, train_state, jnp.asarray(order))

    def scanned(train_state: Any) -> Any:
        train_state, metrics = scan(train_state)
        jax.device_get(metrics)
        return train_state

    def timed(run: Callable[[Any], Any]) -> tuple[float, Any]:
        train_state = jax.block_until_ready(init_train_state(model, optimizer, jax.random.key(0)))
        started = time.perf_counter()
        train_state = jax.block_until_ready(run(train_state))
        return time.perf_counter() - started, train_state.params

    ways = {
        "bare": bare,
        "memory": fitted(in_memory, 2),
        "memory, no thread": fitted(in_memory, 0),
        "device": fitted(on_device, 0),
        "scan": scanned,
    }
    params = {way: timed(run)[1] for way, run in ways.items()}  # compiles
    for way in ways:
        for one, other in zip(jax.tree.leaves(params[way]), jax.tree.leaves(params["bare"]), strict=True):
            if not np.array_equal(one, other):
                raise ArithmeticError(f"{name}: expected the same parameters of all ways, got others of {way!r}")
    seconds = [{way: timed(run)[0] for way, run in ways.items()} for _ in range(ROUNDS)]
    return {
        "steps": steps,
        "bare_step_ms": round(1e3 * statistics.median(turn["bare"] for turn in seconds) / steps, 3),
        **{way: spread([turn[way] / turn["bare"] for turn in seconds]).as_dict() for way in list(ways)[1:]},
    }


def main() -> None:
    """Measures all cases, prints them and writes the results."""
    rows = []
    for name in CASES:
        results = measure(name)
        rows.append({"case": name, **results})
        ratios = "   ".join(f"{way} {each['median']:.2f}" for way, each in results.items() if isinstance(each, dict))
        print(f"{name:<30} {results['bare_step_ms']:8.3f} ms a step   {ratios}", flush=True)
    write_report(__file__, {"rounds": ROUNDS, "cases": rows})


if __name__ == "__main__":
    main()
