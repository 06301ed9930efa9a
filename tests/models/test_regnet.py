import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models, trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import Gate, arithmetic, count_parameters, multiply_adds
from jaxcnn.models import regnet_x_400mf, regnet_y_400mf
from jaxcnn.models.regnet import RULES, LinearRule, Stage, nearest_multiple, regnet, regnet_block, stages

PUBLISHED = {
    "x_400mf": (5_495_976, 0.414),
    "x_800mf": (7_259_656, 0.800),
    "x_1_6gf": (9_190_136, 1.603),
    "x_3_2gf": (15_296_552, 3.177),
    "x_8gf": (39_572_648, 7.995),
    "x_16gf": (54_278_536, 15.941),
    "x_32gf": (107_811_560, 31.736),
    "y_400mf": (4_344_144, 0.402),
    "y_800mf": (6_432_512, 0.834),
    "y_1_6gf": (11_202_430, 1.612),
    "y_3_2gf": (19_436_338, 3.176),
    "y_8gf": (39_381_472, 8.473),
    "y_16gf": (83_590_140, 15.912),
    "y_32gf": (145_046_770, 32.280),
}
"""Parameters and 10^9 multiply-adds that torchvision states."""

PAPER = {
    "x_400mf": ((1, 2, 7, 12), (32, 64, 160, 384)),
    "x_800mf": ((1, 3, 7, 5), (64, 128, 288, 672)),
    "x_1_6gf": ((2, 4, 10, 2), (72, 168, 408, 912)),
    "x_3_2gf": ((2, 6, 15, 2), (96, 192, 432, 1008)),
    "x_8gf": ((2, 5, 15, 1), (80, 240, 720, 1920)),
    "x_16gf": ((2, 6, 13, 1), (256, 512, 896, 2048)),
    "x_32gf": ((2, 7, 13, 1), (336, 672, 1344, 2520)),
    "y_400mf": ((1, 3, 6, 6), (48, 104, 208, 440)),
    "y_800mf": ((1, 3, 8, 2), (64, 128, 320, 768)),
    "y_1_6gf": ((2, 6, 17, 2), (48, 120, 336, 888)),
    "y_3_2gf": ((2, 5, 13, 1), (72, 216, 576, 1512)),
    "y_8gf": ((2, 4, 10, 1), (168, 448, 896, 2016)),
    "y_16gf": ((2, 4, 11, 1), (224, 448, 1232, 3024)),
    "y_32gf": ((2, 5, 12, 1), (232, 696, 1392, 3712)),
}
"""Blocks and channels of the stages as the paper prints them."""

TORCHVISION = {"x_400mf": (32, 64, 160, 400), "y_800mf": (64, 144, 320, 784), "y_8gf": (224, 448, 896, 2016)}
"""Where torchvision, whose weights the models take, has other channels."""


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", RULES)
def test_parameters_and_work_are_as_published(name):
    model = getattr(models, f"regnet_{name}")()
    parameters, gigas = PUBLISHED[name]
    assert count_parameters(model) == parameters
    assert round(multiply_adds(model, (224, 224, 3)) / 1e9, 3) == gigas


@pytest.mark.parametrize("name", RULES)
def test_stages_are_those_of_the_paper(name):
    blocks, channels = PAPER[name]
    built = stages(RULES[name], nearest_multiple)
    assert tuple(stage.blocks for stage in built) == blocks
    assert tuple(stage.channels for stage in built) == channels
    group_width = RULES[name].group_width
    assert all(stage.channels // stage.groups == min(group_width, stage.channels) for stage in built)


@pytest.mark.parametrize("name", RULES)
def test_stages_are_those_of_torchvision(name):
    blocks, channels = PAPER[name]
    built = stages(RULES[name])
    assert tuple(stage.blocks for stage in built) == blocks
    assert tuple(stage.channels for stage in built) == TORCHVISION.get(name, channels)


def test_widths_follow_the_line():
    # Worked out by hand: 8, 16, 24 and 32 on the line are 8 * 2^s with s = 0, 1, 1.58 and 2, so 8, 16, 32 and 32; with
    # groups of 12, 8 is narrower than a group and 16 becomes 12, which is too much less for torchvision: 24.
    rule = LinearRule(4, 8, 8.0, 2.0, 12)
    assert stages(rule, nearest_multiple) == (Stage(1, 8, 1), Stage(1, 12, 1), Stage(2, 36, 3))
    assert stages(rule) == (Stage(1, 8, 1), Stage(1, 24, 2), Stage(2, 36, 3))


@pytest.mark.parametrize(
    ("width", "divisor", "multiple"), [(392, 16, 384), (152, 16, 160), (24, 16, 32), (40, 16, 32), (1, 8, 8)]
)
def test_the_paper_s_code_rounds_to_the_nearest_and_halves_to_even(width, divisor, multiple):
    assert nearest_multiple(width, divisor) == multiple


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "at least one block, an initial width that is a multiple of 8"),
        ({"initial_width": 20}, "multiple of 8 and groups of at least one channel, got LinearRule"),
        ({"initial_width": 0}, "multiple of 8"),
        ({"group_width": 0}, "groups of at least one channel"),
        ({"slope": -0.1}, r"a slope of at least 0 and a step above 1, got LinearRule\(.*slope=-0.1"),
        ({"step": 1.0}, r"a step above 1, got LinearRule\(.*step=1.0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=f"regnet expects .*{message}"):
        regnet(RULES["x_400mf"]._replace(**change), 10, squeeze=False)


def test_maps_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(regnet_y_400mf(), (224, 224, 3))}
    assert last == {
        "stem": (112, 112, 32),
        "stage1": (56, 56, 48),
        "stage2": (28, 28, 104),
        "stage3": (14, 14, 208),
        "stage4": (7, 7, 440),
        "pool": (440,),
        "head": (1000,),
    }


def test_work_and_shape_agree_with_tracing():
    model = regnet(LinearRule(3, 8, 8.0, 2.0, 4), 5, squeeze=True)
    image = jax.ShapeDtypeStruct((33, 40, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (5,)


def test_parameters_are_named_by_stage_block_and_layer():
    params, _ = jax.eval_shape(regnet_y_400mf().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 225
    assert names["stem/conv/kernel"].shape == (3, 3, 3, 32)
    # Squeezed to a quarter of the 48 channels that come in.
    assert names["stage2/block0/squeeze_excite/reduce/kernel"].shape == (104, 12)
    assert {name: leaf.shape for name, leaf in names.items() if name.startswith("stage2/block1/")} == {
        "stage2/block1/conv1/kernel": (1, 1, 104, 104),
        "stage2/block1/conv2/kernel": (3, 3, 8, 104),
        "stage2/block1/conv3/kernel": (1, 1, 104, 104),
        **{f"stage2/block1/norm{i}/{leaf}": (104,) for i in (1, 2, 3) for leaf in ("bias", "scale")},
        "stage2/block1/squeeze_excite/reduce/bias": (26,),
        "stage2/block1/squeeze_excite/reduce/kernel": (104, 26),
        "stage2/block1/squeeze_excite/expand/bias": (104,),
        "stage2/block1/squeeze_excite/expand/kernel": (26, 104),
    }
    assert names["stage2/block0/shortcut/conv/kernel"].shape == (1, 1, 48, 104)
    assert names["head/kernel"].shape == (440, 1000)


def test_only_regnet_y_squeezes():
    for build, gates in ((regnet_x_400mf, 0), (regnet_y_400mf, 16)):
        assert sum(isinstance(row.layer, Gate) for row in arithmetic(build(), (64, 64, 3))) == gates


def test_a_squeeze_and_excitation_weighs_channels_by_a_sigmoid(key):
    gate = regnet_block(6, 6, 1, 2, 4)["squeeze_excite"]
    params, state = gate.init(key)
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32) + 1
    y, _ = gate.apply(params, state, jnp.asarray(x), train=False)
    params = jax.tree.map(np.asarray, params)
    hidden = np.maximum(x.mean((0, 1)) @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
    weights = hidden @ params["expand"]["kernel"] + params["expand"]["bias"]
    np.testing.assert_allclose(y, x / (1 + np.exp(-weights)), rtol=1e-5)


def test_a_block_projects_its_shortcut_where_the_shape_changes():
    def shortcut(*arguments):
        params, _ = jax.eval_shape(regnet_block(*arguments).init, jax.random.key(0))
        return bool(trees.named_leaves(params["shortcut"]))

    assert not shortcut(8, 8, 1, 2)
    assert shortcut(8, 8, 2, 2)
    assert shortcut(8, 12, 1, 2)


def test_kernels_and_the_head_start_as_in_the_paper_s_code(key):
    params, _ = regnet_block(64, 64, 1, 4).init(key)
    for name, fan_out in (("conv1", 64), ("conv2", 9 * 64), ("conv3", 64)):
        kernel = np.asarray(params[name]["kernel"])
        assert abs(kernel.var() * fan_out / 2 - 1) < 5 * np.sqrt(2 / kernel.size)
    kernel = np.asarray(regnet_x_400mf()["head"].init(key)[0]["kernel"])
    assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size)


def test_options_reach_the_first_and_the_last_layer():
    for name in RULES:
        model = getattr(models, f"regnet_{name}")(7, in_channels=1)
        assert model["stem/conv"].in_channels == 1
        assert model["head"].out_features == 7
