import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees
from jaxcnn.inspection import count_multiply_adds, gradient_support
from jaxcnn.layers import arithmetic, count_parameters, multiply_adds, output_shape, receptive_field
from jaxcnn.models import small_unet, unet


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
