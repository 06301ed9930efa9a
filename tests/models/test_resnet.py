import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import BatchNorm, Conv, Dense, arithmetic, count_parameters, identity, output_shape, receptive_field
from jaxcnn.models import (
    cifar_resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from jaxcnn.models.resnet import ZeroPadShortcut, basic_block, bottleneck_block, resnet

IMAGENET = [resnet18, resnet34, resnet50, resnet101, resnet152]
by_name = {"ids": lambda value: getattr(value, "__name__", None)}


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (resnet18, 11_689_512),
        (resnet34, 21_797_672),
        (resnet50, 25_557_032),
        (resnet101, 44_549_160),
        (resnet152, 60_192_808),
        (resnext50_32x4d, 25_028_904),
        (resnext101_32x8d, 88_791_336),
        (resnext101_64x4d, 83_455_272),
        (wide_resnet50_2, 68_883_240),
        (wide_resnet101_2, 126_886_696),
        (resnet20, 269_722),
        (resnet32, 464_154),
        (resnet44, 658_586),
        (resnet56, 853_018),
        (resnet110, 1_727_962),
    ],
    **by_name,
)
def test_parameters_are_as_many_as_published(build, parameters):
    assert count_parameters(build()) == parameters


@pytest.mark.parametrize(
    ("build", "gigas"),
    [
        (resnet18, 1.814),
        (resnet34, 3.664),
        (resnet50, 4.089),
        (resnet101, 7.801),
        (resnet152, 11.514),
        (resnext50_32x4d, 4.230),
        (resnext101_32x8d, 16.414),
        (resnext101_64x4d, 15.460),
        (wide_resnet50_2, 11.398),
        (wide_resnet101_2, 22.753),
    ],
    **by_name,
)
def test_work_is_as_much_as_torchvision_publishes(build, gigas):
    assert round(sum(row.multiply_adds for row in arithmetic(build(), (224, 224, 3))) / 1e9, 3) == gigas


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("build", [resnet18, resnet50, resnet20, resnext50_32x4d], **by_name)
def test_work_and_shape_agree_with_tracing(build):
    model, image = build(), jax.ShapeDtypeStruct((65, 64, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    rows = arithmetic(model, image.shape)
    assert count_multiply_adds(forward, params, state, image) == sum(row.multiply_adds for row in rows)
    assert jax.eval_shape(forward, params, state, image)[0].shape == rows[-1].output_shape
    assert trees.count(params) == sum(row.parameters for row in rows)


@pytest.mark.parametrize(
    ("build", "pixels"),
    [(resnet18, 435), (resnet34, 899), (resnet50, 427), (resnet101, 971), (resnet152, 1451)],
    **by_name,
)
def test_receptive_fields_are_those_of_the_literature(build, pixels):
    # Araujo et al. 2019, table 1, has 483 for ResNet-50: 56 more, for the stride on the 1x1 convolution.
    features = build().replace(pool=identity, head=identity)
    field = receptive_field(features, (224, 224, 3))
    assert field.size == (pixels, pixels)
    assert field.height.stride == field.width.stride == 32
    assert receptive_field(build(), (224, 224, 3)).whole


@pytest.mark.parametrize("build", IMAGENET, **by_name)
def test_maps_shrink_as_in_the_paper(build):
    wide = 1 if build in (resnet18, resnet34) else 4
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(build(), (224, 224, 3))}
    assert last == {
        "stem": (56, 56, 64),
        "stage1": (56, 56, 64 * wide),
        "stage2": (28, 28, 128 * wide),
        "stage3": (14, 14, 256 * wide),
        "stage4": (7, 7, 512 * wide),
        "pool": (512 * wide,),
        "head": (1000,),
    }


@pytest.mark.parametrize(
    ("build", "depth"),
    [
        (resnet18, 18),
        (resnet34, 34),
        (resnet50, 50),
        (resnet101, 101),
        (resnet152, 152),
        (resnet20, 20),
        (resnet32, 32),
        (resnet44, 44),
        (resnet56, 56),
        (resnet110, 110),
    ],
    **by_name,
)
def test_the_name_counts_the_layers_with_weights(build, depth):
    weighted = [
        row.path
        for row in arithmetic(build(), (224, 224, 3))
        if isinstance(row.layer, Conv | Dense) and "shortcut" not in row.path
    ]
    assert len(weighted) == depth


def test_maps_of_cifar_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(resnet20(), (32, 32, 3))}
    assert last == {
        "stem": (32, 32, 16),
        "stage1": (32, 32, 16),
        "stage2": (16, 16, 32),
        "stage3": (8, 8, 64),
        "pool": (64,),
        "head": (10,),
    }


def test_the_stem_for_small_images_keeps_their_size():
    model = resnet18(10, stem="cifar")
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(model, (32, 32, 3))}
    assert [last[name] for name in ("stem", "stage1", "stage2", "stage3", "stage4")] == [
        (32, 32, 64),
        (32, 32, 64),
        (16, 16, 128),
        (8, 8, 256),
        (4, 4, 512),
    ]
    assert model["stem"].names == ("conv", "norm", "relu")
    # 9 instead of 49 taps in the stem, and ten classes: the known 11,173,962.
    assert count_parameters(model) == 11_173_962


@pytest.mark.parametrize("build", IMAGENET, **by_name)
def test_an_unknown_stem_is_refused(build):
    with pytest.raises(ValueError, match="stem expects 'imagenet' or 'cifar', got 'patch'"):
        build(stem="patch")


def test_parameters_are_named_by_stage_block_and_layer():
    params, state = jax.eval_shape(resnet18().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert {"stem/conv/kernel", "stem/norm/scale", "stage1/block0/conv1/kernel", "head/kernel", "head/bias"} <= set(
        names
    )
    assert names["stage2/block0/shortcut/conv/kernel"].shape == (1, 1, 64, 128)
    assert [name for name in names if name.startswith("stage4/block1/")] == [
        f"stage4/block1/{leaf}"
        for leaf in ("conv1/kernel", "conv2/kernel", "norm1/bias", "norm1/scale", "norm2/bias", "norm2/scale")
    ]
    assert "stage4/block1/norm2/var" in trees.named_leaves(state)
    bottleneck = trees.named_leaves(jax.eval_shape(resnet50().init, jax.random.key(0))[0])
    assert bottleneck["stage1/block0/conv1/kernel"].shape == (1, 1, 64, 64)
    assert bottleneck["stage1/block0/shortcut/conv/kernel"].shape == (1, 1, 64, 256)
    assert bottleneck["stage4/block2/conv3/kernel"].shape == (1, 1, 512, 2048)


def test_a_bottleneck_has_its_stride_on_the_middle_convolution():
    block = bottleneck_block(64, 128, 2)
    assert [block[name].strides for name in ("conv1", "conv2", "conv3", "shortcut/conv")] == [
        (1, 1),
        (2, 2),
        (1, 1),
        (2, 2),
    ]


@pytest.mark.parametrize(
    ("build", "groups", "width"),
    [
        (resnet50, 1, 64),
        (resnext50_32x4d, 32, 128),
        (resnext101_32x8d, 32, 256),
        (resnext101_64x4d, 64, 256),
        (wide_resnet50_2, 1, 128),
        (wide_resnet101_2, 1, 128),
    ],
    **by_name,
)
def test_groups_and_width_double_the_middle_of_a_bottleneck_with_every_stage(build, groups, width):
    model = build()
    for i in range(4):
        block = model[f"stage{i + 1}/block1"]
        assert [block[name].out_channels for name in ("conv1", "conv2", "conv3")] == [
            width * 2**i,
            width * 2**i,
            256 * 2**i,
        ]
        assert [block[name].groups for name in ("conv1", "conv2", "conv3")] == [1, groups, 1]


def test_a_grouped_kernel_has_the_channels_of_one_group():
    params, _ = jax.eval_shape(resnext50_32x4d().init, jax.random.key(0))
    assert params["stage1"]["block0"]["conv2"]["kernel"].shape == (3, 3, 4, 128)
    assert params["stage4"]["block2"]["conv2"]["kernel"].shape == (3, 3, 32, 1024)


@pytest.mark.parametrize(("groups", "width_per_group"), [(32, 4), (1, 128)])
def test_groups_without_a_bottleneck_are_refused(groups, width_per_group):
    with pytest.raises(
        ValueError, match=rf"groups=1 and width_per_group=64 .* other than .*, got {groups} and {width_per_group}"
    ):
        resnet(basic_block, (2, 2), 10, stem="cifar", groups=groups, width_per_group=width_per_group)


def test_a_width_of_a_group_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match="multiple of 64, got out_channels=32 and width_per_group=4"):
        bottleneck_block(16, 32, groups=4, width_per_group=4)


def test_no_groups_are_refused():
    with pytest.raises(ValueError, match="out_channels to be an int of at least 1, got 0"):
        bottleneck_block(64, 256, groups=0)


@pytest.mark.parametrize("block", [basic_block, bottleneck_block], **by_name)
def test_a_block_projects_its_shortcut_only_where_the_shape_changes(block):
    assert block(64, 64)["shortcut"] == identity
    for out, strides in ((128, 1), (64, 2)):
        projection = block(64, out, strides)["shortcut"]
        assert (projection["conv"].kernel_size, projection["conv"].strides) == ((1, 1), (strides, strides))
        assert projection["norm"] == BatchNorm(out)
    around = ZeroPadShortcut(64, 128, 2)
    assert block(64, 128, 2, shortcut=around)["shortcut"] == around


@pytest.mark.parametrize("build", [resnet18, resnet50], **by_name)
def test_padding_is_symmetric_as_in_published_weights(build):
    for row in arithmetic(build(), (224, 224, 3)):
        if isinstance(row.layer, Conv):
            side = row.layer.kernel_size[0] // 2
            assert row.layer.padding == ((side, side), (side, side))
            assert not row.layer.use_bias


@pytest.mark.parametrize("block", [basic_block, bottleneck_block], **by_name)
def test_a_block_may_start_as_its_shortcut(key, block):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5, 8)), jnp.float32)
    for zero_init_residual in (True, False):
        layer = block(8, 8, zero_init_residual=zero_init_residual)
        params, state = layer.init(key)
        y, _ = jax.jit(functools.partial(layer.apply, train=False))(params, state, x)
        assert np.array_equal(y, np.maximum(x, 0)) == zero_init_residual


def test_a_model_may_start_as_its_shortcuts():
    for build, last in ((resnet18, "norm2"), (resnet50, "norm3")):
        model = build(zero_init_residual=True)
        for stage, block in itertools.product(("stage1", "stage4"), ("block0", "block1")):
            assert model[f"{stage}/{block}/{last}"].scale_init is jax.nn.initializers.zeros
            assert model[f"{stage}/{block}/norm1"].scale_init is jax.nn.initializers.ones
        assert build()["stage1/block0"][last].scale_init is jax.nn.initializers.ones


def test_kernels_start_with_variance_two_over_fan_out(key):
    # He et al. 2015, and torch's kaiming_normal_ with mode="fan_out".
    params, _ = basic_block(32, 64, 2).init(key)
    for kernel, fan_out in (
        (params["conv1"]["kernel"], 9 * 64),
        (params["conv2"]["kernel"], 9 * 64),
        (params["shortcut"]["conv"]["kernel"], 64),
    ):
        assert abs(np.var(kernel) * fan_out / 2 - 1) < 5 * np.sqrt(2 / kernel.size)


# The shortcut of option A


@pytest.mark.parametrize(("strides", "out"), [(1, 6), (2, 6), (2, 8), (3, 4)])
@pytest.mark.parametrize("size", [(6, 6), (7, 8)])
def test_option_a_takes_every_nth_pixel_and_adds_channels_of_zeros(strides, out, size):
    layer = ZeroPadShortcut(4, out, strides)
    x = np.random.default_rng(0).normal(size=(*size, 4)).astype(np.float32)
    y, state = layer.apply({}, {}, jnp.asarray(x), train=True)
    expected = np.zeros((-(-size[0] // strides), -(-size[1] // strides), out), np.float32)
    for row, column, channel in np.ndindex(*expected.shape[:2], 4):
        expected[row, column, channel] = x[row * strides, column * strides, channel]
    np.testing.assert_array_equal(y, expected)
    assert state == {}
    assert output_shape(layer, (*size, 4)) == expected.shape


def test_cifar_models_use_option_a_where_the_shape_changes():
    model = resnet20()
    assert model["stage2/block0/shortcut"] == ZeroPadShortcut(16, 32, 2)
    assert model["stage3/block0/shortcut"] == ZeroPadShortcut(32, 64, 2)
    assert model["stage1/block0/shortcut"] == model["stage2/block1/shortcut"] == identity


def test_option_a_refuses_other_channels():
    with pytest.raises(ValueError, match="4"):
        ZeroPadShortcut(4, 8, 2).apply({}, {}, jnp.ones((6, 6, 3)), train=False)


@pytest.mark.parametrize("sizes", [(8, 4, 2), (4, 8, 0), (0, 8, 2)])
def test_option_a_refuses_sizes_that_are_none(sizes):
    with pytest.raises(ValueError, match="ZeroPadShortcut expects"):
        ZeroPadShortcut(*sizes)


@pytest.mark.parametrize("depth", [2, 9, 21, -4])
def test_a_depth_that_makes_no_whole_blocks_is_refused(depth):
    with pytest.raises(ValueError, match=rf"cifar_resnet expects a depth of 6 n \+ 2 layers, .* got {depth}"):
        cifar_resnet(depth)


def test_a_cifar_model_of_any_depth():
    assert cifar_resnet(20) == resnet20()
    assert cifar_resnet(8, 5, in_channels=1)["stage1"].names == ("block0",)
    assert output_shape(cifar_resnet(8, 5, in_channels=1), (28, 28, 1)) == (5,)


# Heads and errors


@pytest.mark.parametrize("build", [resnet18, resnet20], **by_name)
def test_the_head_can_be_replaced(key, build):
    model = build(10)
    backbone = model.replace(head=identity)
    params, state = jax.eval_shape(model.init, key)
    rest = {name: value for name, value in params.items() if name != "head"}
    features, _ = jax.eval_shape(
        functools.partial(batched(backbone), train=False),
        {**rest, "head": {}},
        {**state, "head": {}},
        jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),
    )
    assert features.shape == (2, 512 if build is resnet18 else 64)
    assert model.replace(head=Dense(features.shape[1], 5)) == build(5)


def test_features_and_head_give_the_logits(key):
    model, rng = cifar_resnet(8, 5), np.random.default_rng(0)
    params, state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.3, leaf.shape), leaf.dtype), jax.eval_shape(model.init, key)
    )
    image = jnp.asarray(rng.normal(size=(8, 8, 3)), jnp.float32)
    run = jax.jit(lambda model, *arguments: model.apply(*arguments, train=False)[0], static_argnums=0)
    features = run(model.replace(head=identity), {**params, "head": {}}, {**state, "head": {}}, image)
    expected = features @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(run(model, params, state, image), expected, rtol=1e-5)


def test_replacing_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"replace expects names among \('stem', 'stage1', .*'head'\), got 'fc'"):
        resnet18().replace(fc=identity)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32, 1), r"conv expects an image of 3 channels \(.*\), got 1"),
        ((2, 32, 32, 3), r"conv expects one image .* got \(2, 32, 32, 3\); map it over a batch with jaxcnn.batched"),
    ],
)
def test_images_that_do_not_fit_are_refused_at_the_stem(shape, message):
    model = resnet18()
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(
            functools.partial(model.apply, train=False), params, state, jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    assert "in layer 'stem/conv'" in caught.value.__notes__
