import jax
import pytest

from jaxcnn.layers import BatchNorm, Conv, Dense, Residual, count_parameters, identity, output_shape
from jaxcnn.models import (
    resnet50_v1,
    resnet50_v2,
    resnet101_v1,
    resnet101_v2,
    resnet152_v1,
    resnet152_v2,
    wide_resnet,
    wrn_28_10,
)
from jaxcnn.models.resnet import bottleneck_block


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (resnet50_v1, 25_583_592),
        (resnet101_v1, 44_601_832),
        (resnet152_v1, 60_268_520),
        (resnet50_v2, 25_568_360),
        (resnet101_v2, 44_577_896),
        (resnet152_v2, 60_236_904),
        (wrn_28_10, 36_479_194),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_parameters_are_as_many_as_published(build, parameters):
    assert count_parameters(build()) == parameters


def test_the_first_kind_has_its_strides_in_the_first_convolution():
    model = resnet50_v1(10)
    assert model["stage2/block0/conv1"].strides == (2, 2)
    assert model["stage2/block0/conv2"].strides == (1, 1)
    assert model["stage1/block0/conv1"].use_bias
    assert model["stem/norm"] == BatchNorm(64, decay=0.99, epsilon=1.001e-5, unbiased=False)


def test_the_place_of_the_strides_is_checked():
    with pytest.raises(ValueError, match="bottleneck_block expects strided 'conv1' or 'conv2', got 'conv3'"):
        bottleneck_block(64, 256, 2, strided="conv3")


def test_the_second_kind_has_its_strides_in_the_last_block_of_a_stage():
    model = resnet50_v2(10)
    sizes = [output_shape(model[f"stage{i}"], shape) for i, shape in ((1, (56, 56, 64)), (4, (7, 7, 1024)))]
    assert sizes == [(28, 28, 256), (7, 7, 2048)]
    assert model["stage1/block2/conv2"].strides == (2, 2)
    assert model["stage1/block0/residual/conv2"].strides == (1, 1)


def test_a_wide_block_has_a_projection_only_where_the_channels_change():
    model = wide_resnet(16, 2, dropout_rate=0.3)
    assert model["stage1/block0/residual/shortcut/conv"] == Conv(
        16, 32, 1, padding=0, use_bias=False, kernel_init=model["stem"].kernel_init
    )
    block = model["stage1"].layers[1][1]
    assert isinstance(block, Residual)
    assert block.shortcut == identity
    assert model["stage1/block1/dropout"].rate == 0.3
    assert model.replace(head=Dense(128, 3))["head"] == Dense(128, 3)


def test_a_wide_network_gives_finite_logits(key):
    model = wide_resnet(10, 1, 4)
    params, state = model.init(key)
    logits, _ = model.apply(params, state, jax.random.normal(key, (16, 16, 3)), train=False)
    assert logits.shape == (4,)
    assert jax.numpy.isfinite(logits).all()


def test_impossible_wide_networks_are_refused():
    with pytest.raises(ValueError, match=r"wide_resnet expects a depth of 6 n \+ 4 layers, such as 16 or 28, got 20"):
        wide_resnet(20, 10)
    with pytest.raises(ValueError, match="wide_resnet expects width to be an int of at least 1, got 0"):
        wide_resnet(28, 0)
