import jax
import numpy as np
import pytest

from jaxcnn import models, trees
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dropout,
    DropPath,
    Function,
    Gate,
    Residual,
    Sequential,
    arithmetic,
    identity,
)
from jaxcnn.models import efficientnet_b0, efficientnet_b5, efficientnet_v2_s
from jaxcnn.models.efficientnet import Stage, efficientnet, fused_block, mbconv_block
from jaxcnn.values import Partial

SILU, SIGMOID = Function(jax.nn.silu), Function(jax.nn.sigmoid)
SLOW = Partial(BatchNorm, decay=0.99, epsilon=1e-3)
V2 = Partial(BatchNorm, epsilon=1e-3)

# Pixels, parameters, multiply-adds in units of 1e9 (as torchvision publishes them), blocks, dropout, batch norm.
VARIANTS = {
    "efficientnet_b0": (224, 5_288_548, 0.386, 16, 0.2, BatchNorm),
    "efficientnet_b1": (240, 7_794_184, 0.687, 23, 0.2, BatchNorm),
    "efficientnet_b2": (288, 9_109_994, 1.088, 23, 0.3, BatchNorm),
    "efficientnet_b3": (300, 12_233_232, 1.827, 26, 0.3, BatchNorm),
    "efficientnet_b4": (380, 19_341_616, 4.394, 32, 0.4, BatchNorm),
    "efficientnet_b5": (456, 30_389_784, 10.266, 39, 0.4, SLOW),
    "efficientnet_b6": (528, 43_040_704, 19.068, 45, 0.5, SLOW),
    "efficientnet_b7": (600, 66_347_960, 37.746, 55, 0.5, SLOW),
    "efficientnet_v2_s": (384, 21_458_488, 8.366, 40, 0.3, V2),
    "efficientnet_v2_m": (480, 54_139_356, 24.582, 57, 0.4, V2),
    "efficientnet_v2_l": (480, 118_515_272, 56.08, 79, 0.5, V2),
}
QUICK = {"efficientnet_b0", "efficientnet_b3", "efficientnet_v2_s"}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_a_variant_has_the_published_size_work_rates_and_norms(name):
    size, parameters, gigas, blocks, dropout, norm = VARIANTS[name]
    model = getattr(models, name)()
    rows = arithmetic(model, (size, size, 3))
    assert sum(row.parameters for row in rows) == parameters
    assert round(sum(row.multiply_adds for row in rows) / 1e9, 3) == gigas
    assert model["dropout"] == Dropout(dropout)
    norms = [row.layer for row in rows if isinstance(row.layer, BatchNorm)]
    assert norms == [norm(layer.channels) for layer in norms]
    # Block i of n is skipped with a probability of 0.2 i / n, where it has a way around: the first one never.
    names = [f"{stage}/{block}" for stage in model.names if stage.startswith("stage") for block in model[stage].names]
    assert len(names) == blocks
    rates = {name: 0.2 * i / blocks for i, name in enumerate(names) if i and isinstance(model[name], Residual)}
    drops = {row.path.removesuffix("/drop_path"): row.layer for row in rows if isinstance(row.layer, DropPath)}
    assert drops == {name: DropPath(rate) for name, rate in rates.items()}


def test_maps_shrink_as_in_the_papers():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(efficientnet_b0(), (224, 224, 3))}
    assert last == {
        "stem": (112, 112, 32),
        "stage1": (112, 112, 16),
        "stage2": (56, 56, 24),
        "stage3": (28, 28, 40),
        "stage4": (14, 14, 80),
        "stage5": (14, 14, 112),
        "stage6": (7, 7, 192),
        "stage7": (7, 7, 320),
        "last": (7, 7, 1280),
        "pool": (1280,),
        "dropout": (1280,),
        "head": (1000,),
    }
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(efficientnet_v2_s(), (384, 384, 3))}
    assert list(last.values())[:8] == [
        (192, 192, 24),
        (192, 192, 24),
        (96, 96, 48),
        (48, 48, 64),
        (24, 24, 128),
        (24, 24, 160),
        (12, 12, 256),
        (12, 12, 1280),
    ]


@pytest.mark.parametrize(("build", "leaves"), [(efficientnet_b0, 213), (efficientnet_v2_s, 452)])
def test_parameters_are_named_by_stage_block_and_layer(build, leaves):
    params, state = (trees.named_leaves(tree) for tree in jax.eval_shape(build().init, jax.random.key(0)))
    assert len(params) == leaves
    assert params["last/conv/kernel"].shape[-1:] == params["head/kernel"].shape[:1] == (1280,)
    if build is efficientnet_b0:
        assert params["stage1/block0/depthwise/conv/kernel"].shape == (3, 3, 1, 32)
        assert params["stage1/block0/squeeze_excite/reduce/kernel"].shape == (32, 8)
        assert params["stage3/block0/expand/conv/kernel"].shape == (1, 1, 24, 144)
        assert params["stage3/block0/depthwise/conv/kernel"].shape == (5, 5, 1, 144)
        assert params["stage3/block0/squeeze_excite/reduce/kernel"].shape == (144, 6)
        assert params["stage3/block0/squeeze_excite/expand/bias"].shape == (144,)
        assert state["stage6/block3/project/norm/var"].shape == (192,)
        assert "stage1/block0/expand/conv/kernel" not in params
    else:
        assert params["stage1/block1/project/conv/kernel"].shape == (3, 3, 24, 24)
        assert params["stage2/block0/expand/conv/kernel"].shape == (3, 3, 24, 96)
        assert params["stage2/block0/project/conv/kernel"].shape == (1, 1, 96, 48)
        assert params["stage4/block0/squeeze_excite/reduce/kernel"].shape == (256, 16)
        assert not any(f"stage{i}/block0/squeeze_excite/reduce/kernel" in params for i in (1, 2, 3))


def test_blocks_are_those_of_the_papers():
    block = mbconv_block(8, 8, expansion=6, drop_path=0.1)
    assert isinstance(block, Residual)
    assert block.body.names == ("expand", "depthwise", "squeeze_excite", "project", "drop_path")
    gate = block["squeeze_excite"]
    assert isinstance(gate, Gate)
    assert (gate["reduce"].out_features, gate["activation"], gate["gate"]) == (2, SILU, SIGMOID)
    assert (block["expand/activation"], block["depthwise/activation"]) == (SILU, SILU)
    assert block["project"].names == ("conv", "norm")
    assert mbconv_block(8, 8, expansion=1)["depthwise/conv"].groups == 8
    assert mbconv_block(2, 2)["squeeze_excite/reduce"].out_features == 1

    fused = fused_block(8, 8, expansion=4, kernel_size=5, drop_path=0.1)
    assert fused.body.names == ("expand", "project", "drop_path")
    assert (fused["expand/conv"].kernel_size, fused["expand/conv"].groups) == ((5, 5), 1)
    assert fused["project"].names == ("conv", "norm")
    single = fused_block(8, 8, expansion=1)
    assert single.body.names == ("project",)
    assert (single["project/conv"].kernel_size, single["project/activation"]) == ((3, 3), SILU)
    for build in (mbconv_block, fused_block):
        assert isinstance(build(8, 8, 2), Sequential)
        assert isinstance(build(8, 16), Sequential)


@pytest.mark.parametrize("build", [efficientnet_b0, pytest.param(efficientnet_v2_s, marks=pytest.mark.slow)])
def test_padding_is_symmetric_or_that_of_tensorflow(build):
    for padding in ("symmetric", "same"):
        convolutions = [r.layer for r in arithmetic(build(padding=padding), (64, 64, 3)) if isinstance(r.layer, Conv)]
        assert {layer.kernel_size[0] for layer in convolutions} >= {1, 3}
        for layer in convolutions:
            side = layer.kernel_size[0] // 2
            same = padding == "same" and side > 0
            assert layer.padding == ("SAME" if same else ((side, side), (side, side)))


def test_every_batch_norm_can_be_another_one():
    norm = Partial(BatchNorm, decay=0.9, epsilon=1e-4, unbiased=False)
    rows = arithmetic(efficientnet_b5(norm=norm), (64, 64, 3))
    norms = [row.layer for row in rows if isinstance(row.layer, BatchNorm)]
    assert len(norms) == 116
    assert norms == [norm(layer.channels) for layer in norms]


def test_kernels_start_with_the_variance_for_relu_backwards():
    # Variance 2 / fan_out (He et al. 2015); the head is uniform up to 1 / sqrt(classes).
    model = efficientnet((Stage(False, 6, 5, 1, 24, 1),), 32, 256, 100)
    params = trees.named_leaves(model.init(jax.random.key(0))[0])
    for path, variance in {
        "stem/conv": 2 / (9 * 32),
        "stage1/block0/expand/conv": 2 / 192,
        "stage1/block0/depthwise/conv": 2 / (25 * 192),
        "stage1/block0/squeeze_excite/reduce": 2 / 8,
        "stage1/block0/squeeze_excite/expand": 2 / 192,
        "last/conv": 2 / 256,
        "head": 1 / 300,
    }.items():
        kernel = np.asarray(params[f"{path}/kernel"])
        assert abs(kernel.var() / variance - 1) < 5 * np.sqrt(2 / kernel.size), path
    assert 0.099 < np.abs(params["head/kernel"]).max() <= 0.1
    assert not any(np.any(leaf) for path, leaf in params.items() if path.endswith("bias"))


def test_options_reach_the_first_and_the_last_layer():
    model = efficientnet_v2_s(7, in_channels=1, dropout_rate=0.1, drop_path=0.0)
    assert model["stem/conv"].in_channels == 1
    assert (model["head"].in_features, model["head"].out_features) == (1280, 7)
    assert model["dropout"] == Dropout(0.1)
    assert "drop_path" not in model["stage6/block14"].names
    assert model.replace(head=identity)["last"] == model["last"]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="efficientnet expects padding to be 'symmetric' or 'same', got 'valid'"):
        efficientnet_b0(padding="valid")
    with pytest.raises(ValueError, match=r"efficientnet expects a rate .* in \[0, 1\), got 1.0"):
        efficientnet_b0(drop_path=1.0)
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got -0.1"):
        efficientnet_v2_s(dropout_rate=-0.1)
