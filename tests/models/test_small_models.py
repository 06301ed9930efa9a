import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from catalog_members import members, small_members

from jaxcnn import models
from jaxcnn.layers import Dense, arithmetic, count_parameters, identity, output_shape
from jaxcnn.models import catalog, mlp, small_cnn, whitened_cnn
from jaxcnn.values import Partial


def parameters_by_layer(model, image_shape):
    return {row.path: row.parameters for row in arithmetic(model, image_shape) if row.parameters}


def test_small_cnn_has_its_parameters():
    assert parameters_by_layer(small_cnn(), (32, 32, 3)) == {
        "conv1": 896,
        "conv2": 18_496,
        "conv3": 36_928,
        "dense": 524_416,
        "head": 1290,
    }
    assert count_parameters(small_cnn()) == 582_026


def test_small_cnn_has_its_maps():
    shapes = {row.path: row.output_shape for row in arithmetic(small_cnn(), (32, 32, 3))}
    assert [shapes[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "flatten", "dense", "head")] == [
        (32, 32, 32),
        (16, 16, 32),
        (16, 16, 64),
        (8, 8, 64),
        (8, 8, 64),
        (4096,),
        (128,),
        (10,),
    ]


def test_whitened_cnn_has_its_parameters():
    assert parameters_by_layer(whitened_cnn(), (32, 32, 3)) == {
        "whiten": 2 * 2 * 3 * 24 + 24,
        **{"group1/conv1": 9 * 24 * 64, "group1/conv2": 9 * 64 * 64, "group1/norm1": 64, "group1/norm2": 64},
        **{"group2/conv1": 9 * 64 * 256, "group2/conv2": 9 * 256**2, "group2/norm1": 256, "group2/norm2": 256},
        **{"group3/conv1": 9 * 256**2, "group3/conv2": 9 * 256**2, "group3/norm1": 256, "group3/norm2": 256},
        "head": 2560,
    }


def test_whitened_cnn_begins_as_the_identity_of_its_first_channels(key):
    model = whitened_cnn(5, widths=(30, 16, 20))
    params, _ = model.init(key)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 7, 24)), jnp.float32)
    y, _ = model["group1/conv1"].apply(params["group1"]["conv1"], {}, x, train=False)
    np.testing.assert_allclose(y[..., :24], x, atol=1e-6)
    kernel = np.asarray(params["group1"]["conv1"]["kernel"][..., 24:])
    bound = (9 * 24) ** -0.5
    assert np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    # Fewer filters than channels: each copies one.
    kernel = np.asarray(params["group2"]["conv1"]["kernel"])
    np.testing.assert_array_equal(kernel[1, 1], np.eye(30, 16))
    assert np.count_nonzero(kernel) == 16
    assert np.asarray(params["head"]["kernel"]).std() == pytest.approx(1, abs=0.2)


def test_mlp_has_its_parameters():
    layers = parameters_by_layer(mlp(), (32, 32, 1))
    assert layers == {"dense1": 1024 * 256 + 256, "dense2": 256 * 128 + 128, "head": 128 * 10 + 10}
    assert [row.path for row in arithmetic(mlp(), (32, 32, 1))] == [
        "flatten",
        "dense1",
        "relu1",
        "dense2",
        "relu2",
        "head",
    ]


def test_mlp_without_hidden_layers_is_a_linear_classifier(key):
    model = mlp(3, in_channels=2, image_size=(2, 5), hidden=())
    params, state = model.init(key)
    x = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    y, _ = model.apply(params, state, jnp.asarray(x), train=False)
    expected = x.ravel() @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_mlp_computes_relu_between_its_layers(key):
    model = mlp(3, image_size=4, hidden=(5,))
    params, state = model.init(key)
    x = np.random.default_rng(0).normal(size=(4, 4, 1)).astype(np.float32)
    y, _ = model.apply(params, state, jnp.asarray(x), train=False)
    hidden = np.maximum(x.ravel() @ np.asarray(params["dense1"]["kernel"]), 0)
    np.testing.assert_allclose(y, hidden @ np.asarray(params["head"]["kernel"]), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_small_cnn_computes_what_its_layers_say():
    model = small_cnn(3, in_channels=2, image_size=8)
    rng = np.random.default_rng(0)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    x = rng.normal(size=(8, 8, 2))
    y, _ = model.apply(params, state, jnp.asarray(x), train=False)
    for name in ("conv1", "conv2", "conv3"):
        x = np.maximum(reference.conv(x, params[name]["kernel"], params[name]["bias"]), 0)
        x = x if name == "conv3" else reference.max_pool(x, 2)
    hidden = np.maximum(x.ravel() @ params["dense"]["kernel"] + params["dense"]["bias"], 0)
    np.testing.assert_allclose(y, hidden @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-9)


@pytest.mark.parametrize("build", [mlp, small_cnn])
@pytest.mark.parametrize("image_size", [20, (12, 28)])
def test_images_of_other_sizes_need_another_model(build, image_size):
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    model = build(7, in_channels=2, image_size=image_size)
    assert output_shape(model, (height, width, 2)) == (7,)
    with pytest.raises(ValueError, match="features on the last axis"):
        output_shape(build(7, in_channels=2), (height, width, 2))


@pytest.mark.parametrize("build", [mlp, small_cnn])
@pytest.mark.parametrize("image_size", [0, -1, (32,), 3.5])
def test_sizes_that_are_none_are_refused(build, image_size):
    with pytest.raises(ValueError, match="image_size expects an int or a pair of ints, each at least 1, got"):
        build(image_size=image_size)


@pytest.mark.parametrize("build", [mlp, small_cnn])
def test_no_classes_are_refused(build):
    with pytest.raises(ValueError, match="Dense expects out_features to be an int of at least 1, got 0"):
        build(0)


def test_the_head_can_be_replaced():
    assert output_shape(small_cnn().replace(head=identity), (32, 32, 3)) == (128,)
    assert small_cnn(10).replace(head=Dense(128, 5)) == small_cnn(5)


def test_hidden_layers_start_for_relu(key):
    # Variance 2 / fan_in (He et al. 2015), and 1 / fan_in for the head.
    for name, fan_in, gain in (("conv2", 9 * 32, 2), ("dense", 4096, 2), ("head", 128, 1)):
        kernel = np.asarray(small_cnn()[name].init(key)[0]["kernel"])
        assert abs(kernel.var() * fan_in / gain - 1) < 5 * np.sqrt(2 / kernel.size)


@pytest.mark.parametrize("name", members(catalog.CATALOG))
def test_the_catalog_says_what_each_model_was_made_for(name):
    entry = catalog.CATALOG[name]
    model = catalog.build(name)
    if name.endswith("_cifar"):
        assert model == getattr(models, name.removesuffix("_cifar"))(10, stem="cifar")
    elif isinstance(entry.build, Partial):
        assert model == entry.build()
    else:
        assert model == entry.build() == getattr(models, name)()
    assert one_stage(name, output_shape(model, entry.image_shape)) == expected_shape(
        name, entry.image_shape, entry.num_classes
    )


def expected_shape(name, image_shape, num_classes):
    """Returns the shape of a classifier's logits, of a segmentation model's for each pixel, or a detector's outputs."""
    if catalog.CATALOG[name].task == "detection":
        num_outputs = num_classes + name.startswith("ssd")
        rows = sum(catalog.build(name, num_classes, image_shape).task(image_shape[:2]).level_sizes)
        if "rcnn" in name:  # The outputs of the second stage are those of test_two_stage_models.
            return {"deltas": (rows, 4), "objectness": (rows,)}
        more = {"fcos": "centerness", "yolo": "objectness"}.get(name[:4])
        others = {} if more is None else {more: (rows,)}
        return {"boxes": (rows, 4), "classes": (rows, num_outputs), **others}
    if name == "unet_2015":
        return (image_shape[0] - 184, image_shape[1] - 184, num_classes)
    return (*image_shape[:2], num_classes) if is_segmenter(name) else (num_classes,)


def one_stage(name, shapes):
    """Leaves out the outputs of the second stage of a two-stage detector."""
    return {key: shapes[key] for key in ("deltas", "objectness")} if "rcnn" in name else shapes


def is_segmenter(name):
    return catalog.CATALOG[name].task == "segmentation"


@pytest.mark.parametrize("name", small_members(name for name, entry in catalog.CATALOG.items() if entry.takes))
def test_the_catalog_builds_for_other_images(name):
    min_size = catalog.CATALOG[name].min_size
    shape = (min_size + 32, min_size, 2) if is_segmenter(name) else (max(40, min_size + 4), max(36, min_size), 2)
    assert one_stage(name, output_shape(catalog.build(name, 7, shape), shape)) == expected_shape(name, shape, 7)


@pytest.mark.parametrize("name", small_members(catalog.CATALOG))
def test_a_model_takes_the_smallest_image_that_the_catalog_says(name):
    entry = catalog.CATALOG[name]
    shape = (entry.min_size, entry.min_size, entry.image_shape[2])
    assert one_stage(name, output_shape(catalog.build(name, 7, shape), shape)) == expected_shape(name, shape, 7)


@pytest.mark.parametrize("name", members(name for name, entry in catalog.CATALOG.items() if entry.min_size > 1))
@pytest.mark.parametrize("axis", [0, 1])
def test_a_model_takes_no_smaller_image_than_the_catalog_says(name, axis):
    entry = catalog.CATALOG[name]
    shape = [entry.min_size, entry.min_size, entry.image_shape[2]]
    shape[axis] -= 1
    size = {"image_size": tuple(shape[:2])} if "image_size" in entry.takes else {}
    with pytest.raises(ValueError, match="expect"):
        output_shape(entry.build(7, **size), tuple(shape))
    refusal = rf"{name} expects images of at least {entry.min_size}x{entry.min_size} pixels, got {shape[0]}x{shape[1]};"
    with pytest.raises(ValueError, match=refusal if entry.takes else f"{name} expects images of shape"):
        catalog.build(name, 7, tuple(shape))


def test_the_catalog_refuses_images_that_a_model_cannot_take():
    with pytest.raises(ValueError, match=r"lenet5_1998 expects images of shape \(32, 32, 1\), got \(28, 28, 1\)"):
        catalog.build("lenet5_1998", 10, (28, 28, 1))


def test_the_catalog_refuses_unknown_models():
    with pytest.raises(KeyError, match="resnet19"):
        catalog.build("resnet19", 10, (32, 32, 3))
