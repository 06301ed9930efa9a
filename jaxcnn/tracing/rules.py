"""Rules that compute which pixels the results of a primitive see, given the pixels that its operands see.

A rule may return too many pixels, but never too few. The results of a primitive without a rule see all pixels that its
operands see.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxcnn.tracing.lines import Line, fitted, joined, reshaped

Seen: TypeAlias = tuple[Line, Line] | None
"""What the elements of an array see of the image, (vertical, horizontal); None if they do not depend on it."""

Shape: TypeAlias = tuple[int, ...]


class Operands(NamedTuple):
    """The operands of a primitive.

    Attributes:
      seen: what each of them sees.
      shapes: their shapes.
      known: returns the value of an operand, or None if it is not a constant.
    """

    seen: Sequence[Seen]
    shapes: Sequence[Shape]
    known: Callable[[int], np.ndarray | None]


_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh axis_index bessel_i0e bessel_i1e cbrt ceil clamp clz
complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge
ge_to gt gt_to igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to
max min mul ne neg nextafter not optimization_barrier or pmax pmin polygamma population_count pow psum
psum_invariant pvary random_gamma_grad real reduce_precision regularized_incomplete_beta rem round rsqrt select_n
shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
"""

Rule: TypeAlias = Callable[[Operands, dict[str, Any], Sequence[Shape]], Seen | list[Seen]]
"""A function of the operands, the parameters of the primitive and the shapes of its results."""

RULES: dict[str, Rule] = {}
"""The rules by the names of the primitives."""


def together(seen: Seen) -> Seen:
    """Returns what the whole array sees, for each of its elements."""
    return None if seen is None else (seen[0].together, seen[1].together)


def union(several: Sequence[Seen], shape: Shape) -> Seen:
    """Returns what elements see that depend on one element at the same index of several arrays of a shape."""
    some = [seen for seen in several if seen is not None]
    if not some:
        return None
    return joined([seen[0] for seen in some], shape), joined([seen[1] for seen in some], shape)


def mixed(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> list[Seen]:
    """The rule of an unknown primitive: each result sees what all operands see."""
    del params
    return [union([together(seen) for seen in operands.seen], ())] * len(shapes)


def _each(seen: Seen, change: Callable[[Line], Line]) -> Seen:
    return None if seen is None else (change(seen[0]), change(seen[1]))


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _moved(seen: Seen, axes: dict[int, int]) -> Seen:
    """Renames the axes of an array; along those without a new name, the elements are mixed."""

    def move(line: Line) -> Line:
        if line.axis is None:
            return line
        return line.along(axes[line.axis]) if line.axis in axes else line.together

    return _each(seen, move)


@_rule(*_ELEMENTWISE.split())
def _elementwise(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen | list[Seen]:
    del params
    if len(shapes) > 1:
        return list(operands.seen) if len(shapes) == len(operands.seen) else mixed(operands, {}, shapes)
    return union(operands.seen, shapes[0])


@_rule("broadcast_in_dim")
def _broadcast(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    axes = dict(enumerate(params["broadcast_dimensions"]))
    kept = {axis: to for axis, to in axes.items() if operands.shapes[0][axis] == shapes[0][to]}
    return _moved(operands.seen[0], kept)


@_rule("squeeze")
def _squeeze(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    kept = [axis for axis in range(len(operands.shapes[0])) if axis not in params["dimensions"]]
    return _moved(operands.seen[0], {axis: i for i, axis in enumerate(kept)})


@_rule("expand_dims")
def _expand(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    kept = [axis for axis in range(len(shapes[0])) if axis not in params["dimensions"]]
    return _moved(operands.seen[0], dict(enumerate(kept)))


@_rule("transpose")
def _transpose(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    return _moved(operands.seen[0], {int(axis): i for i, axis in enumerate(params["permutation"])})


@_rule("reshape")
def _reshape(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    if params.get("dimensions") is not None:
        return together(operands.seen[0])
    return _each(operands.seen[0], lambda line: reshaped(line, operands.shapes[0], shapes[0]))


@_rule(
    "argmax",
    "argmin",
    "reduce",
    "reduce_and",
    "reduce_max",
    "reduce_min",
    "reduce_or",
    "reduce_prod",
    "reduce_sum",
    "reduce_xor",
)
def _reduce(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> list[Seen]:
    gone = params["dimensions"] if "dimensions" in params else params["axes"]
    kept = [axis for axis in range(len(operands.shapes[0])) if axis not in gone]
    seen = [_moved(seen, {axis: i for i, axis in enumerate(kept)}) for seen in operands.seen]
    return [union(seen, shapes[0])] * len(shapes)


@_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _accumulate(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    return _mixed_along(operands.seen[0], params["axis"])


@_rule("sort")
def _sort(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> list[Seen]:
    seen = [_mixed_along(seen, params["dimension"]) for seen in operands.seen]
    return [union(seen, shapes[0])] * len(shapes)


def _mixed_along(seen: Seen, axis: int) -> Seen:
    return _each(seen, lambda line: line.together if line.axis == axis else line)


# Operations that read other places along an axis


def _read(seen: Seen, axis: int, length: int, places: np.ndarray, used: np.ndarray | None, step: Fraction) -> Seen:
    """Reads places along an axis of this length, shape (outputs, taps); see `Line.read`."""

    def read(line: Line) -> Line:
        if line.axis != axis:
            return line
        line = line.unfolded(length)
        return line if line.axis is None else line.read(places, used, step)

    return _each(seen, read)


@_rule("slice")
def _slice(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    seen, shape = operands.seen[0], operands.shapes[0]
    for axis, (start, step) in enumerate(
        zip(params["start_indices"], params["strides"] or (1,) * len(shape), strict=True)
    ):
        if shapes[0][axis] != shape[axis]:
            places = start + np.arange(shapes[0][axis]) * step
            seen = _read(seen, axis, shape[axis], places[:, None], None, Fraction(step))
    return seen


@_rule("dynamic_slice")
def _dynamic_slice(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    seen, shape, rank = operands.seen[0], operands.shapes[0], len(shapes[0])
    for axis, (length, size) in enumerate(zip(shape, shapes[0], strict=True)):
        if size == length:
            continue
        start = operands.known(1 + axis)
        if start is None:
            seen = _mixed_along(seen, axis)
        else:
            places = min(max(int(start), 0), length - size) + np.arange(size)
            seen = _read(seen, axis, length, places[:, None], None, Fraction(1))
    return union([seen, *(together(index) for index in operands.seen[1 : 1 + rank])], shapes[0])


@_rule("rev")
def _reverse(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    seen = operands.seen[0]
    for axis in params["dimensions"]:
        places = np.arange(shapes[0][axis])[::-1, None]
        seen = _read(seen, axis, shapes[0][axis], places, None, Fraction(-1))
    return seen


@_rule("pad")
def _pad(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    seen = operands.seen[0]
    for axis, (low, high, interior) in enumerate(params["padding_config"]):
        if low or high or interior:
            window = {"pad": int(low), "spread": int(interior) + 1}
            seen = _window(seen, axis, operands.shapes[0][axis], shapes[0][axis], **window)
    return union([seen, together(operands.seen[1])], shapes[0])


def _windowed(
    line: Line,
    length: int,
    to: int,
    outputs: int,
    *,
    taps: int = 1,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    spread: int = 1,
) -> Line:
    """Reads the taps of a sliding window along the axis of a line.

    Args:
      line: of the array.
      length: of its axis.
      to: axis of the result.
      outputs: its length, the number of windows.
      taps: of the window.
      stride: distance between neighbouring windows.
      pad: number of entries before the first.
      dilation: distance between neighbouring taps.
      spread: distance between neighbouring entries, whose gaps are constant.

    Returns:
      The line of the windows.
    """
    line = line.unfolded(length)
    if line.axis is None or (outputs, taps, stride, pad, spread) == (length, 1, 1, 0, 1):
        return line if line.axis is None else line.along(to)
    places = np.arange(outputs)[:, None] * stride + np.arange(taps)[None, :] * dilation - pad
    used = places % spread == 0 if spread > 1 else None
    return line.read(places // spread, used, Fraction(stride, spread)).along(to)


def _window(seen: Seen, axis: int, length: int, outputs: int, **window: int) -> Seen:
    """Reads the taps of a sliding window along an axis; see `_windowed`."""
    return _each(seen, lambda line: _windowed(line, length, axis, outputs, **window) if line.axis == axis else line)


@_rule("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")
def _reduce_window(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> list[Seen]:
    results = []
    for seen, shape in zip(operands.seen, operands.shapes, strict=True):
        if len(shape) != len(shapes[0]):
            results.append(together(seen))
            continue
        for axis, taps in enumerate(params["window_dimensions"]):
            options = {
                "taps": taps,
                "stride": params["window_strides"][axis],
                "pad": params["padding"][axis][0],
                "dilation": params["window_dilation"][axis],
                "spread": params["base_dilation"][axis],
            }
            seen = _window(seen, axis, shape[axis], shapes[0][axis], **options)
        results.append(seen)
    return [union(results, shapes[0])] * len(shapes)


@_rule("conv_general_dilated")
def _convolution(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    layout = params["dimension_numbers"]
    image, kernel = operands.shapes
    inputs, outputs = layout.lhs_spec, layout.out_spec
    lines = []
    for line in operands.seen[0] or ():
        axis = line.axis
        if axis is not None and axis in inputs[2:]:
            k = inputs[2:].index(axis)
            options = {
                "taps": kernel[layout.rhs_spec[2 + k]],
                "stride": params["window_strides"][k],
                "pad": params["padding"][k][0],
                "dilation": params["rhs_dilation"][k],
                "spread": params["lhs_dilation"][k],
            }
            to = outputs[2 + k]
            line = _windowed(line, image[axis], to, shapes[0][to], **options)
        elif axis == inputs[0] and params["batch_group_count"] == 1:
            line = line.along(outputs[0])
        else:
            line = line.together
        lines.append(line)
    seen = (lines[0], lines[1]) if lines else None
    return union([seen, together(operands.seen[1])], shapes[0])


@_rule("jaxcnn_convolve")
def _convolve(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    geometry, seen = params["geometry"], _moved(operands.seen[0], {0: 0, 1: 1, 2: 2})
    for axis in (1, 2):
        options = {
            "taps": operands.shapes[1][axis - 1],
            "stride": geometry.strides[axis - 1],
            "pad": geometry.padding[axis - 1][0],
            "dilation": geometry.dilation[axis - 1],
        }
        seen = _window(seen, axis, operands.shapes[0][axis], shapes[0][axis], **options)
    return union([seen, together(operands.seen[1])], shapes[0])


@_rule("jaxcnn_input_gradient")
def _transposed_convolution(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    geometry, seen = params["geometry"], _moved(operands.seen[0], {0: 0, 1: 1, 2: 2})
    for axis in (1, 2):
        taps, dilation = operands.shapes[1][axis - 1], geometry.dilation[axis - 1]
        # Entry i is added to output o if o = stride i + dilation tap - padding for some tap.
        seen = _window(
            seen,
            axis,
            operands.shapes[0][axis],
            shapes[0][axis],
            taps=taps,
            pad=dilation * (taps - 1) - geometry.padding[axis - 1][0],
            dilation=dilation,
            spread=geometry.strides[axis - 1],
        )
    return union([seen, together(operands.seen[1])], shapes[0])


@_rule("jaxcnn_resample")
def _resample(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    axis, table = params["axis"], params["table"]

    def resample(line: Line) -> Line:
        if line.axis != axis:
            return line
        return _by_table(line, operands.shapes[0][axis], axis, table.places, table.weights)

    return _each(operands.seen[0], resample)


def _by_table(line: Line, length: int, to: int, places: np.ndarray, weights: np.ndarray) -> Line:
    """Reads places that a table lists, shape (outputs, taps), along the axis of a line; weights of zero do not count.

    Args:
      line: of the array.
      length: of its axis.
      to: axis of the result.
      places: places along the axis.
      weights: their weights.

    Returns:
      The line of the outputs.
    """
    line = line.unfolded(length)
    if line.axis is None:
        return line
    # Constant indices have 32 bits, which the place of an element that sees nothing exceeds.
    places, used = places.astype(np.int64), weights != 0
    step, follows = fitted(places, used, length, weights)
    read = line.read(places, used, step)
    low, high = read.regular
    regular = low + np.flatnonzero(follows[low:high])
    ends = (int(regular[0]), int(regular[-1]) + 1) if regular.size else (0, read.count)
    return Line(line.size, to, 1, read.first, read.last, read.stride, ends)


@_rule("gather")
def _gather(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    """Follows constant indices along one axis, as those of `jnp.take`."""
    numbers, shape, offsets = params["dimension_numbers"], operands.shapes[0], params["dimension_numbers"].offset_dims
    gathered = numbers.start_index_map
    indices = operands.known(1) if len(gathered) == 1 and numbers.collapsed_slice_dims == gathered else None
    others = [axis for axis in range(len(shape)) if axis not in gathered]
    if indices is None or any(params["slice_sizes"][axis] != shape[axis] for axis in others):
        return mixed(operands, params, shapes)[0]
    (axis,) = gathered
    batch = [to for to in range(len(shapes[0])) if to not in offsets]
    # Of several axes of indices, the line keeps the first.
    places = indices[..., 0].reshape(indices.shape[0] if batch else 1, -1).clip(0, shape[axis] - 1)

    def gather(line: Line) -> Line:
        if line.axis is None:
            return line
        if line.axis != axis:
            return line.along(offsets[others.index(line.axis)])
        read = _by_table(line, shape[axis], batch[0] if batch else axis, places, np.ones_like(places))
        return read if batch else read.together

    return _each(operands.seen[0], gather)


@_rule("concatenate")
def _concatenate(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    axis: int = params["dimension"]
    if all(seen is None or axis not in (seen[0].axis, seen[1].axis) for seen in operands.seen):
        return union(operands.seen, shapes[0])
    lengths = [shape[axis] for shape in operands.shapes]

    def concatenate(lines: list[Line | None]) -> Line:
        some = [line for line in lines if line is not None]
        if any(line.axis == axis for line in some):
            return _concatenated(axis, lines, lengths)
        return joined(some, shapes[0])

    vertical = concatenate([seen and seen[0] for seen in operands.seen])
    return vertical, concatenate([seen and seen[1] for seen in operands.seen])


def _concatenated(axis: int, lines: list[Line | None], lengths: list[int]) -> Line:
    """Joins lines end to end. The longest line continues into constant parts, and decides which entries are regular."""
    lines = [line if line is None else line.unfolded(n) for line, n in zip(lines, lengths, strict=True)]
    if any(line is not None and line.axis not in (axis, None) for line in lines) or all(
        line is None or line.axis is None for line in lines
    ):
        return joined([line.together for line in lines if line is not None], ())
    starts = np.cumsum([0, *lengths])
    longest = max(range(len(lines)), key=lambda i: lengths[i] if lines[i] and lines[i].axis == axis else -1)  # pyright: ignore[reportOptionalMemberAccess]
    main = lines[longest]
    assert main is not None
    places = np.arange(starts[-1]) - starts[longest]
    whole = main.read(places[:, None], None, Fraction(1))
    first, last = whole.first.copy(), whole.last.copy()
    for line, start, length in zip(lines, starts, lengths, strict=False):
        if line is not None:
            first[start : start + length], last[start : start + length] = line.first, line.last
    follows = (first == whole.first) & (last == whole.last)
    low, high = whole.regular
    while low < high and not follows[low:high].all():
        wrong = low + np.flatnonzero(~follows[low:high])
        before = wrong[wrong < starts[longest]]
        low, high = (int(before[-1]) + 1, high) if before.size else (low, int(wrong[0]))
    if 2 * (high - low) < len(first):
        low, high = 0, len(first)
    return Line(main.size, axis, 1, first, last, main.stride, (low, high))


@_rule("split")
def _split(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> list[Seen]:
    axis, starts = params["axis"], np.cumsum([0, *params["sizes"]])
    length = operands.shapes[0][axis]
    return [
        _read(operands.seen[0], axis, length, start + np.arange(size)[:, None], None, Fraction(1))
        for start, size in zip(starts, params["sizes"], strict=False)
    ]


# Products and sums over channels


@_rule("dot_general")
def _product(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    contracted, batched = params["dimension_numbers"]
    free = [
        [axis for axis in range(len(operands.shapes[i])) if axis not in (*contracted[i], *batched[i])] for i in (0, 1)
    ]
    batch = len(batched[0])
    starts = batch, batch + len(free[0])
    seen = [
        _moved(
            operands.seen[i],
            {axis: to for to, axis in enumerate(batched[i])}
            | {axis: starts[i] + to for to, axis in enumerate(free[i])},
        )
        for i in (0, 1)
    ]
    return union(seen, shapes[0])


@_rule("jaxcnn_own_moments", "jaxcnn_moments")
def _moments(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> list[Seen]:
    *images, shift = operands.seen
    seen = [*(_moved(image, {0: 0, 2: 1}) for image in images), _vectors(shift, operands.shapes[-1], shapes[0], 1)]
    return [union(seen, shapes[0])] * 2


@_rule("jaxcnn_affine", "jaxcnn_multiply")
def _affine(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    vectors = [
        _vectors(seen, shape, shapes[0], 2) for seen, shape in zip(operands.seen[1:], operands.shapes[1:], strict=True)
    ]
    return union([operands.seen[0], *vectors], shapes[0])


def _vectors(seen: Seen, shape: Shape, like: Shape, channels: int) -> Seen:
    """Spreads an array of shape (1 or images, channels) over one of shape (images, ..., channels)."""
    return _moved(seen, {1: channels} | ({0: 0} if shape[0] == like[0] else {}))


@_rule("dynamic_update_slice")
def _update(operands: Operands, params: dict[str, Any], shapes: Sequence[Shape]) -> Seen:
    return union([operands.seen[0], *(together(seen) for seen in operands.seen[1:])], shapes[0])
