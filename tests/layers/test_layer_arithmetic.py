import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from unittest.mock import ANY

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from user_blocks import USER_BLOCKS, shared_head, squeeze_excite_block

from jaxcnn import ops, trees
from jaxcnn.inspection import gradient_support
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AuxiliaryHeads,
    AvgPool,
    BatchNorm,
    Composite,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    DropPath,
    Flatten,
    Function,
    Gate,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    LayerScale,
    MaxPool,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Residual,
    Resize,
    Sequential,
    arithmetic,
    count_parameters,
    identity,
    multiply_adds,
    output_shape,
    receptive_field,
    summary,
)
from jaxcnn.layers.stateless import Stateless
from jaxcnn.tracing import ReceptiveField, Span

RELU = Function(jax.nn.relu)

# The roads that are compared with: the formulas of the papers for sizes and work, gradients for receptive fields.


def by_formulas(layer, shape):
    """Returns the output shape and the multiply-adds of a layer by Dumoulin & Visin 2016, and Howard et al. 2017."""
    if isinstance(layer, Sequential):
        total = 0
        for _, inner in layer.layers:
            shape, work = by_formulas(inner, shape)
            total += work
        return shape, total
    if isinstance(layer, Residual):
        body, shortcut = by_formulas(layer.body, shape), by_formulas(layer.shortcut, shape)
        assert body[0] == shortcut[0]
        return body[0], body[1] + shortcut[1]
    if isinstance(layer, Conv):
        size = ops.conv_output_size(
            shape[:2], layer.kernel_size, strides=layer.strides, padding=layer.padding, dilation=layer.dilation
        )
        taps = math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        return (*size, layer.out_channels), math.prod(size) * layer.out_channels * taps
    if isinstance(layer, MaxPool | AvgPool):
        options = {"strides": layer.strides, "padding": layer.padding, "ceil_mode": layer.ceil_mode}
        return (*ops.pool_output_size(shape[:2], layer.window_shape, **options), shape[2]), 0
    return shape, 0


def check_totals(layer, shape):
    """Checks that the rows add up to what the whole layer draws and returns, and to its multiply-adds."""
    rows = arithmetic(layer, shape)
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    result = jax.eval_shape(
        lambda *args: layer.apply(*args, train=False)[0], params, state, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert output_shape(layer, shape) == rows[-1].output_shape == result.shape
    assert count_parameters(layer) == sum(row.parameters for row in rows) == trees.count(params)
    assert multiply_adds(layer, shape) == sum(row.multiply_adds for row in rows if not row.training_only)


def extent(support):
    """Returns (first, length) of the marked pixels, (vertical, horizontal)."""
    ends = [np.flatnonzero(support.any(axis)) for axis in (1, 0)]
    return [(int(pixels[0]), int(pixels[-1] - pixels[0]) + 1) for pixels in ends]


def check_by_gradients(layer, shape):
    """Compares the field of the middle output pixel, which must lie inside the image, with its gradient's support."""
    params, state = layer.init(jax.random.key(0))
    field = receptive_field(layer, shape)
    middle = [size // 2 for size in output_shape(layer, shape)[:2]]
    expected = [
        (span.start + i * span.stride, span.size) for i, span in zip(middle, (field.height, field.width), strict=True)
    ]
    for (first, length), size in zip(expected, shape[:2], strict=True):
        assert first >= 0
        assert first + length <= size
    assert extent(gradient_support(layer, params, state, shape)) == expected


# Random stacks of layers


def random_layer(rng, channels):
    """Draws a layer and its output channels."""

    def pair(high):
        return tuple(rng.integers(1, high + 1, 2).tolist())

    kind = rng.choice(["conv", "depthwise", "pool", "residual"])
    if kind == "residual":
        strides = pair(2)
        out = int(rng.choice([channels, 6]))
        body = Sequential(
            conv1=Conv(channels, 4, 3, strides, padding=1), relu=RELU, conv2=Conv(4, out, 3, padding=1, use_bias=False)
        )
        if strides == (1, 1) and out == channels:
            return Residual(body), out
        return Residual(body, Conv(channels, out, 1, strides), RELU), out
    strides = pair(2)
    if kind == "pool":
        pool = MaxPool if rng.random() < 0.5 else AvgPool
        padding = ("VALID", "SAME", 1)[rng.integers(3)]
        return pool(tuple(rng.integers(2, 4, 2).tolist()), strides, padding, ceil_mode=bool(rng.integers(2))), channels
    kernel_size, dilation = pair(3), pair(2)
    sides = tuple(map(tuple, rng.integers(0, 3, (2, 2)).tolist()))
    padding = ("VALID", "SAME", 1, sides)[rng.integers(4)]
    groups, out = (1, int(rng.choice([4, 6]))) if kind == "conv" else (channels, 2 * channels)
    return Conv(channels, out, kernel_size, strides, padding, dilation, groups, use_bias=bool(rng.integers(2))), out


def random_stack(seed):
    """Draws up to three layers, with pointwise ones between, that leave some pixels of 48x44."""
    rng = np.random.default_rng(seed)
    channels, layers = 4, {}
    for i in range(rng.integers(1, 4)):
        layers[f"layer{i}"], channels = random_layer(rng, channels)
        layers[f"norm{i}"] = (identity, BatchNorm(channels), Dropout(0.5))[rng.integers(3)]
        layers[f"relu{i}"] = RELU
    return Sequential(**layers)


STACK_SHAPE = (48, 44, 4)


@pytest.mark.parametrize("seed", range(20))
def test_random_stacks_agree_with_formulas(seed):
    stack = random_stack(seed)
    check_totals(stack, STACK_SHAPE)
    assert (output_shape(stack, STACK_SHAPE), multiply_adds(stack, STACK_SHAPE)) == by_formulas(stack, STACK_SHAPE)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(10))
def test_random_stacks_agree_with_gradients(seed):
    check_by_gradients(random_stack(seed), STACK_SHAPE)


# One layer of each kind


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (AvgPool(3, 2, 1), (9, 8, 3)),
        (BatchNorm(3), (4, 5, 3)),
        (Concat(a=Conv(3, 8), b=identity, c=Sequential(a=Conv(3, 4, 5), b=RELU)), (9, 10, 3)),
        (Concat(a=Dense(7, 3), b=Sequential()), (7,)),
        (Conv(3, 8, (3, 5), (2, 1), ((1, 0), (2, 2)), (1, 2)), (9, 10, 3)),
        (Conv(6, 4, 3, groups=2, use_bias=False), (9, 10, 6)),
        (ConvTranspose(3, 4, 3, 2, 1, output_padding=1), (5, 6, 3)),
        (ConvTranspose(4, 6, (2, 4), (3, 2), groups=2, dilation=2), (5, 6, 4)),
        (Dense(7, 5), (7,)),
        (Dense(3, 5, use_bias=False), (4, 6, 3)),
        (Dropout(0.5), (4, 5, 3)),
        (DropPath(0.5), (7,)),
        (Flatten(), (4, 5, 3)),
        (Function(jnp.transpose, axes=(2, 0, 1)), (4, 5, 3)),
        (Gate(Sequential(pool=GlobalAvgPool(), a=Dense(3, 2), b=Dense(2, 3))), (4, 5, 3)),
        (Gate(Conv(3, 1)), (4, 5, 3)),
        (Residual(Gate(Sequential())), (7,)),
        (GlobalAvgPool(), (4, 5, 3)),
        (GlobalMaxPool(), (4, 5, 3)),
        (GroupNorm(6, 2), (4, 5, 6)),
        (LayerNorm(6), (4, 5, 6)),
        (LayerScale(6), (4, 5, 6)),
        (MaxPool((2, 3), ceil_mode=True), (9, 8, 3)),
        (Residual(Concat(a=Conv(3, 1), b=Conv(3, 2, 1))), (4, 5, 3)),
        (Residual(Conv(3, 3)), (4, 5, 3)),
        (Residual(Sequential(a=Conv(3, 8), b=RELU), Conv(3, 8, 1)), (4, 5, 3)),
        (Sequential(flatten=Flatten(), dense=Dense(60, 5)), (4, 5, 3)),
    ],
    ids=lambda value: repr(value) if not isinstance(value, tuple) else "",
)
def test_the_rows_of_a_layer_add_up_to_it(layer, shape):
    check_totals(layer, shape)


def test_auxiliary_heads_are_marked_and_have_no_work_in_evaluation():
    head = Sequential(pool=GlobalAvgPool(), dense=Dense(8, 5))
    layer = AuxiliaryHeads("aux", a=Conv(3, 8), aux=head, b=Conv(8, 4, 3, 2), pool=GlobalAvgPool(), head=Dense(4, 5))
    check_totals(layer, (9, 10, 3))
    assert output_shape(layer, (9, 10, 3)) == (5,)
    rows = {row.path: row for row in arithmetic(layer, (9, 10, 3))}
    assert list(rows) == ["a", "aux/pool", "aux/dense", "b", "pool", "head"]
    assert [path for path, row in rows.items() if row.training_only] == ["aux/pool", "aux/dense"]
    assert (rows["aux/dense"].parameters, rows["aux/dense"].multiply_adds) == (8 * 5 + 5, 8 * 5)
    assert multiply_adds(layer, (9, 10, 3)) == 9 * 10 * 9 * 3 * 8 + 5 * 5 * 9 * 8 * 4 + 4 * 5
    assert (rows["b"].receptive_field.size, rows["b"].output_shape) == ((5, 5), (5, 5, 4))


def test_a_head_is_not_the_end_of_layers_without_any():
    layer = AuxiliaryHeads("aux", a=Conv(3, 8, 5), aux=GlobalAvgPool(), b=Sequential())
    assert arithmetic(layer, (9, 10, 3))[-1].output_shape == output_shape(layer, (9, 10, 3)) == (9, 10, 8)
    assert receptive_field(layer, (9, 10, 3)).size == (5, 5)


def test_an_adaptive_pool_has_a_shape_and_no_kernel():
    layer = AdaptiveAvgPool((3, 2))
    assert (output_shape(layer, (7, 8, 4)), count_parameters(layer)) == ((3, 2, 4), 0)
    assert multiply_adds(layer, (7, 8, 4)) == 0


def test_a_transposed_convolution_of_stride_one_counts_each_stamp():
    layer = ConvTranspose(2, 3, 3, 1)
    assert multiply_adds(layer, (4, 5, 2)) == 4 * 5 * 9 * 2 * 3


# Golden numbers


def test_work_of_a_convolution_counts_every_tap_at_every_output():
    # 112 x 112 outputs of 64 filters of 7 x 7 x 3.
    assert multiply_adds(Conv(3, 64, 7, 2, 3), (224, 224, 3)) == 112 * 112 * 64 * 7 * 7 * 3 == 118_013_952


def test_a_depthwise_separable_convolution_costs_what_the_paper_says():
    # Howard et al. 2017, section 3.1: D_K^2 M D_F^2 + M N D_F^2.
    layer = Sequential(depthwise=Conv(32, 32, 3, groups=32), pointwise=Conv(32, 64, 1))
    assert multiply_adds(layer, (14, 14, 32)) == 9 * 32 * 14**2 + 32 * 64 * 14**2


@pytest.mark.parametrize(
    ("layers", "size", "stride", "start"),
    [
        ([Conv(1, 1, 3)], 3, 1, -1),
        ([Conv(1, 1, 3, 2, "VALID")], 3, 2, 0),
        ([Conv(1, 1, 3, dilation=4, padding="VALID")], 9, 1, 0),
        # Two 3x3 see 5x5, three see 7x7 (Simonyan & Zisserman 2015, section 2.3).
        ([Conv(1, 1, 3)] * 2, 5, 1, -2),
        ([Conv(1, 1, 3)] * 3, 7, 1, -3),
        # Dilations 1, 2, 4 double the field: 2^(i + 2) - 1 (Yu & Koltun 2016, section 2).
        ([Conv(1, 1, 3, dilation=2**i) for i in range(3)], 15, 1, -7),
        # r_0 = sum over l of (k_l - 1) prod of strides before, + 1 (Araujo et al. 2019, equation 2).
        ([Conv(1, 1, 7, 2, 3), MaxPool(3, 2, 1), Conv(1, 1, 3, padding=1)], 7 + 2 * 2 + 4 * 2, 4, -3 - 2 - 4),
        ([AvgPool(2), AvgPool(2), Conv(1, 1, 3, padding=1)], 4 + 4 * 2, 4, -4),
    ],
)
def test_receptive_fields_follow_the_formulas(layers, size, stride, start):
    field = receptive_field(Sequential(**{f"layer{i}": layer for i, layer in enumerate(layers)}), (64, 64, 1))
    assert field == ReceptiveField(
        Span(Fraction(size - 1), Fraction(stride), Fraction(start)),
        Span(Fraction(size - 1), Fraction(stride), Fraction(start)),
    )
    assert field.size == (size, size)
    assert str(field) == f"{size}x{size}"


def test_the_axes_of_a_field_are_height_and_width():
    field = receptive_field(Conv(1, 1, (3, 5), (1, 2), ((1, 0), (2, 2))), (16, 16, 1))
    assert (field.height, field.width) == (
        Span(Fraction(2), Fraction(1), Fraction(-1)),
        Span(Fraction(4), Fraction(2), Fraction(-2)),
    )
    assert str(field) == "3x5"


def test_a_residual_sees_what_body_and_shortcut_see():
    wide = Residual(Conv(1, 1, (5, 1)), Conv(1, 1, (1, 3)))
    assert receptive_field(wide, (16, 16, 1)).size == (5, 3)
    # The shortcut reaches two pixels further up, the body one further down.
    skewed = Residual(Conv(1, 1, 2, padding=((0, 1), (0, 1))), Conv(1, 1, 3, padding=((2, 0), (2, 0))))
    assert receptive_field(skewed, (16, 16, 1)).height == Span(Fraction(3), Fraction(1), Fraction(-2))
    check_by_gradients(skewed, (16, 16, 1))


def test_branches_side_by_side_see_together_what_each_of_them_sees():
    wide = Concat(a=Conv(1, 1, (5, 1)), b=Conv(1, 2, (1, 3)), c=identity)
    assert receptive_field(wide, (16, 16, 1)).size == (5, 3)
    skewed = Concat(
        up=Conv(1, 1, 3, padding=((2, 0), (2, 0))), here=Sequential(), down=Conv(1, 1, 3, padding=((0, 2), (0, 2)))
    )
    assert receptive_field(skewed, (16, 16, 1)).height == Span(Fraction(4), Fraction(1), Fraction(-2))
    check_by_gradients(skewed, (16, 16, 1))
    check_by_gradients(
        Sequential(a=Conv(1, 2, 3, 2, 1), b=Concat(c=Conv(2, 1), d=MaxPool(3, 1, 1)), e=Conv(3, 1)), (32, 32, 1)
    )
    assert receptive_field(Concat(a=Conv(1, 1), b=Sequential(c=GroupNorm(1, 1))), (16, 16, 1)).whole


@pytest.mark.parametrize(
    "layer", [GlobalAvgPool(), GlobalMaxPool(), GroupNorm(1, 1), Flatten(), Function(jnp.sum, axis=(0, 1))], ids=repr
)
def test_some_layers_see_the_whole_image(layer):
    field = receptive_field(Sequential(conv=Conv(1, 1, 3, 2), layer=layer), (12, 16, 1))
    assert field.whole
    assert field.size == (12, 16)
    assert str(field) == "all"


def test_what_has_seen_the_whole_image_sees_it_ever_after():
    layer = Sequential(norm=GroupNorm(1, 1), conv=Conv(1, 1, 3))
    assert [row.receptive_field.whole for row in arithmetic(layer, (12, 16, 1))] == [True, True]
    assert receptive_field(Residual(Conv(1, 1), GroupNorm(1, 1)), (12, 16, 1)).whole


@pytest.mark.parametrize(
    "layer", [BatchNorm(4), LayerNorm(4), LayerScale(4), Dense(4, 4), RELU, Dropout(0.5), DropPath(0.5)], ids=repr
)
def test_pointwise_layers_see_one_pixel(layer):
    assert receptive_field(layer, (12, 16, 4)) == ReceptiveField(*[Span(Fraction(0), Fraction(1), Fraction(0))] * 2)


def test_an_adaptive_pool_that_divides_the_image_is_an_average_pool():
    check_by_gradients(AdaptiveAvgPool((4, 3)), (12, 15, 1))
    assert receptive_field(AdaptiveAvgPool((4, 3)), (12, 15, 1)) == receptive_field(AvgPool((3, 5)), (12, 15, 1))


def test_an_adaptive_pool_counts_its_widest_window():
    # 7 pixels in 3 windows: 0 to 2, 2 to 4 and 4 to 6; 8 pixels in 3: 0 to 2, 2 to 5, 5 to 7.
    assert receptive_field(AdaptiveAvgPool(3), (7, 8, 1)).size == (3, 4)


@pytest.mark.parametrize(
    "layer",
    [
        Resize(7),
        Resize((29, 5), method="bicubic"),
        Resize((5, 29), method="nearest"),
        Resize((29, 5), method="nearest-exact"),
        Resize((5, 29), align_corners=True),
        Resize((7, 3), method="area"),
        Resize(scale_factor=(0.4, 1.3)),
        Resize(scale_factor=(2.3, 0.7), method="bicubic"),
        Resize(scale_factor=0.45, method="nearest"),
        PixelShuffle(1),
        PixelUnshuffle(3),
        MaxPool(3, 2, padding=2, dilation=2),
    ],
    ids=repr,
)
def test_the_receptive_field_of_a_layer_that_samples_holds_what_its_outputs_see(layer):
    shape = (21, 21, 1)
    field = receptive_field(layer, shape)
    twin = AvgPool(5, 2, padding=2) if isinstance(layer, MaxPool) else layer
    seen = fields_along_rows(twin, shape)
    assert max(length for _, length in seen) == field.height.size
    for i, (first, length) in enumerate(seen):
        start = field.height.start + i * field.height.stride
        # An output at the border sees less; what it sees beyond is the outermost pixel.
        assert start <= first
        assert first + length - 1 <= max(start + field.height.extent, 0)


def test_an_antialiased_resize_and_a_pixel_shuffle_see_at_most_their_field():
    for layer, shape in ((Resize(7, antialias=True), (21, 21, 1)), (PixelShuffle(2), (6, 6, 4))):
        field = receptive_field(layer, shape)
        for i, (first, length) in enumerate(fields_along_rows(layer, shape)):
            start = field.height.start + i * field.height.stride
            assert start <= first
            assert first + length - 1 <= start + field.height.extent
    assert output_shape(PixelShuffle(2), (6, 6, 4)) == (12, 12, 1)
    assert output_shape(PixelUnshuffle(2), (6, 4, 1)) == (3, 2, 4)
    assert output_shape(Resize(scale_factor=(0.5, 1.7)), (7, 5, 3)) == (3, 8, 3)


# Transposed convolutions: neighbouring output pixels see different numbers of input pixels.


def fields_along_rows(layer, shape):
    """Returns (first, length) of the input rows that each output row sees, None where it sees nothing."""
    params, state = layer.init(jax.random.key(0))
    positive = jax.tree.map(jnp.abs, params)
    linear = jax.jit(jax.jacobian(lambda x: jnp.sum(layer.apply(positive, state, x, train=False)[0], (1, 2))))
    support = np.asarray(linear(jnp.ones(shape)) != 0).any((2, 3))
    places = [np.flatnonzero(row) for row in support]
    return [(int(p[0]), int(p[-1] - p[0]) + 1) if p.size else None for p in places]


def widest(seen):
    """Returns the length of the longest field of the rows in the middle, which no border cuts short."""
    return max(field[1] for field in seen[len(seen) // 4 : -len(seen) // 4] if field is not None)


def check_transposed(layer, shape=(13, 3, 1)):
    span = receptive_field(layer, shape).height
    seen = fields_along_rows(layer, shape)
    assert span.size == widest(seen)
    for i, field in enumerate(seen):
        if field is not None:
            assert field[0] >= max(math.ceil(span.start + i * span.stride), 0)
            assert sum(field) <= math.floor(span.start + i * span.stride) + span.size + (span.stride.denominator > 1)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_transposed_convolution_sees_what_gradients_see(kernel, strides, padding):
    if padding < kernel:
        check_transposed(ConvTranspose(1, 1, kernel, strides, padding))


def test_a_dilated_transposed_convolution_sees_what_gradients_see():
    check_transposed(ConvTranspose(1, 1, 3, 2, dilation=2))
    check_transposed(ConvTranspose(1, 1, 3, 1, dilation=3))
    check_transposed(ConvTranspose(1, 1, 3, 2, dilation=3))


def test_of_a_transposed_convolution_whose_taps_miss_pixels_the_field_is_an_upper_bound():
    layer, shape = ConvTranspose(1, 1, 3, 3, dilation=2), (7, 3, 1)
    assert widest(fields_along_rows(layer, shape)) == 1 < receptive_field(layer, shape).height.size == 2


def test_layers_after_a_transposed_convolution_see_what_gradients_see():
    check_transposed(Sequential(a=ConvTranspose(1, 1, 2, 2), b=Conv(1, 1, 3)))


def test_between_strides_and_a_transposed_convolution_the_field_is_an_upper_bound():
    layer, shape = Sequential(a=Conv(1, 1, 3, 2), b=ConvTranspose(1, 1, 4, 2, 1), c=Conv(1, 1, 3)), (25, 3, 1)
    assert widest(fields_along_rows(layer, shape)) == 7 < receptive_field(layer, shape).height.size == 8


@pytest.mark.parametrize("kernel", [2, 4])
def test_an_even_kernel_after_a_transposed_convolution_sees_what_gradients_see(kernel):
    check_transposed(Sequential(a=ConvTranspose(1, 1, kernel, 2), b=Conv(1, 1, 2, padding="VALID")))


# Rows, and layers of one's own


def test_rows_list_the_layers_in_order_of_use():
    model = Sequential(
        stem=Conv(3, 4, 3, 2),
        block=Residual(Sequential(conv=Conv(4, 4), relu=RELU), Conv(4, 4, 1, use_bias=False)),
        pool=GlobalAvgPool(),
        head=Dense(4, 2),
    )
    rows = arithmetic(model, (8, 8, 3))
    assert [(row.path, row.layer, row.output_shape, row.parameters, row.multiply_adds) for row in rows] == [
        ("stem", Conv(3, 4, 3, 2), (4, 4, 4), 3 * 9 * 4 + 4, 16 * 9 * 3 * 4),
        ("block/conv", Conv(4, 4), (4, 4, 4), 4 * 9 * 4 + 4, 16 * 9 * 4 * 4),
        ("block/relu", RELU, (4, 4, 4), 0, 0),
        ("block/shortcut", Conv(4, 4, 1, use_bias=False), (4, 4, 4), 16, 16 * 16),
        ("block", model["block"], (4, 4, 4), 0, 0),
        ("pool", GlobalAvgPool(), (4,), 0, 0),
        ("head", Dense(4, 2), (2,), 10, 8),
    ]
    assert [str(row.receptive_field) for row in rows] == ["3x3", "7x7", "7x7", "3x3", "7x7", "all", "all"]


def test_branches_have_a_row_of_their_own_where_they_are_joined():
    join = Concat(skip=identity, deeper=Sequential(conv=Conv(4, 2), relu=RELU))
    rows = arithmetic(Sequential(stem=Conv(3, 4, 3, 2), join=join, head=Conv(6, 2, 1)), (8, 8, 3))
    assert [
        (row.path, row.output_shape, row.parameters, row.multiply_adds, str(row.receptive_field)) for row in rows
    ] == [
        ("stem", (4, 4, 4), 3 * 9 * 4 + 4, 16 * 9 * 3 * 4, "3x3"),
        ("join/skip", (4, 4, 4), 0, 0, "3x3"),
        ("join/deeper/conv", (4, 4, 2), 4 * 9 * 2 + 2, 16 * 9 * 4 * 2, "7x7"),
        ("join/deeper/relu", (4, 4, 2), 0, 0, "7x7"),
        ("join", (4, 4, 6), 0, 0, "7x7"),
        ("head", (4, 4, 2), 14, 16 * 6 * 2, "7x7"),
    ]
    assert rows[4].layer == join


def test_a_single_layer_has_one_row_without_a_path():
    (row,) = arithmetic(Dense(3, 2), (3,))
    assert (row.path, row.output_shape, row.receptive_field.whole) == ("", (2,), True)


class Halve(Stateless):
    """A layer of one's own."""

    def apply(self, params, state, x, *, train, key=None):
        return x[::2, ::2] @ jnp.ones((3, 3)), state


def test_a_layer_of_ones_own_has_a_row_like_others():
    model = Sequential(conv=Conv(3, 3), halve=Halve(), last=Conv(3, 3))
    assert output_shape(model, (9, 8, 3)) == (5, 4, 3)
    assert multiply_adds(model, (8, 8, 3)) == 64 * 81 + 16 * 9 + 16 * 81
    assert [(row.path, row.multiply_adds, str(row.receptive_field)) for row in arithmetic(model, (8, 8, 3))] == [
        ("conv", 64 * 81, "3x3"),
        ("halve", 16 * 9, "3x3"),
        ("last", 16 * 81, "7x7"),
    ]
    check_by_gradients(model, (16, 16, 3))


def test_any_function_of_an_image_has_them():
    def blur(x):
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (3, 1, 1), (2, 1, 1), "VALID") @ jnp.ones((3, 2))

    assert output_shape(blur, (9, 8, 3)) == (4, 8, 2)
    assert multiply_adds(blur, (9, 8, 3)) == 4 * 8 * 2 * 3
    assert receptive_field(blur, (9, 8, 3)).size == (3, 1)


@pytest.mark.parametrize(
    ("shape", "build"), [(shape, build) for cases in USER_BLOCKS.values() for shape, build in cases]
)
def test_blocks_of_users_have_rows(shape, build):
    block = build()
    rows = arithmetic(block, shape)
    assert count_parameters(block) == sum(row.parameters for row in rows)
    assert multiply_adds(block, shape) == sum(row.multiply_adds for row in rows)
    last = output_shape(block, shape)
    assert rows[-1].output_shape in (last, *(last.values() if isinstance(last, dict) else ()))


def test_a_block_of_ones_own_has_a_row_where_it_computes_something():
    rows = arithmetic(squeeze_excite_block(4, 6), (6, 5, 4))
    assert [(row.path, str(row.receptive_field)) for row in rows if not row.parameters] == [
        ("excite/pool", "all"),
        ("excite", "all"),
        ("", "all"),
    ]


def test_a_shared_layer_has_a_row_for_each_call_and_its_parameters_once():
    rows = {row.path: row for row in arithmetic(shared_head(), (8, 6, 4))}
    assert (rows["conv"].parameters, rows["conv#2"].parameters) == (5 * 9 * 5, 0)
    assert (rows["conv"].output_shape, rows["conv#2"].output_shape) == ((4, 3, 5), (8, 6, 5))
    assert (str(rows["conv"].receptive_field), str(rows["conv#2"].receptive_field)) == ("9x9", "8x8")


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv(3, 4), (8, 8, 4), r"conv expects an image of 3 channels .*, got 4 \(an image of shape \(8, 8, 4\)\)"),
        (Conv(3, 4), (8,), r"conv expects one image of shape \(height, width, channels\), got \(8,\)"),
        (ConvTranspose(3, 4), (8, 8, 4), "conv_transpose expects an image of 3 channels .*, got 4"),
        (Conv(3, 4, 9, padding="VALID"), (8, 8, 3), "a kernel that fits the padded image of 8x8 .* spans 9x9"),
        (Dense(3, 4), (8, 8, 4), r"dense expects 3 features on the last axis, got shape \(8, 8, 4\)"),
        (BatchNorm(3), (8, 8, 4), r"BatchNorm expects 3 channels on the last axis, got shape \(8, 8, 4\)"),
        (GroupNorm(4, 2), (8, 8, 2), r"group_norm expects a scale of shape \(2,\), one for each channel, got \(4,\)"),
        (LayerScale(3), (8,), r"LayerScale expects 3 channels on the last axis, got shape \(8,\)"),
        (LayerNorm(3), (8,), r"LayerNorm expects 3 channels on the last axis, got shape \(8,\)"),
        (MaxPool(2), (8,), r"max_pool expects one image of shape \(height, width, channels\), got \(8,\)"),
        (AvgPool(9), (8, 8, 3), r"a window of \(9, 9\) for an image of \(8, 8\)"),
        (GlobalAvgPool(), (8,), "global_avg_pool expects one image"),
        (GlobalMaxPool(), (8,), "global_max_pool expects one image"),
        (AdaptiveAvgPool(2), (8,), "adaptive_avg_pool expects one image"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_where_they_do_not(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        output_shape(layer, shape)
    with pytest.raises(ValueError, match=message) as caught:
        arithmetic(Sequential(a=Sequential(b=layer)), shape)
    assert caught.value.__notes__ == ["in layer 'a/b'"]


@pytest.mark.parametrize("formula", [arithmetic, output_shape])
def test_a_residual_of_different_shapes_is_refused(formula):
    with pytest.raises(ValueError, match=r"the same shape, got \(8, 8, 4\) and \(8, 8, 3\)"):
        formula(Residual(Conv(3, 4)), (8, 8, 3))


def test_a_gate_has_a_row_after_those_of_its_body():
    gate = Gate(Sequential(conv=Conv(4, 1, 5, padding=((0, 4), (2, 2))), sigmoid=Function(jax.nn.sigmoid)))
    rows = arithmetic(Sequential(stem=Conv(3, 4, 3, 2), gate=gate), (16, 16, 3))
    assert [
        (row.path, row.output_shape, row.parameters, row.multiply_adds, str(row.receptive_field)) for row in rows
    ] == [
        ("stem", (8, 8, 4), 3 * 9 * 4 + 4, 64 * 9 * 3 * 4, "3x3"),
        ("gate/conv", (8, 8, 1), 25 * 4 + 1, 64 * 25 * 4, "11x11"),
        ("gate/sigmoid", (8, 8, 1), 0, 0, "11x11"),
        ("gate", (8, 8, 4), 0, 0, "11x11"),
    ]
    check_by_gradients(Gate(Conv(1, 1, 3, padding=1)), (16, 16, 1))
    assert receptive_field(Gate(GlobalAvgPool()), (16, 16, 1)).whole


@pytest.mark.parametrize("formula", [arithmetic, output_shape])
def test_weights_that_do_not_spread_are_refused(formula):
    message = r"broadcasts to the input shape \(8, 8, 3\), got \(4, 4, 3\)"
    with pytest.raises(ValueError, match=message) as caught:
        formula(Sequential(gate=Gate(MaxPool(2))), (8, 8, 3))
    assert formula is output_shape or caught.value.__notes__ == ["in layer 'gate'"]


@pytest.mark.parametrize("formula", [arithmetic, output_shape])
def test_branches_of_different_sizes_are_refused(formula):
    message = r"Concat expects branches that differ in channels only, got a \(8, 8, 3\), b \(4, 4, 3\); give"
    with pytest.raises(ValueError, match=message) as caught:
        formula(Sequential(join=Concat(a=identity, b=MaxPool(2))), (8, 8, 3))
    assert formula is output_shape or caught.value.__notes__ == ["in layer 'join'"]


def test_no_layers_see_one_pixel():
    assert receptive_field(Sequential(), (8, 8, 3)).size == (1, 1)


def test_padding_shifts_what_is_seen_and_costs_nothing():
    model = Sequential(pad=Pad(((1, 0), (2, 2))), pool=MaxPool(3, strides=2))
    assert output_shape(model, (8, 8, 4)) == (4, 5, 4)
    assert multiply_adds(model, (8, 8, 4)) == 0
    field = receptive_field(model, (8, 8, 4))
    assert (field.size, field.height.start, field.width.start) == ((3, 3), -1, -2)


@dataclass(frozen=True, repr=False)
class Repeated(Composite):
    conv: Conv
    repeat: Callable

    def forward(self, run, x):
        return self.repeat(run.conv, x)


def scanned(layer, x):
    return jax.lax.scan(lambda carry, _: (layer(carry), None), x, length=3)[0]


def counted_loop(layer, x):
    return jax.lax.fori_loop(0, 3, lambda _, carry: layer(carry), x)


def loop_in_a_loop(layer, x):
    return jax.lax.map(lambda one: scanned(layer, one), jnp.stack([x, x]))[0]


def vmapped(layer, x):
    return jnp.sum(jax.vmap(layer)(jnp.stack([x, x, x])), 0)


def compiled_once(layer, x):
    layer = jax.jit(layer)
    return layer(layer(layer(x)))


def recomputed(layer, x):
    return jax.checkpoint(layer)(x)


def one_branch(layer, x):
    return jax.lax.cond(x[0, 0, 0] > 0, layer, lambda x: x, x)


def unknown_length(layer, x):
    return jax.lax.while_loop(
        lambda carry: carry[0] < 3, lambda carry: (carry[0] + 1, layer(carry[1])), (x[0, 0, 0], x)
    )[1]


@pytest.mark.parametrize(
    ("repeat", "calls", "field"),
    [
        (scanned, 3, None),
        (counted_loop, 3, None),
        (loop_in_a_loop, 6, None),
        (vmapped, 3, None),
        (compiled_once, 3, (7, 7)),
        (one_branch, 1, ANY),
        (unknown_length, 1, None),
        (recomputed, 1, (3, 3)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_layer_in_a_loop_has_its_parameters_once_and_the_work_of_all_steps(repeat, calls, field):
    model = Sequential(stem=Conv(3, 2), body=Repeated(Conv(2, 2), repeat), last=Conv(2, 4))
    stem, body, last = 64 * 9 * 3 * 2, calls * 64 * 9 * 2 * 2, 64 * 9 * 2 * 4
    assert multiply_adds(model, (8, 8, 3)) == stem + body + last
    table = summary(model, (8, 8, 3))
    assert (table.parameters, table.multiply_adds) == (count_parameters(model), stem + body + last)
    rows = [row for row in table.rows if row.path == "body/conv"]
    assert sum(row.multiply_adds for row in rows) == body
    inside = receptive_field(Repeated(Conv(2, 2), repeat), (8, 8, 2))
    assert inside.whole if field is None else inside.size == field


def test_a_layer_in_a_loop_of_unknown_length_sees_the_whole_image():
    (row, _) = arithmetic(Sequential(body=Repeated(Conv(2, 2), unknown_length)), (32, 32, 2))
    assert row.receptive_field.whole
