import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees
from jaxcnn.inspection import count_multiply_adds, gradient_support
from jaxcnn.layers import (
    Conv,
    GlobalAvgPool,
    arithmetic,
    count_parameters,
    multiply_adds,
    output_shape,
    receptive_field,
)
from jaxcnn.models import small_unet, unet, unet_2015
from jaxcnn.models.segmentation.u_net import CroppedConcat


def test_parameters_are_as_many_as_known():
    # The two counts that the padded network with batch norm is known by.
    assert count_parameters(unet(1)) == 31_037_633
    assert count_parameters(unet(2)) == 31_037_698
    assert count_parameters(small_unet(2)) == 482_754
    assert small_unet(5, in_channels=1) == unet(5, in_channels=1, width=16, depth=3)


@pytest.mark.parametrize(("width", "depth", "in_channels", "classes"), [(4, 1, 3, 2), (4, 3, 1, 5), (6, 2, 3, 1)])
def test_parameters_are_the_sum_over_the_levels(width, depth, in_channels, classes):
    def block(inputs, outputs):
        return 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs

    total = width * classes + classes
    for i in range(depth + 1):
        total += block(in_channels if i == 0 else width * 2 ** (i - 1), width * 2**i)
    for i in range(depth):
        total += 4 * (2 * width * 2**i) * (width * 2**i) + width * 2**i
        total += block(2 * width * 2**i, width * 2**i)
    assert count_parameters(unet(classes, in_channels=in_channels, width=width, depth=depth)) == total


def test_maps_halve_and_double_as_in_the_paper():
    rows = {row.path: row.output_shape for row in arithmetic(unet(), (128, 96, 3))}
    path, below = "level0", [((128, 96), 64), ((64, 48), 128), ((32, 24), 256), ((16, 12), 512)]
    for i, (size, channels) in enumerate(below):
        assert rows[f"{path}/encode/relu2"] == (*size, channels)
        assert rows[f"{path}/join"] == (*size, 2 * channels)
        assert rows[f"{path}/decode/relu2"] == (*size, channels)
        path = f"{path}/join/deeper/level{i + 1}"
    assert rows[f"{path}/relu2"] == (8, 6, 1024)
    assert rows["head"] == (128, 96, 2)


def test_work_and_shape_agree_with_tracing():
    model, image = unet(3, width=4, depth=2), jax.ShapeDtypeStruct((16, 12, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == output_shape(model, image.shape) == (16, 12, 3)


def test_parameters_are_named_by_level():
    params, state = jax.eval_shape(unet(width=4, depth=2).init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert names["level0/encode/conv1/kernel"].shape == (3, 3, 3, 4)
    assert names["level0/join/deeper/up/kernel"].shape == (2, 2, 8, 4)
    assert names["level0/join/deeper/level1/decode/conv1/kernel"].shape == (3, 3, 16, 8)
    assert names["level0/join/deeper/level1/join/deeper/level2/conv2/kernel"].shape == (3, 3, 16, 16)
    assert names["head/bias"].shape == (2,)
    assert "level0/decode/norm2/var" in trees.named_leaves(state)


def test_a_pixel_sees_no_more_than_the_receptive_field_says():
    model, shape = unet(1, in_channels=1, width=1, depth=2), (96, 96, 1)
    params, state = model.init(jax.random.key(0))
    seen = np.flatnonzero(gradient_support(model, params, state, shape).any(1))
    height = receptive_field(model, shape).height
    # An upper bound, as after every transposed convolution that undoes a stride.
    assert height.start + 48 * height.stride <= seen[0]
    assert seen[-1] <= height.start + 48 * height.stride + height.extent
    assert height.size - 8 <= seen[-1] - seen[0] + 1 <= height.size


@pytest.mark.slow
@pytest.mark.heavy
def test_every_pixel_of_a_batch_has_its_logits(key):
    model = unet(3, in_channels=1, width=2, depth=1)
    params, state = model.init(key)
    logits, new_state = batched(model)(params, state, jnp.ones((2, 6, 4, 1)), train=True)
    assert logits.shape == (2, 6, 4, 3)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


@pytest.mark.parametrize("size", [(100, 128), (128, 120), (8, 8)])
def test_an_image_that_cannot_be_halved_so_often_is_refused(size):
    model, message = unet(), rf"multiples of 16, since it halves the image 4 times, got {size[0]}x{size[1]}; pad"
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((*size, 3), jnp.float32)
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(functools.partial(model.apply, train=False), params, state, image)
    assert "in layer 'check'" in caught.value.__notes__
    with pytest.raises(ValueError, match=message):
        arithmetic(model, image.shape)


def test_a_batch_is_refused_with_what_to_do(key):
    model = unet(width=1, depth=1)
    with pytest.raises(ValueError, match=r"unet expects one image .* got \(2, 4, 4, 3\); map it over a batch"):
        model.apply(*model.init(key), jnp.ones((2, 4, 4, 3)), train=False)


@pytest.mark.parametrize("option", ["width", "depth"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_a_width_or_depth_that_is_none_is_refused(option, value):
    with pytest.raises(ValueError, match=f"unet expects {option} to be an int of at least 1, got {value}"):
        unet(**{option: value})


def test_the_u_net_of_2015_has_the_sizes_of_figure_1():
    model = unet_2015()
    rows = {row.path: row.output_shape for row in arithmetic(model, (572, 572, 1))}
    path, down, up = "level0", [568, 280, 136, 64], [388, 196, 100, 52]
    for i, (before, after) in enumerate(zip(down, up, strict=True)):
        channels = 64 * 2**i
        assert rows[f"{path}/encode/relu2"] == (before, before, channels)
        assert rows[f"{path}/join"] == (after + 4, after + 4, 2 * channels)
        assert rows[f"{path}/decode/relu2"] == (after, after, channels)
        path = f"{path}/join/deeper/level{i + 1}"
    assert rows[f"{path}/relu2"] == (28, 28, 1024)
    assert rows["head"] == (388, 388, 2)
    # Kernels and biases, counted by level: two convolutions down, one up and two convolutions after it.
    widths = [64, 128, 256, 512, 1024]
    down = sum(9 * (a + b) * b + 2 * b for a, b in zip([1, *widths], widths, strict=False))
    up = sum(4 * 2 * a * a + a + 9 * 3 * a * a + 2 * a for a in widths[:-1])
    assert count_parameters(model) == down + up + 64 * 2 + 2 == 31_030_658


@pytest.mark.parametrize("depth", [1, 2])
def test_the_u_net_of_2015_takes_the_images_that_it_can_halve_and_names_the_next_size(depth):
    model = unet_2015(width=1, depth=depth)

    def size_after(size):
        """Follows one side of the image through the levels; None if a map cannot be halved or nothing is left."""
        for _ in range(depth):
            size -= 4
            if size % 2 or size <= 0:
                return None
            size //= 2
        size -= 4
        for _ in range(depth):
            size = 2 * size - 4
        return size if size > 0 else None

    sizes = [size for size in range(1, 60) if size_after(size)]
    for size in range(14, 56):
        if size in sizes:
            assert output_shape(model, (size, sizes[0], 1)) == (size_after(size), size_after(sizes[0]), 2)
        else:
            larger = next(other for other in sizes if other > size)
            with pytest.raises(ValueError, match=rf"got {size}x{sizes[0]}; pad it to {larger}x{sizes[0]}, as by"):
                output_shape(model, (size, sizes[0], 1))


@pytest.mark.parametrize("option", ["width", "depth"])
def test_the_u_net_of_2015_refuses_no_width_or_depth(option):
    with pytest.raises(ValueError, match=f"unet_2015 expects {option} to be an int of at least 1, got 0"):
        unet_2015(**{option: 0})


def test_dropout_is_at_the_end_of_the_contracting_path():
    rows = [row.path for row in arithmetic(unet_2015(width=1), (188, 188, 1)) if row.path.endswith("dropout")]
    deepest = "level0/join/deeper/level1/join/deeper/level2/join/deeper/level3"
    assert rows == [f"{deepest}/encode/dropout", f"{deepest}/join/deeper/level4/dropout"]


def test_a_skip_is_cropped_to_its_centre(key):
    layer, x = CroppedConcat(Conv(1, 1, (3, 5), padding="VALID")), jnp.arange(42.0).reshape(6, 7, 1)
    y, _ = layer.apply(*layer.init(key), x, train=False)
    assert y.shape == (4, 3, 2)
    np.testing.assert_array_equal(y[..., 0], np.arange(42).reshape(6, 7)[1:5, 2:5])


@pytest.mark.parametrize("deeper", [Conv(1, 1, 2, padding="VALID"), Conv(1, 1, 3, padding=2), GlobalAvgPool()])
def test_a_skip_that_has_no_such_centre_is_refused(key, deeper):
    layer = CroppedConcat(deeper)
    with pytest.raises(ValueError, match=r"smaller than those of the input by even numbers, got \(.*1,?\) of"):
        layer.apply(*layer.init(key), jnp.ones((6, 6, 1)), train=False)
