"""Non-maximum suppression and RoIAlign on this machine: the forms that were considered, and the libraries of others.

Suppression: in tiles, which `jaxcnn.ops.nms` does with tiles of 128 boxes; the fixed point of the whole matrix of
overlaps at once; a loop that takes the best box again and again; and this loop in NumPy. RoIAlign: region by region,
the rule for CPU, and all regions at once, with products of matrices for the gradient, the rule for other platforms;
and torchvision's function in Python, where torch is installed. torchvision's compiled operators, which its own models
use, are not compared: with a CPU build of torch they cannot be loaded.

All give the same results, which is checked. Writes experiments/results/detection_ops.json.

    python experiments/detection_ops.py             about 3 minutes on 2 CPU cores
"""

import functools
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from reports import write_report

from jaxcnn import ops
from jaxcnn.ops import suppression
from jaxcnn.ops.lowering import regions

REPEATS = 7
TILES = (64, 128, 256, 512)

# Boxes, slots of the result, threshold: a detector's last step, and region proposals.
SUPPRESSIONS = ((1000, 100, 0.5), (1000, 1000, 0.7), (4000, 100, 0.5), (4000, 1000, 0.7))
# Height, width and channels of the map, regions; the images are 16 times as high and as wide.
ALIGNMENTS = ((25, 32, 64, 128), (25, 32, 64, 1000), (50, 84, 256, 128), (50, 84, 256, 1000), (100, 128, 64, 128))


def draw_boxes(count: int, height: float, width: float) -> np.ndarray:
    """Draws boxes around objects, some twenty for each.

    Args:
      count: number of boxes.
      height: of the image.
      width: of the image.

    Returns:
      Shape (count, 4), float32.
    """
    rng = np.random.default_rng(count)
    centres = rng.uniform(0, (width, height), (max(1, count // 20), 2))
    sizes = rng.uniform(16, 200, centres.shape)
    which = rng.integers(len(centres), size=count)
    centre = centres[which] + rng.normal(size=(count, 2)) * 8
    size = sizes[which] * np.exp(0.15 * rng.normal(size=(count, 2)))
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)


def fixed_point(boxes: jax.Array, scores: jax.Array, threshold: float, slots: int) -> jax.Array:
    """Suppresses by the fixed point of the matrix of all overlaps.

    Args:
      boxes: shape (n, 4).
      scores: shape (n,).
      threshold: of the overlap.
      slots: number of boxes to return.

    Returns:
      Indices of the kept boxes, then -1, shape (slots,).
    """
    order = jnp.argsort(-scores, stable=True)
    place = jnp.arange(len(boxes))
    suppresses = (ops.pairwise_iou(boxes[order], boxes[order]) > threshold) & (place < place[:, None])

    def next_round(rounds: Any) -> Any:
        new = ~jnp.any(suppresses & rounds[0], axis=1)
        return new, jnp.any(new != rounds[0])

    keep, _ = lax.while_loop(lambda rounds: rounds[1], next_round, (jnp.ones(len(boxes), bool), jnp.array(True)))
    first = jnp.argsort(~keep, stable=True)[:slots]
    return jnp.where(keep[first], order[first], -1)


def best_of_the_rest(boxes: jax.Array, scores: jax.Array, threshold: float, slots: int) -> jax.Array:
    """Takes the best box again and again; arguments and result as of `fixed_point`."""

    def take(slot: Any, carry: Any) -> Any:
        left, kept = carry
        best = jnp.argmax(left)
        overlaps = ops.pairwise_iou(boxes[best][None], boxes)[0] > threshold
        kept = kept.at[slot].set(jnp.where(left[best] == -jnp.inf, -1, best))
        return jnp.where(overlaps, -jnp.inf, left).at[best].set(-jnp.inf), kept

    return lax.fori_loop(0, slots, take, (scores, jnp.full(slots, -1)))[1]


def numpy_loop(boxes: np.ndarray, scores: np.ndarray, threshold: float, slots: int) -> np.ndarray:
    """Takes the best box again and again in NumPy; arguments and result as of `fixed_point`."""
    left, kept = np.argsort(-scores, kind="stable"), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left) and len(kept) < slots:
        best, left = left[0], left[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod((high - low).clip(0), axis=1)
        left = left[shared / (areas[best] + areas[left] - shared) <= threshold]
    return np.array(kept + [-1] * (slots - len(kept)))


def in_tiles(boxes: jax.Array, scores: jax.Array, threshold: float, slots: int) -> jax.Array:
    """Suppresses with `jaxcnn.ops.nms`; arguments and result as of `fixed_point`."""
    kept = ops.nms(boxes, scores, iou_threshold=threshold, max_outputs=slots)
    return jnp.where(kept.valid, kept.indices, -1)


def suppress(count: int, slots: int, threshold: float) -> dict[str, Any]:
    """Times all forms of suppression.

    Args:
      count: number of boxes.
      slots: of the result.
      threshold: of the overlap.

    Returns:
      Milliseconds by form, and how many boxes are kept.
    """
    boxes = draw_boxes(count, 800, 1333)
    scores = np.random.default_rng(0).uniform(size=count).astype(np.float32)
    forms: dict[str, Callable[..., Any]] = {}
    for tile in TILES:
        with mock.patch.object(suppression, "_TILE", tile):
            # Compiled here, since the size is read when the function is traced.
            forms[f"tiles of {tile}"] = _compiled(in_tiles, boxes, scores, threshold, slots)
    forms["fixed point"] = _compiled(fixed_point, boxes, scores, threshold, slots)
    forms["best of the rest"] = _compiled(best_of_the_rest, boxes, scores, threshold, slots)
    forms["NumPy"] = lambda: numpy_loop(boxes, scores, threshold, slots)
    expected = forms["NumPy"]()
    for name, form in forms.items():
        np.testing.assert_array_equal(form(), expected, err_msg=name)
    return {"kept": int(np.sum(expected >= 0)), "ms": _in_turns(forms)}


def _compiled(function: Callable[..., jax.Array], boxes: Any, scores: Any, threshold: float, slots: int) -> Any:
    operands = jax.device_put((boxes, scores))
    program = jax.jit(lambda boxes, scores: function(boxes, scores, threshold, slots)).lower(*operands).compile()
    return lambda: program(*operands)


def align(height: int, width: int, channels: int, count: int) -> dict[str, Any]:
    """Times the rules of RoIAlign, 7 x 7 bins of 2 x 2 samples, forward and with the gradient.

    Args:
      height: of the map.
      width: of the map.
      channels: of the map.
      count: number of regions.

    Returns:
      Milliseconds by direction and rule.
    """
    image = np.random.default_rng(0).standard_normal((height, width, channels), dtype=np.float32)
    boxes = draw_boxes(count, 16 * height, 16 * width).clip(0, np.array([16 * width, 16 * height] * 2, np.float32))
    dy = np.random.default_rng(1).standard_normal((count, 7, 7, channels), dtype=np.float32)
    results: dict[str, dict[str, Any]] = {"forward": {}, "gradient": {}}

    def sample(image: jax.Array) -> jax.Array:
        return ops.roi_align(image, jnp.asarray(boxes), 7, spatial_scale=1 / 16, sampling_ratio=2)

    for name, rule in {"region by region": "cpu", "all at once": "default"}.items():
        with mock.patch.object(regions.lax, "platform_dependent", functools.partial(_chosen, rule)):
            forward = jax.jit(sample).lower(image).compile()
            gradient = jax.jit(lambda image, dy: jax.vjp(sample, image)[1](dy)[0]).lower(image, dy).compile()
        operands = jax.device_put((image, dy))
        results["forward"][name] = functools.partial(forward, operands[0])
        results["gradient"][name] = functools.partial(gradient, *operands)
    with_torch(results, image, boxes, dy)
    for forms in results.values():
        expected = np.asarray(forms["region by region"]())
        for name, form in forms.items():
            np.testing.assert_allclose(form(), expected, rtol=1e-3, atol=1e-3, err_msg=name)
    return {direction: _in_turns(forms) for direction, forms in results.items()}


def _chosen(rule: str, *arguments: Any, **rules: Callable[..., Any]) -> Any:
    return rules[rule](*arguments)


def with_torch(results: dict[str, dict[str, Any]], image: np.ndarray, boxes: np.ndarray, dy: np.ndarray) -> None:
    """Adds torchvision's function in Python, if it is there: forward, and forward with gradient.

    Args:
      results: functions by direction and rule; changed.
      image: the map.
      boxes: the regions.
      dy: gradient of the result.
    """
    try:
        torch = importlib.import_module("torch")
        # torchvision registers functions for operators that it cannot load.
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        module = importlib.import_module("torchvision.ops.roi_align")
    except ImportError:
        return
    plain = module._roi_align.__wrapped__
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().requires_grad_()
    rois = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1), np.float32), boxes], axis=1))
    upstream = torch.from_numpy(dy).permute(0, 3, 1, 2).contiguous()

    def forward() -> np.ndarray:
        with torch.no_grad():
            return plain(x, rois, 1 / 16, 7, 7, 2, False).permute(0, 2, 3, 1).numpy()

    def gradient() -> np.ndarray:
        (dx,) = torch.autograd.grad(plain(x, rois, 1 / 16, 7, 7, 2, False), x, upstream)
        return dx[0].permute(1, 2, 0).numpy()

    results["forward"]["torchvision in Python"] = forward
    results["gradient"]["torchvision in Python"] = gradient


def _in_turns(forms: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Returns the median milliseconds of functions that are called in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(REPEATS):
        for name, form in forms.items():
            started = time.perf_counter()
            jax.block_until_ready(form())
            seconds[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(times), 2) for name, times in seconds.items()}


def main() -> None:
    """Measures all cases, prints them and writes the results."""
    rows: dict[str, list[dict[str, Any]]] = {"nms": [], "roi_align": []}
    for count, slots, threshold in SUPPRESSIONS:
        case = {"boxes": count, "slots": slots, "threshold": threshold, **suppress(count, slots, threshold)}
        rows["nms"].append(case)
        print(case, flush=True)
    for height, width, channels, count in ALIGNMENTS:
        case = {"map": [height, width, channels], "regions": count, **align(height, width, channels, count)}
        rows["roi_align"].append(case)
        print(case, flush=True)
    write_report(__file__, {"repeats": REPEATS, **rows})


if __name__ == "__main__":
    main()
