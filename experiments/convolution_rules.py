"""The ways to convolve on CPU, shape by shape: the C++ kernels, the rules in plain JAX, XLA's own operation.

For each shape and each of the three products (forward, input gradient, kernel gradient), all three are compiled and run
in turn; the numbers are medians over repeats and their quartiles, in milliseconds. Then both algorithms for 3x3 kernels
of stride 1 are measured in processor time, and the costs of Winograd's algorithm besides its matrix products are
fitted: the two numbers at the top of `jaxcnn.ops.lowering.native.rules`. Writes
experiments/results/convolution_rules.json.

    python experiments/convolution_rules.py             about 5 minutes on 2 CPU cores
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from reports import write_report

from jaxcnn.ops import conv_output_size
from jaxcnn.ops.lowering import Geometry, cpu_jax, native, xla
from jaxcnn.ops.lowering.native import rules

REPEATS = 9
SLOW_REPEATS = 3
SLOW_SECONDS = 1.0
WAYS = {"cpp": native, "plain": cpu_jax, "xla": xla}


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
    Case("LeNet-5, conv 1", 128, 32, 1, 6, 5, 1, 1),
    Case("ResNet-18, stage 1", 64, 32, 64, 64, 3, 1, 1),
    Case("ResNet-18, stage 2", 64, 16, 128, 128, 3, 1, 1),
    Case("ResNet-18, stage 2, strided", 64, 32, 64, 128, 3, 2, 1),
    Case("ResNet-18, stage 4", 64, 4, 512, 512, 3, 1, 1),
    Case("ResNet-50, stem", 8, 224, 3, 64, 7, 2, 1),
    Case("ResNet-50, stage 1", 8, 56, 64, 256, 1, 1, 1),
    Case("ResNet-50, stage 3", 8, 14, 1024, 256, 1, 1, 1),
    Case("MobileNetV2, block 1", 8, 112, 32, 32, 3, 1, 32),
    Case("MobileNetV2, block 2", 8, 112, 96, 96, 3, 2, 96),
    Case("MobileNetV2, block 3", 8, 56, 144, 144, 3, 1, 144),
    Case("MobileNetV2, block 12", 8, 14, 576, 576, 3, 1, 576),
    Case("ConvNeXt-T, stage 1", 4, 56, 96, 96, 7, 1, 96),
    Case("ConvNeXt-T, stage 3", 4, 14, 384, 384, 7, 1, 384),
    Case("ResNeXt-50, stage 1", 4, 56, 128, 128, 3, 1, 32),
    Case("ResNeXt-50, stage 4", 4, 7, 1024, 1024, 3, 1, 32),
)

# Images, size, channels and outputs of the 3x3 convolutions that the costs are fitted to.
FITTED = (
    (16, 32, 64, 64),
    (32, 16, 128, 128),
    (32, 8, 256, 256),
    (64, 4, 512, 512),
    (4, 8, 512, 512),
    (16, 28, 32, 96),
)


def measure(case: Case) -> dict[str, Any]:
    """Times all ways to compute a case.

    Args:
      case: the convolution.

    Returns:
      For each product and way, the milliseconds (median and quartiles).
    """
    side = (case.kernel_size // 2, case.kernel_size // 2)
    geometry = Geometry((case.strides, case.strides), (side, side), (1, 1), case.groups)
    results = {}
    for product, (name, operands, options) in products(case, geometry).items():
        functions = {
            way: jax.jit(partial(getattr(module, name), geometry=geometry, **options)) for way, module in WAYS.items()
        }
        expected = functions["xla"](*operands)
        atol = 1e-4 * float(abs(expected).max())
        for function in functions.values():
            np.testing.assert_allclose(function(*operands), expected, rtol=0, atol=atol)
        slowest = max(_timed(function, operands) for function in functions.values())
        seconds: dict[str, list[float]] = {way: [] for way in functions}
        for _ in range(SLOW_REPEATS if slowest > SLOW_SECONDS else REPEATS):
            for way, function in functions.items():
                _timed(function, operands)  # not counted: it fills caches and memory after the previous way
                seconds[way].append(_timed(function, operands))
        results[product] = {
            way: {
                "ms": round(1000 * statistics.median(times), 2),
                "quartiles_ms": [round(1000 * t, 2) for t in statistics.quantiles(times, n=4)[::2]],
            }
            for way, times in seconds.items()
        }
    return results


def products(case: Case, geometry: Geometry) -> dict[str, tuple[str, tuple[jax.Array, jax.Array], dict[str, Any]]]:
    """Draws the operands of a case's three products.

    Args:
      case: the convolution.
      geometry: its geometry.

    Returns:
      By name: the function of a module of rules, its operands and its options.
    """
    draw = partial(np.random.default_rng(0).standard_normal, dtype=np.float32)
    window = (case.kernel_size, case.kernel_size)
    x = jax.device_put(draw((case.images, case.size, case.size, case.in_channels)))
    kernel = jax.device_put(draw((*window, case.in_channels // case.groups, case.out_channels)))
    input_size = (case.size, case.size)
    output_size = conv_output_size(input_size, window, strides=geometry.strides, padding=geometry.padding)
    y = jax.device_put(draw((case.images, *output_size, case.out_channels)))
    return {
        "forward": ("convolve", (x, kernel), {"output_size": output_size}),
        "input gradient": ("input_gradient", (y, kernel), {"input_size": input_size}),
        "kernel gradient": ("kernel_gradient", (x, y), {"kernel_size": window}),
    }


def fit() -> dict[str, Any]:
    """Fits the costs of Winograd's tile and kernel transforms, in multiplications of the direct algorithm.

    Returns:
      The two costs, as fitted and as in `rules`.
    """
    geometry = Geometry((1, 1), ((1, 1), (1, 1)))
    left, right = [], []
    for images, size, channels, outputs in FITTED:
        case = Case("", images, size, channels, outputs, 3, 1, 1)
        tiles, matrix = images * (-(-size // 4)) ** 2, channels * outputs
        for name, operands, options in products(case, geometry).values():
            seconds = {}
            for algorithm in (rules.Algorithm.DIRECT, rules.Algorithm.WINOGRAD):
                function = jax.jit(partial(getattr(native, name), geometry=geometry, **options))
                with mock.patch.object(rules, "_algorithm", return_value=algorithm):
                    function(*operands).block_until_ready()
                seconds[algorithm] = min(_timed(function, operands, time.process_time) for _ in range(REPEATS))
            direct, winograd = seconds[rules.Algorithm.DIRECT], seconds[rules.Algorithm.WINOGRAD]
            multiplications = 9 * images * size**2 * matrix * winograd / direct
            # Divided by the total, so that large cases do not outweigh small ones in the fit.
            scale = 1 / multiplications
            left.append([scale * tiles * (channels + outputs), scale * matrix])
            right.append(scale * (multiplications - 36 * tiles * matrix))
    (tile, kernel), *_ = np.linalg.lstsq(np.array(left), np.array(right))
    return {
        "tile": round(float(tile)),
        "kernel": round(float(kernel)),
        "tile_in_use": rules.TILE_COST,
        "kernel_in_use": rules.KERNEL_COST,
    }


def _timed(function: Callable[..., jax.Array], operands: tuple[Any, ...], clock: Any = time.perf_counter) -> float:
    started = clock()
    function(*operands).block_until_ready()
    return clock() - started


def main() -> None:
    """Measures all cases, prints them and writes the results."""
    if not native.ready():
        raise SystemExit("expected the C++ kernels, which could not be built here; the message above says why")
    rows = []
    print(" " * 30 + "milliseconds: C++ | plain JAX | XLA")
    for case in CASES:
        results = measure(case)
        rows.append({**case._asdict(), **results})
        cells = (f"{product} " + " | ".join(f"{way['ms']:.1f}" for way in r.values()) for product, r in results.items())
        print(f"{case.network:<28}  " + "   ".join(cells), flush=True)
    costs = fit()
    print("costs of Winograd's algorithm, in multiplications:", costs)
    write_report(__file__, {"repeats": REPEATS, "costs": costs, "cases": rows})


if __name__ == "__main__":
    main()
