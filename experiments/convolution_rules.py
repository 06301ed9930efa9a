"""The CPU rules of `jaxcnn.ops.lowering.cpu` against XLA's own convolution, shape by shape.

For each shape and each of the three products (forward, input gradient, kernel gradient), both are compiled and run in
turn; the numbers are medians over repeats and their quartiles, in milliseconds. Writes
experiments/results/convolution_rules.json.

    python experiments/convolution_rules.py
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.ops.lowering import Geometry, cpu, xla

REPEATS = 9
RESULTS = Path(__file__).parent / "results" / "convolution_rules.json"


class Case(NamedTuple):
    """A convolution: images of size x size pixels, with "SAME" padding of odd kernels."""

    network: str
    images: int
    size: int
    in_channels: int
    out_channels: int
    kernel_size: int
    strides: int
    groups: int


CASES = (
    Case("ResNet-50, stage 1", 8, 56, 64, 256, 1, 1, 1),
    Case("ResNet-50, stage 3", 8, 14, 1024, 256, 1, 1, 1),
    Case("MobileNetV2, block 1", 8, 112, 32, 32, 3, 1, 32),
    Case("MobileNetV2, block 2", 8, 112, 96, 96, 3, 2, 96),
    Case("MobileNetV2, block 3", 8, 56, 144, 144, 3, 1, 144),
    Case("MobileNetV2, block 12", 8, 14, 576, 576, 3, 1, 576),
    Case("ConvNeXt-T, stage 1", 4, 56, 96, 96, 7, 1, 96),
    Case("ConvNeXt-T, stage 3", 4, 14, 384, 384, 7, 1, 384),
    Case("ResNeXt-50, stage 1", 4, 56, 128, 128, 3, 1, 32),
    Case("ResNeXt-50, stage 2", 4, 56, 256, 256, 3, 2, 32),
    Case("ResNeXt-50, stage 4", 4, 7, 1024, 1024, 3, 1, 32),
)


def measure(case: Case) -> dict[str, Any]:
    """Times both sets of rules on a case.

    Args:
      case: the convolution.

    Returns:
      For each product, the milliseconds of both (median and quartiles) and the ratio of the medians.
    """
    rng = np.random.default_rng(0)
    side = (case.kernel_size // 2, case.kernel_size // 2)
    geometry = Geometry((case.strides, case.strides), (side, side), (1, 1), case.groups)
    draw = partial(rng.standard_normal, dtype=np.float32)
    window = (case.kernel_size, case.kernel_size)
    x = jax.device_put(draw((case.images, case.size, case.size, case.in_channels)))
    kernel = jax.device_put(draw((*window, case.in_channels // case.groups, case.out_channels)))
    y = xla.convolve(x, kernel, geometry=geometry)
    products = {
        "forward": ("convolve", (x, kernel), {}),
        "input gradient": ("input_gradient", (y, kernel), {"input_size": (case.size, case.size)}),
        "kernel gradient": ("kernel_gradient", (x, y), {"kernel_size": window}),
    }
    results = {}
    for product, (name, operands, options) in products.items():
        ours, theirs = (jax.jit(partial(getattr(rules, name), geometry=geometry, **options)) for rules in (cpu, xla))
        np.testing.assert_allclose(ours(*operands), theirs(*operands), rtol=1e-3, atol=0.05)
        seconds: dict[str, list[float]] = {"jaxcnn": [], "xla": []}
        for _ in range(REPEATS):
            for who, function in (("jaxcnn", ours), ("xla", theirs)):
                seconds[who].append(_timed(function, operands))
        medians = {who: 1000 * statistics.median(times) for who, times in seconds.items()}
        results[product] = {
            **{f"{who}_ms": round(median, 2) for who, median in medians.items()},
            **{
                f"{who}_quartiles_ms": [round(1000 * t, 2) for t in statistics.quantiles(times, n=4)[::2]]
                for who, times in seconds.items()
            },
            "ratio": round(medians["jaxcnn"] / medians["xla"], 4),
        }
    return results


def _timed(function: Callable[..., jax.Array], operands: tuple[Any, ...]) -> float:
    started = time.perf_counter()
    function(*operands).block_until_ready()
    return time.perf_counter() - started


def main() -> None:
    """Measures all cases, prints them and writes the results."""
    rows = []
    for case in CASES:
        results = measure(case)
        rows.append({**case._asdict(), **results})
        cells = (f"{product} {r['jaxcnn_ms']:.1f} | {r['xla_ms']:.1f}" for product, r in results.items())
        print(f"{case.network:<22} " + "   ".join(cells), flush=True)
    report = {
        "script": "experiments/convolution_rules.py",
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "jax": jax.__version__,
        "repeats": REPEATS,
        "cases": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
