import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import trees
from jaxcnn.interop import conversion
from jaxcnn.interop.files.safetensors_file import read_safetensors, write_safetensors
from jaxcnn.interop.files.torch_file import read_torch, write_torch
from jaxcnn.interop.records import RECORDS
from jaxcnn.interop.records.record import Record, Rules
from jaxcnn.interop.weights import load_safetensors, load_weights, save_safetensors, save_torch
from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, Flatten, LayerScale, Sequential
from jaxcnn.layers.flow import structure
from jaxcnn.models import (
    catalog,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    lenet5,
    mlp,
    resnet18,
    resnet50_v1,
    ssdlite320_mobilenet_v3_large,
    unet,
)


def draw(model, seed=0):
    """Draws parameters and state, all different, without the time that a model's own initialisation takes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), structure(model))


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for name, leaf in trees.named_leaves(expected).items():
        np.testing.assert_array_equal(trees.named_leaves(actual)[name], leaf, err_msg=name)


@pytest.fixture(scope="module")
def resnet():
    model = resnet18(3, in_channels=1)
    return model, *draw(model)


@pytest.fixture(scope="module")
def torch_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    save_torch(path, *resnet, architecture="torchvision/resnet18")
    return path


def arrays_of(torch_file):
    return {name: np.asarray(tensor) for name, tensor in read_torch(torch_file).items()}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("piece", [2**18, 2**24])
def test_what_was_saved_under_the_names_of_torch_comes_back(piece, ending, resnet, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_PIECE", piece)
    path = tmp_path / f"weights{ending}"
    save_torch(path, *resnet, architecture="torchvision/resnet18")
    weights = load_weights("resnet18", path)
    assert weights.model == resnet[0]
    assert_same((weights.params, weights.state), resnet[1:])
    assert weights.preprocessing is None
    leaves = jax.tree.leaves((weights.params, weights.state))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_torch_has_the_arrays_in_its_own_order_of_axes(resnet, tmp_path):
    save_torch(tmp_path / "weights.pt", *resnet, architecture="timm/resnet18")
    arrays = read_torch(tmp_path / "weights.pt")
    _, params, state = resnet
    kernel = np.asarray(params["stage2"]["block0"]["conv1"]["kernel"])
    np.testing.assert_array_equal(arrays["layer2.0.conv1.weight"], np.moveaxis(kernel, (3, 2), (0, 1)))
    np.testing.assert_array_equal(arrays["fc.weight"], np.asarray(params["head"]["kernel"]).T)
    np.testing.assert_array_equal(arrays["bn1.running_var"], state["stem"]["norm"]["var"])
    assert arrays["bn1.num_batches_tracked"].dtype == np.int64


def test_all_differences_are_listed_in_one_error(torch_file, tmp_path):
    arrays = arrays_of(torch_file)
    del arrays["layer1.0.conv1.weight"]
    arrays["bn1.weight"] = arrays["bn1.weight"][:-1]
    arrays["extra.weight"] = np.zeros((2, 3), np.float32)
    write_torch(tmp_path / "spoilt.pth", arrays)
    with pytest.raises(ValueError, match="does not hold the weights of resnet18; expected the arrays of") as caught:
        load_weights("resnet18", tmp_path / "spoilt.pth")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(lines) == [
        "left over: extra.weight (2, 3)",
        "missing: layer1.0.conv1.weight (64, 64, 3, 3), for stage1/block0/conv1/kernel",
        "shape: bn1.weight is (63,), expected (64,) for stem/norm/scale",
    ]


def test_weights_of_another_model_are_refused(torch_file):
    with pytest.raises(ValueError, match=r"does not hold the weights of resnet34; .*\n  missing: layer1\.2\.conv1"):
        load_weights("resnet34", torch_file)


def test_half_precision_becomes_float32(torch_file, resnet, tmp_path):
    halves = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in arrays_of(torch_file).items()
    }
    write_safetensors(tmp_path / "half.safetensors", halves, {"format": "pt"})
    weights = load_weights("resnet18", tmp_path / "half.safetensors")
    assert weights.params["head"]["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(
        weights.params["head"]["bias"], np.asarray(resnet[1]["head"]["bias"]).astype(np.float16)
    )


def test_an_architecture_that_is_not_known_is_refused(resnet, torch_file, tmp_path):
    with pytest.raises(ValueError, match=r"expected weights of 'resnet18' from one of \[.*torchvision/resnet18.*\]"):
        load_weights("resnet18", torch_file, architecture="torchvision/resnet19")
    with pytest.raises(ValueError, match="torchvision/resnet50 is the model 'resnet50' here"):
        load_weights("resnet18", torch_file, architecture="torchvision/resnet50")
    with pytest.raises(ValueError, match="expected an architecture of torchvision, timm, smp or yolox, got 'resnet18'"):
        save_torch(tmp_path / "x.pth", *resnet, architecture="resnet18")
    with pytest.raises(ValueError, match=r"the extension \.pth, \.pt or \.safetensors, got 'x.npz'"):
        save_torch(tmp_path / "x.npz", *resnet, architecture="torchvision/resnet18")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_layers_cannot_be_saved_under_those_names(tmp_path):
    model = lenet5()
    with pytest.raises(ValueError, match="expected a model of the layers of torchvision/resnet18: no rule"):
        save_torch(tmp_path / "x.pth", model, *draw(model), architecture="torchvision/resnet18")
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_another_model_are_not_saved(resnet, tmp_path):
    model, params, state = resnet
    params = {**params, "head": {"kernel": params["head"]["kernel"]}}
    with pytest.raises(
        ValueError, match=r"expected the parameters of the model, got differences:\n  head/bias: expected"
    ):
        save_torch(tmp_path / "x.pth", model, params, state, architecture="torchvision/resnet18")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere.pth", FileNotFoundError, r"expected a file of weights, got .*nowhere\.pth, which does not exist"),
        ("photo.png", ValueError, r"expected a hub id such as timm/resnet50\.a1_in1k, .* got .*photo\.png"),
        (".", FileNotFoundError, r"expected model\.safetensors or pytorch_model\.bin in the folder .*, got \[\]"),
    ],
)
def test_a_source_that_is_none_is_refused(source, error, message, tmp_path):
    with pytest.raises(error, match=message):
        load_weights("resnet18", tmp_path / source)


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(KeyError, match="expected the name of a model of the catalog, got 'resnet19'"):
        load_weights("resnet19", tmp_path)


def test_own_files_come_back_for_models_of_the_catalog_and_others(tmp_path):
    model = lenet5(7)
    params, state = draw(model)
    save_safetensors(tmp_path / "lenet.safetensors", model, params, state)
    weights = load_weights("lenet5", tmp_path / "lenet.safetensors")
    assert (weights.model, weights.preprocessing) == (model, None)
    assert_same((weights.params, weights.state), (params, state))
    other = Sequential(conv=Conv(2, 3), norm=BatchNorm(3, epsilon=0.1))
    save_safetensors(tmp_path / "other.safetensors", other, *draw(other))
    assert_same(load_safetensors(tmp_path / "other.safetensors", other), draw(other))
    with pytest.raises(ValueError, match="does not match the leaves of the model:\n  missing: conv1/bias"):
        load_safetensors(tmp_path / "other.safetensors", model)


@pytest.mark.parametrize("build", [ssdlite320_mobilenet_v3_large, fasterrcnn_mobilenet_v3_large_320_fpn])
def test_a_written_detector_of_other_classes_is_read_back(build, tmp_path):
    # An anchor or a region has a logit of the background too, and a map one for each of several anchors.
    model = build(5)
    params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), structure(model))
    save_safetensors(tmp_path / "own.safetensors", model, params, state)
    assert load_weights(build.__name__, tmp_path / "own.safetensors").model == model


def test_own_files_of_a_model_with_other_options_are_refused(tmp_path):
    model = resnet18(3, stem="cifar")
    save_safetensors(tmp_path / "weights.safetensors", model, *draw(model))
    with pytest.raises(ValueError, match="does not hold the weights of resnet18"):
        load_weights("resnet18", tmp_path / "weights.safetensors")
    assert load_weights("resnet18_cifar", tmp_path / "weights.safetensors").model == model


LAYERS = Sequential(
    conv=Conv(4, 6, (3, 5), groups=2),
    depthwise=Conv(6, 12, 3, groups=6),
    up=ConvTranspose(12, 6, (2, 3), groups=3),
    scale=LayerScale(6),
    flatten=Flatten(),
    dense=Dense(2 * 3 * 6, 5),
    head=Dense(5, 4),
)


@pytest.mark.parametrize("origin", ["torchvision", "keras", "jaxcnn"])
@pytest.mark.parametrize("as_convolution", ["", "head|dense|scale"])
def test_an_array_laid_out_as_there_comes_back(origin, as_convolution):
    record = Record(
        "", origin, "", lenet5, Rules(origin, ((".*", "a"),)), None, (("dense", (2, 3, 6)),), as_convolution
    )
    params, _ = draw(LAYERS)
    for name, leaves in params.items():
        for leaf, array in leaves.items():
            there = record.to_source(name, LAYERS[name], leaf, np.asarray(array))
            here = np.empty(array.shape, array.dtype)
            view = record.source_view(name, LAYERS[name], leaf, here)
            view[...] = there.reshape(view.shape)
            np.testing.assert_array_equal(here, array, err_msg=f"{name}/{leaf}")
    shape = record.to_source("head", LAYERS["head"], "kernel", np.zeros((5, 4))).shape
    ones = (1, 1) if as_convolution and origin != "jaxcnn" else ()
    assert shape == ((4, 5, *ones) if origin == "torchvision" else (*ones, 5, 4))


def test_a_name_may_be_that_of_a_single_array():
    rules = Rules("torchvision", (("scale", r"features.1:layer_scale"), (r"block(\d)", lambda m: f"b{int(m[1]) + 1}")))
    assert rules("scale", LayerScale(3), "scale") == "features.1.layer_scale"
    assert rules("block3", Dense(2, 2), "kernel") == "b4.weight"
    assert Rules("keras", (("n", "bn"),))("n", BatchNorm(3), "bias") == "bn/beta"
    with pytest.raises(KeyError, match="no rule of torchvision names the layer 'other'"):
        rules("other", Dense(2, 2), "kernel")


def test_two_leaves_of_one_name_are_refused():
    model = Sequential(a=Dense(2, 2), b=Dense(2, 2))
    with pytest.raises(ValueError, match=r"expected one array for each leaf, got 'x\.bias'"):
        conversion.targets(Record("", "timm", "", lenet5, Rules("timm", ((".*", "x"),)), None), model)


def test_two_arrays_for_one_leaf_are_refused():
    record = Record("", "timm", "", lenet5, Rules("timm", ()), None, rewrites=((r"old\.(.*)", r"new.\1"),))
    with pytest.raises(ValueError, match=r"expected each array once, got 'new\.bias' twice"):
        conversion.usable(record, {"new.bias": np.zeros(2), "old.bias": np.zeros(2)})


def test_records_have_names_of_their_own_and_models_of_the_catalog():
    # GoogLeNet and Inception v3 have two records of one name: with their auxiliary heads and without.
    assert len({(record.model, record.name, record.build) for record in RECORDS}) == len(RECORDS)
    assert {record.model for record in RECORDS} <= set(catalog.CATALOG)


def test_the_weights_of_keras_choose_the_variant_with_its_strides():
    record = next(record for record in RECORDS if (record.model, record.origin) == ("resnet50", "keras"))
    assert record.build(10) == resnet50_v1(10)


@dataclasses.dataclass(frozen=True)
class Counting:
    """A layer whose leaves are scalars and numbers of many kinds."""

    def init(self, key):
        params = {"gain": jnp.ones(()), "shift": jnp.ones((3, 2), jnp.bfloat16)}
        kinds = {"step": jnp.int32, "seen": jnp.uint8, "on": jnp.bool_, "phase": jnp.complex64}
        state = {name: jnp.zeros((), dtype) for name, dtype in kinds.items()}
        return params, {**state, "counts": jnp.zeros((2, 3), jnp.int16), "none": jnp.zeros((0, 2), jnp.int8)}

    def apply(self, params, state, x, *, train, key=None):
        return x, state


def test_leaves_that_are_scalars_or_no_floating_point_numbers_come_back(tmp_path):
    model = Sequential(count=Counting(), head=Dense(3, 2))
    params, state = model.init(jax.random.key(0))
    state = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), state)
    save_safetensors(tmp_path / "own.safetensors", model, params, state)
    loaded = load_safetensors(tmp_path / "own.safetensors", model)
    assert_same(loaded, (params, state))
    assert jax.tree.map(lambda leaf: leaf.dtype, loaded[1]) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert loaded[0]["count"]["shift"].dtype == jnp.float32
    assert isinstance(loaded[1]["count"]["step"], jax.Array)


@pytest.mark.parametrize("dtype", [jnp.int16, jnp.float32])
def test_a_leaf_of_another_kind_of_numbers_is_neither_saved_nor_loaded(dtype, tmp_path):
    model = Sequential(count=Counting())
    params, state = model.init(jax.random.key(0))
    save_safetensors(tmp_path / "own.safetensors", model, params, state)
    arrays = {name: np.asarray(tensor) for name, tensor in read_safetensors(tmp_path / "own.safetensors").items()}
    write_safetensors(tmp_path / "own.safetensors", {**arrays, "count/step": arrays["count/step"].astype(dtype)})
    with pytest.raises(ValueError, match=f"expected int32 as count/step in .*, got {jnp.dtype(dtype)}"):
        load_safetensors(tmp_path / "own.safetensors", model)
    changed = {"count": {**state["count"], "step": state["count"]["step"].astype(dtype)}}
    with pytest.raises(ValueError, match=r"count/step: expected \(\) of int32, got"):
        save_safetensors(tmp_path / "other.safetensors", model, params, changed)


def test_the_first_convolution_is_converted_to_other_channels(resnet, torch_file):
    _, params, state = resnet
    kernel = np.asarray(params["stem"]["conv"]["kernel"])
    for channels in (2, 4):
        weights = load_weights("resnet18", torch_file, in_channels=channels)
        assert weights.model == resnet18(3, in_channels=channels)
        converted = {
            **params,
            "stem": {**params["stem"], "conv": {"kernel": np.repeat(kernel, channels, 2) / channels}},
        }
        assert_same((weights.params, weights.state), (converted, state))
    assert_same(load_weights("resnet18", torch_file, in_channels=1)[1:3], (params, state))


@pytest.mark.slow
@pytest.mark.heavy
def test_a_model_of_auxiliary_heads_or_of_a_check_first_is_converted_too(tmp_path):
    for model_name, path in {"unet": "level0/encode/conv1", "googlenet": "stem/conv1/conv"}.items():
        model = catalog.CATALOG[model_name].build(2, in_channels=3)
        params, state = draw(model)
        save_safetensors(tmp_path / model_name, model, params, state)
        weights = load_weights(model_name, tmp_path / model_name, in_channels=1)
        assert weights.model == catalog.CATALOG[model_name].build(2, in_channels=1)
        actual, expected = trees.named_leaves(weights.params), trees.named_leaves(params)
        total = np.asarray(expected[f"{path}/kernel"]).sum(axis=2, keepdims=True)
        np.testing.assert_allclose(actual.pop(f"{path}/kernel"), total, rtol=1e-6)
        del expected[f"{path}/kernel"]
        assert_same(actual, expected)


def test_the_file_of_a_grey_u_net_is_recognised(tmp_path):
    model = unet(2, in_channels=1)
    save_safetensors(tmp_path / "grey", model, *draw(model))
    assert load_weights("unet", tmp_path / "grey").model == model


def test_channels_that_no_stem_can_have_are_refused(torch_file, tmp_path):
    with pytest.raises(ValueError, match="load_weights expects in_channels to be an int of at least 1, got 0"):
        load_weights("resnet18", torch_file, in_channels=0)
    model = mlp()
    save_safetensors(tmp_path / "mlp", model, *draw(model))
    with pytest.raises(ValueError, match="in_channels expects a model that starts with a convolution, got mlp"):
        load_weights("mlp", tmp_path / "mlp", in_channels=3)


def test_the_preprocessing_follows_the_channels(tmp_path):
    model = resnet18(2)
    save_torch(tmp_path / "weights.pth", model, *draw(model), architecture="torchvision/resnet18")
    usual = load_weights("resnet18", tmp_path / "weights.pth").preprocessing
    assert load_weights("resnet18", tmp_path / "weights.pth", in_channels=3).preprocessing == usual
    grey = load_weights("resnet18", tmp_path / "weights.pth", in_channels=1).preprocessing
    assert (grey.mean, grey.std) == (pytest.approx((0.449,), abs=1e-9), pytest.approx((0.226,), abs=1e-9))
    assert load_weights("resnet18", tmp_path / "weights.pth", in_channels=4).preprocessing is None
