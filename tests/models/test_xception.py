import jax
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.layers import BatchNorm, Conv, Dropout, Function, MaxPool, arithmetic, identity
from jaxcnn.models import xception
from jaxcnn.models.extreme_inception import halving_block, middle_block, separable_conv

RELU = Function(jax.nn.relu)


def test_parameters_work_and_maps_are_as_published():
    rows = arithmetic(xception(), (299, 299, 3))
    assert sum(row.parameters for row in rows) == 22_855_952
    # By hand, the middle flow: 24 separable convolutions of 728 channels on 19 x 19 pixels.
    middle = [row.multiply_adds for row in rows if row.path.startswith("middle/")]
    assert sum(middle) == 24 * 19 * 19 * 728 * (9 + 728)
    last = {"/".join(row.path.split("/")[:2]): row.output_shape for row in rows}
    assert last == {
        "stem/conv1": (149, 149, 32),
        "stem/conv2": (147, 147, 64),
        "entry/block0": (74, 74, 128),
        "entry/block1": (37, 37, 256),
        "entry/block2": (19, 19, 728),
        **{f"middle/block{i}": (19, 19, 728) for i in range(8)},
        "exit/block0": (10, 10, 1024),
        "exit/conv1": (10, 10, 1536),
        "exit/relu1": (10, 10, 1536),
        "exit/conv2": (10, 10, 2048),
        "exit/relu2": (10, 10, 2048),
        "pool": (2048,),
        "dropout": (2048,),
        "head": (1000,),
    }


def test_parameters_are_named_by_flow_block_and_layer():
    params, state = (trees.named_leaves(tree) for tree in jax.eval_shape(xception().init, jax.random.key(0)))
    assert len(params) == 156
    assert len(state) == 80
    assert params["stem/conv1/conv/kernel"].shape == (3, 3, 3, 32)
    assert params["entry/block0/conv1/depthwise/kernel"].shape == (3, 3, 1, 64)
    assert params["entry/block1/shortcut/conv/kernel"].shape == (1, 1, 128, 256)
    assert params["middle/block7/conv3/pointwise/kernel"].shape == (1, 1, 728, 728)
    assert params["exit/block0/conv1/pointwise/kernel"].shape == (1, 1, 728, 728)
    assert params["exit/block0/conv2/pointwise/kernel"].shape == (1, 1, 728, 1024)
    assert params["exit/conv2/norm/scale"].shape == (2048,)


def test_padding_and_norms_are_those_of_keras():
    for row in arithmetic(xception(), (299, 299, 3)):
        if isinstance(row.layer, Conv):
            padded = 1 if row.path.endswith("depthwise") else 0
            assert row.layer.padding == ("VALID" if not padded else ((1, 1), (1, 1)))
            assert not row.layer.use_bias
        if isinstance(row.layer, MaxPool):
            assert row.layer == MaxPool(3, strides=2, padding="SAME")
        if isinstance(row.layer, BatchNorm):
            assert row.layer == BatchNorm(row.layer.channels, decay=0.99, epsilon=1e-3, unbiased=False)


def test_relus_stand_where_the_paper_has_them():
    assert xception()["entry/block0"].body.names == ("conv1", "relu2", "conv2", "pool")
    assert halving_block(8, (12, 16)).body.names == ("relu1", "conv1", "relu2", "conv2", "pool")
    assert middle_block(8).body.names == ("relu1", "conv1", "relu2", "conv2", "relu3", "conv3")
    assert middle_block(8).activation == halving_block(8, (12, 16)).activation == identity
    assert separable_conv(8, 12).names == ("depthwise", "pointwise", "norm")
    # The way around is given the image before any relu.
    assert halving_block(8, (12, 16)).shortcut.names == ("conv", "norm")


def test_kernels_start_uniform():
    # Up to sqrt(6 / (fan_in + fan_out)); for a depthwise kernel of c channels those are 9 and 9 c.
    params, _ = separable_conv(64, 32).init(jax.random.key(0))
    for name, limit in (("depthwise", np.sqrt(6 / (9 + 9 * 64))), ("pointwise", np.sqrt(6 / (64 + 32)))):
        kernel = np.asarray(params[name]["kernel"])
        assert 0.95 * limit < np.abs(kernel).max() <= limit
        assert abs(kernel.var() * 3 / limit**2 - 1) < 5 * np.sqrt(2 / kernel.size)


def test_options_reach_the_first_and_the_last_layer():
    model = xception(7, in_channels=1)
    assert model["stem/conv1/conv"].in_channels == 1
    assert (model["head"].in_features, model["head"].out_features) == (2048, 7)
    assert model["dropout"] == Dropout(0.5)
    assert model.replace(head=identity)["exit"] == model["exit"]


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        xception(dropout_rate=1.0)
