import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models, trees
from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    arithmetic,
    count_parameters,
    identity,
    multiply_adds,
    output_shape,
)
from jaxcnn.models import vgg11, vgg11_bn, vgg16, vgg19
from jaxcnn.models.vgg import vgg

PUBLISHED = [
    ("vgg11", 132_863_336, 7.609),
    ("vgg13", 133_047_848, 11.308),
    ("vgg16", 138_357_544, 15.470),
    ("vgg19", 143_667_240, 19.632),
    ("vgg11_bn", 132_868_840, 7.609),
    ("vgg13_bn", 133_053_736, 11.308),
    ("vgg16_bn", 138_365_992, 15.470),
    ("vgg19_bn", 143_678_248, 19.632),
]


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(("name", "parameters", "giga_adds"), PUBLISHED)
def test_parameters_and_work_are_as_published(name, parameters, giga_adds):
    model = getattr(models, name)()
    assert count_parameters(model) == parameters
    assert round(multiply_adds(model, (224, 224, 3)) / 1e9, 3) == giga_adds


@pytest.mark.parametrize(("name", "depth"), [(name, int(name.removesuffix("_bn")[3:])) for name, *_ in PUBLISHED])
def test_layers_with_weights_are_as_many_as_the_name_says(name, depth):
    rows = arithmetic(getattr(models, name)(), (224, 224, 3))
    convolutions = [row.layer for row in rows if isinstance(row.layer, Conv)]
    assert len(convolutions) + sum(isinstance(row.layer, Dense) for row in rows) == depth
    assert {(conv.kernel_size, conv.strides, conv.padding) for conv in convolutions} == {
        ((3, 3), (1, 1), ((1, 1), (1, 1)))
    }
    norms = [row.layer for row in rows if isinstance(row.layer, BatchNorm)]
    assert norms == ([BatchNorm(conv.out_channels) for conv in convolutions] if name.endswith("_bn") else [])


def test_maps_shrink_as_in_the_paper():
    last = {row.path.split("/")[0]: row.output_shape for row in arithmetic(vgg16(), (224, 224, 3))}
    assert [last[f"stage{i}"] for i in range(1, 6)] == [
        (112, 112, 64),
        (56, 56, 128),
        (28, 28, 256),
        (14, 14, 512),
        (7, 7, 512),
    ]
    assert last["flatten"] == (25088,)


def test_work_and_shape_agree_with_tracing():
    model, image = vgg11_bn(10).replace(pool=identity), jax.ShapeDtypeStruct((224, 230, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = functools.partial(model.apply, train=False)
    assert count_multiply_adds(forward, params, state, image) == multiply_adds(model, image.shape)
    assert jax.eval_shape(forward, params, state, image)[0].shape == (10,)


def test_parameters_are_named_by_stage_and_layer():
    params, state = jax.eval_shape(vgg11_bn().init, jax.random.key(0))
    names = trees.named_leaves(params)
    assert len(names) == 38
    assert names["stage3/conv2/kernel"].shape == (3, 3, 256, 256)
    assert names["stage5/norm2/scale"].shape == (512,)
    assert names["dense1/kernel"].shape == (25088, 4096)
    assert "stage1/norm1/mean" in trees.named_leaves(state)


def test_images_of_other_sizes_are_pooled_to_the_same_map():
    model = vgg11(7, in_channels=1)
    assert model["pool"] == AdaptiveAvgPool(7)
    assert output_shape(model, (32, 300, 1)) == (7,)


def test_initial_kernels_are_those_of_glorot_and_bengio(key):
    params, _ = vgg16()["stage2/conv1"].init(key)
    kernel = np.asarray(params["kernel"])
    assert abs(kernel.var() * 9 * (64 + 128) / 2 - 1) < 5 * np.sqrt(2 / kernel.size)
    np.testing.assert_array_equal(params["bias"], 0)
    inits = {row.layer.kernel_init for row in arithmetic(vgg16(), (224, 224, 3)) if hasattr(row.layer, "kernel_init")}
    assert len(inits) == 1


def test_outputs_of_the_hidden_dense_layers_are_dropped():
    assert vgg16().names[-8:] == ("flatten", "dense1", "relu1", "dropout1", "dense2", "relu2", "dropout2", "head")
    assert vgg16()["dropout1"] == vgg16()["dropout2"] == Dropout(0.5)
    assert vgg19(dropout_rate=0.1)["dropout2"] == Dropout(0.1)
    with pytest.raises(ValueError, match=r"Dropout expects a rate .* in \[0, 1\), got 1.0"):
        vgg16(dropout_rate=1.0)


def test_other_numbers_of_stages_are_refused():
    with pytest.raises(ValueError, match=r"vgg expects the sizes of 5 stages, got \(1, 1\)"):
        vgg((1, 1), 10)


def test_options_reach_the_first_and_the_last_layer():
    model = vgg11(7, in_channels=1)
    assert model["stage1/conv1"].in_channels == 1
    assert (model["head"].in_features, model["head"].out_features) == (4096, 7)
    assert output_shape(model.replace(head=identity), (224, 224, 1)) == (4096,)
