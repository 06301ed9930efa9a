import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import Dense, arithmetic, count_parameters, multiply_adds
from jaxcnn.models import shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0
from jaxcnn.models.shufflenet import downsampling_unit, shuffle_unit, shufflenet_v2

by_name = {"ids": lambda value: getattr(value, "__name__", None)}


@pytest.mark.parametrize(
    ("build", "parameters", "megas"),
    [
        (shufflenet_v2_x0_5, 1_366_792, 40),
        (shufflenet_v2_x1_0, 2_278_604, 145),
        (shufflenet_v2_x1_5, 3_503_624, 296),
        (shufflenet_v2_x2_0, 7_393_996, 583),
    ],
    **by_name,
)
def test_parameters_and_work_are_as_published(build, parameters, megas):
    assert count_parameters(build()) == parameters
    assert round(multiply_adds(build(), (224, 224, 3)) / 1e6) == megas


def test_maps_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(shufflenet_v2_x1_0(), (224, 224, 3))}
    assert last == {
        "stem": (56, 56, 24),
        "stage1": (28, 28, 116),
        "stage2": (14, 14, 232),
        "stage3": (7, 7, 464),
        "last": (7, 7, 1024),
        "pool": (1024,),
        "head": (1000,),
    }


def test_work_and_shape_agree_with_tracing():
    model, image = shufflenet_v2((4, 6, 8), 10, 5), jax.ShapeDtypeStruct((33, 40, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (5,)


def test_parameters_are_named_by_stage_block_and_branch():
    params, _ = jax.eval_shape(shufflenet_v2_x1_0().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 170
    assert names["stem/conv/kernel"].shape == (3, 3, 3, 24)
    assert names["stage1/block0/join/left/conv1/kernel"].shape == (3, 3, 1, 24)
    assert names["stage1/block0/join/left/conv2/kernel"].shape == (1, 1, 24, 58)
    assert {name: leaf.shape for name, leaf in names.items() if name.startswith("stage3/block3/")} == {
        "stage3/block3/join/right/conv1/kernel": (1, 1, 232, 232),
        "stage3/block3/join/right/conv2/kernel": (3, 3, 1, 232),
        "stage3/block3/join/right/conv3/kernel": (1, 1, 232, 232),
        **{f"stage3/block3/join/right/norm{i}/{leaf}": (232,) for i in (1, 2, 3) for leaf in ("bias", "scale")},
    }
    assert names["last/conv/kernel"].shape == (1, 1, 464, 1024)
    assert names["head/kernel"].shape == (1024, 1000)


def test_a_unit_passes_the_first_half_on_and_shuffles_it_with_the_second(key):
    unit = shuffle_unit(6)
    params, state = unit.init(key)
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    y, _ = unit.apply(params, state, jnp.asarray(x), train=False)
    np.testing.assert_array_equal(y[..., ::2], x[..., :3])
    kernels = [np.asarray(params["join"]["right"][f"conv{i}"]["kernel"], np.float64) for i in (1, 2, 3)]
    norm = np.sqrt(1 + 1e-5)
    hidden = np.pad(np.maximum(x[..., 3:] @ kernels[0][0, 0], 0) / norm, ((1, 1), (1, 1), (0, 0)))
    depthwise = sum(hidden[i : i + 5, j : j + 4] * kernels[1][i, j, 0] for i in range(3) for j in range(3)) / norm
    expected = np.maximum(depthwise @ kernels[2][0, 0], 0) / norm
    np.testing.assert_allclose(y[..., 1::2], expected, rtol=0, atol=1e-5 * expected.max())


def test_a_downsampling_unit_halves_the_image_in_both_branches():
    rows = {row.path: row.output_shape for row in arithmetic(downsampling_unit(6, 10), (7, 8, 6))}
    assert rows["join/left/conv1"] == (*rows["join/right/conv2"][:2], 6) == (4, 4, 6)
    assert rows["join/left/relu"] == rows["join/right/relu3"] == (4, 4, 5)
    assert rows["shuffle"] == (4, 4, 10)


def test_kernels_start_with_two_over_fan_out(key):
    params, _ = downsampling_unit(64, 128).init(key)
    for name, fan_out in (("conv1", 64), ("conv2", 9 * 64), ("conv3", 64)):
        kernel = np.asarray(params["join"]["right"][name]["kernel"])
        assert abs(kernel.var() * fan_out / 2 - 1) < 5 * np.sqrt(2 / kernel.size)


def test_options_reach_the_first_and_the_last_layer():
    model = shufflenet_v2_x0_5(7, in_channels=1)
    assert model["stem/conv"].in_channels == 1
    assert model["head"] == Dense(1024, 7)


@pytest.mark.parametrize("channels", [7, 0, -2])
def test_channels_that_have_no_halves_are_refused(channels):
    with pytest.raises(ValueError, match=f"shuffle_unit expects an even number of channels, .* got {channels}"):
        shuffle_unit(channels)
    with pytest.raises(ValueError, match=f"downsampling_unit expects an even number of channels, .* got {channels}"):
        downsampling_unit(4, channels)
