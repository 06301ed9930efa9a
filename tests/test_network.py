"""Networks: laws of a pytree, changes that keep arrays, files, sources and predictions."""

import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from user_blocks import squeeze_excite_block
from weights_files import draw

import jaxcnn
from jaxcnn import Network, trees
from jaxcnn.data.pictures import FitPicture, PictureError
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.safetensors_file import read_safetensors, write_safetensors
from jaxcnn.interop.own_file import load_parameters, save_parameters
from jaxcnn.interop.preprocessing import Preprocessing, keras_preprocessing
from jaxcnn.interop.weights import load_weights, save_safetensors, save_torch
from jaxcnn.layers import (
    BatchNorm,
    Composite,
    Conv,
    Dense,
    DropPath,
    Flatten,
    Frozen,
    Function,
    GlobalAvgPool,
    Sequential,
    batched,
    features,
    identity,
)
from jaxcnn.models import mlp, resnet18, squeezenet1_1
from jaxcnn.models.normalized import normalized
from jaxcnn.tasks import Classification, MultiLabel, Regression, Segmentation
from jaxcnn.training.run_folder import RunFolder, RunFolderError

LAYER = Sequential(
    conv=Conv(3, 4),
    norm=BatchNorm(4),
    relu=Function(jax.nn.relu),
    block=Sequential(conv=Conv(4, 4), drop=DropPath(0.5)),
    pool=GlobalAvgPool(),
    head=Dense(4, 3),
)
PREPARE = Preprocessing((6, 5), None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
NAMES = ("cat", "größe", 'a"b')


def draw_network(layer=LAYER, **options):
    params, state = draw(layer)
    return Network(layer, params, jax.tree.map(jnp.abs, state), **options)


@pytest.fixture
def network():
    return draw_network(preprocessing=PREPARE, class_names=NAMES, task=Classification(label_smoothing=0.1))


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(1), (4, 6, 5, 3))


def assert_same_arrays(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for name, leaf in trees.named_leaves(expected).items():
        found = trees.named_leaves(actual)[name]
        assert found.dtype == leaf.dtype, name
        assert np.asarray(found).tobytes() == np.asarray(leaf).tobytes(), name


def assert_same(actual, expected):
    assert_same_arrays((actual.params, actual.state), (expected.params, expected.state))
    for name in ("layer", "preprocessing", "class_names", "task"):
        assert getattr(actual, name) == getattr(expected, name)


def write_picture(path, seed=0, size=(7, 9)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_it_computes_what_its_layer_computes(network, images):
    layer, params, state = network.unpack()
    expected, _ = batched(layer)(params, state, images, train=False)
    np.testing.assert_allclose(network(images), expected, rtol=1e-6)
    again = Network(layer, params, state)
    assert again.unpack() == (layer, params, state)


def test_it_is_compiled_once_for_each_shape(images):
    traced = []

    def note(x):
        traced.append(x.shape)
        return x

    noted = Sequential(note=Function(note), conv=Conv(3, 2))
    network = draw_network(noted)
    for batch in (images, images + 1, images[:2], images):
        network(batch)
        jax.tree.map(jnp.negative, network)(batch)
        dataclasses.replace(network, class_names=("a",))(batch)
    assert len(traced) == 2


def test_its_leaves_are_parameters_and_state(network):
    names = trees.named_leaves(network)
    expected = {"params": network.params, "state": network.state}
    assert names.keys() == trees.named_leaves(expected).keys()
    assert all(names[name] is leaf for name, leaf in trees.named_leaves(expected).items())
    leaves, structure = jax.tree.flatten(network)
    assert_same(jax.tree.unflatten(structure, leaves), network)
    assert hash(structure) == hash(jax.tree.structure(copy.deepcopy(network)))


def test_it_goes_through_tree_map_jit_and_grad(network, images):
    doubled = jax.jit(lambda network: jax.tree.map(lambda leaf: 2 * leaf, network))(network)
    assert_same(
        doubled,
        dataclasses.replace(
            network,
            **{name: jax.tree.map(lambda leaf: 2 * leaf, getattr(network, name)) for name in ("params", "state")},
        ),
    )

    def loss(params):
        return jnp.sum(batched(LAYER)(params, network.state, images, train=False)[0] ** 2)

    gradients = jax.jit(jax.grad(lambda network: jnp.sum(network(images) ** 2)))(network)
    assert isinstance(gradients, Network)
    for name, leaf in trees.named_leaves(jax.jit(jax.grad(loss))(network.params)).items():
        np.testing.assert_allclose(trees.named_leaves(gradients.params)[name], leaf, rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_ensemble_is_a_network_under_vmap(images):
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = jax.vmap(lambda key: Network(LAYER, *LAYER.init(key)))(keys)
    outputs = jax.vmap(lambda network: network(images))(ensemble)
    np.testing.assert_allclose(outputs[1], Network(LAYER, *LAYER.init(keys[1]))(images), rtol=1e-4, atol=1e-6)


def test_it_is_printed_short_copied_and_pickled(network):
    assert repr(network) == "<Network: Sequential, 283 parameters, 3 classes>"
    assert repr(jax.tree.map(lambda leaf: None, network)) == "<Network: Sequential, 0 parameters, 3 classes>"
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert_same(other, network)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": jnp.tanh}, TypeError, "expects a layer, with init and apply, got"),
        ({"class_names": (1, 2)}, TypeError, r"class names that are strings, got \(1, 2\)"),
        ({"class_names": "abc"}, TypeError, "expects a sequence of class names, got the string 'abc'"),
        ({"task": "classification"}, TypeError, r"Network expects a task, such as .*\(\), got 'classification'"),
        ({"task": Classification}, TypeError, r"Network expects a task, .*, got <class"),
        ({"preprocessing": "imagenet"}, TypeError, "Network expects a preprocessing, .*, or None, got 'imagenet'"),
        ({"params": {}}, ValueError, r"expected the parameters of the model"),
        ({"state": {}}, ValueError, r"norm/mean: expected \(4,\), got none"),
    ],
)
def test_what_does_not_fit_is_refused(network, change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(network, **change)


def test_classes_of_one_name_keep_their_probabilities():
    network = draw_network(class_names=("crane", "crane", "cat"), task=Classification())
    (probabilities,) = network.predict(np.zeros((6, 5, 3), np.float32))
    assert set(probabilities) == {"crane (0)", "crane (1)", "cat"}
    assert sum(probabilities.values()) == pytest.approx(1)


def test_predict_refuses_several_pictures_in_one_argument(network):
    with pytest.raises(ValueError, match=r"single pictures, got a batch of shape \(2, 6, 5, 3\); write predict\(\*"):
        network.predict(np.zeros((2, 6, 5, 3), np.uint8))
    for several, kind in (([np.zeros((6, 5, 3), np.uint8)], "list"), (None, "NoneType")):
        with pytest.raises(
            TypeError, match=rf"predict expects paths or arrays, got a {kind}; write predict\(\*pictures"
        ):
            network.predict(several)


def test_parameters_of_another_width_are_refused(network):
    other = dataclasses.replace(LAYER["head"], out_features=5)
    with pytest.raises(ValueError, match=r"head/kernel: expected \(4, 5\), got \(4, 3\)"):
        Network(LAYER.replace(head=other), network.params, network.state)


def test_features_are_those_of_the_layer(network, images):
    at = ["head", "block/conv"]
    found = network.features(images, at)
    assert list(found) == at
    for i, image in enumerate(images):
        for path, expected in features(*network.unpack(), image, at=at).items():
            np.testing.assert_allclose(found[path][i], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="a sequence of paths, got the string 'head'"):
        network.features(images, "head")


def test_replace_draws_new_layers_and_keeps_all_other_arrays(network, images):
    key = jax.random.key(3)
    new = {"head": Dense(4, 7), "block/conv": Conv(4, 4, 1)}
    changed = network.replace(new, key=key)
    assert changed(images).shape == (4, 7)
    assert (changed.preprocessing, changed.task) == (PREPARE, network.task)
    before, after = trees.named_leaves(network), trees.named_leaves(changed)
    for name, leaf in after.items():
        drawn = any(f"/{path}/" in f"/{name}" for path in new)
        assert drawn or leaf is before[name], name
    for path, layer_key in zip(new, jax.random.split(key, 2), strict=True):
        expected, _ = new[path].init(layer_key)
        found = changed.params
        for name in path.split("/"):
            found = found[name]
        assert_same_arrays(found, expected)
    assert network.params["head"]["kernel"].shape == (4, 3)


def test_replace_needs_a_key_only_for_parameters(network, images):
    headless = network.replace({"head": identity})
    assert headless.params["head"] == {}
    np.testing.assert_array_equal(headless(images), network.features(images, ["pool"])["pool"])
    with pytest.raises(ValueError, match="expects key= to draw the parameters of 'head', got none"):
        network.replace({"head": Dense(4, 2)})
    with pytest.raises(ValueError, match="replace expects names among"):
        network.replace({"haed": identity})
    with pytest.raises(TypeError, match="a model made of layers, got Dense"):
        draw_network(Dense(2, 3)).replace({"head": identity})


@pytest.mark.parametrize("preprocessing", [None, PREPARE, FitPicture((6, 5, 3))])
def test_replace_keeps_no_class_names_that_do_not_fit(preprocessing):
    network = draw_network(preprocessing=preprocessing, class_names=NAMES, task=Classification())
    key = jax.random.key(0)
    assert network.replace({"head": Dense(4, 3)}, key=key).class_names == NAMES
    assert network.replace({"block/conv": Conv(4, 4, 1)}, key=key).class_names == NAMES
    assert network.replace({"head": identity}).class_names == ()
    two = network.replace({"head": Dense(4, 2)}, key=key)
    assert two.class_names == ()
    picture = np.zeros((6, 5, 3), np.float32 if preprocessing is None else np.uint8)
    (probabilities,) = two.predict(picture)
    assert sorted(probabilities) == ["0", "1"]
    (probabilities,) = network.replace({"head": Dense(4, 2)}, key=key, class_names=["yes", "no"]).predict(picture)
    assert sorted(probabilities) == ["no", "yes"]
    with pytest.raises(ValueError, match="replace expects a class name for each of 2 outputs, got 3 names"):
        network.replace({"head": Dense(4, 2)}, key=key, class_names=NAMES)
    with pytest.raises(TypeError, match="expects class names that are strings, got"):
        network.replace({"head": Dense(4, 2)}, key=key, class_names=[0, 1])


def test_replace_keeps_the_class_names_where_the_outputs_cannot_be_counted():
    layer = Sequential(conv=Conv(3, 4), flatten=Flatten(), head=Dense(6 * 5 * 4, 3))
    network = draw_network(layer, class_names=NAMES, task=Classification())
    changed = network.replace({"head": Dense(6 * 5 * 4, 2)}, key=jax.random.key(0))
    assert changed.class_names == NAMES
    with pytest.raises(ValueError, match="one output for each of 3 class names, got outputs of shape"):
        changed.predict(np.zeros((6, 5, 3), np.float32))


def test_replace_works_within_frozen_layers_and_blocks_of_ones_own():
    block = squeeze_excite_block(4, 6)
    network = draw_network(Sequential(block=block, head=Conv(6, 2))).freeze("block")
    changed = network.replace({"block/excite/reduce": Dense(6, 3)}, key=jax.random.key(0))
    assert isinstance(changed.layer["block"], Frozen)
    assert changed.params["block"]["excite"]["reduce"] is not network.params["block"]["excite"]["reduce"]
    assert changed.params["block"]["excite"]["expand"] is network.params["block"]["excite"]["expand"]


def test_freeze_and_unfreeze_keep_all_arrays(network):
    frozen = network.freeze("(?!head).*")
    assert isinstance(frozen.layer["conv"], Frozen)
    assert not isinstance(frozen.layer["head"], Frozen)
    thawed = frozen.unfreeze()
    assert thawed.layer == network.layer
    for other in (frozen, thawed):
        same = zip(jax.tree.leaves(other), jax.tree.leaves(network), strict=True)
        assert all(one is two for one, two in same)
    with pytest.raises(ValueError, match="freeze expects a pattern that matches"):
        network.freeze("tail")


def test_folding_gives_the_same_outputs_without_batch_norms(network, images):
    folded = network.fold()
    assert jax.tree.leaves(folded.state) == []
    np.testing.assert_allclose(folded(images), network(images), rtol=1e-4, atol=1e-5)
    assert folded.class_names == NAMES


def test_a_saved_network_comes_back_to_the_bit(network, tmp_path):
    network.save(tmp_path / "network.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["network.safetensors"]
    assert_same(jaxcnn.load(tmp_path / "network.safetensors"), network)
    assert_same(jaxcnn.load(str(tmp_path / "network.safetensors"), layer=LAYER), network)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"preprocessing": keras_preprocessing("caffe", 8), "task": MultiLabel()},
        {"preprocessing": FitPicture((6, 5, 3)), "task": Segmentation(3)},
        {"task": Regression(), "class_names": ()},
    ],
)
def test_what_is_saved_beside_the_arrays_comes_back(changes, tmp_path):
    network = draw_network(**changes)
    network.save(tmp_path / "network.safetensors")
    assert_same(jaxcnn.load(tmp_path / "network.safetensors"), network)


def test_half_precision_and_frozen_layers_come_back(network, tmp_path):
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), network.freeze("conv"))
    halved.save(tmp_path / "network.safetensors")
    assert_same(jaxcnn.load(tmp_path / "network.safetensors"), halved)


@pytest.mark.usefixtures("float64")
def test_double_precision_comes_back(network, tmp_path):
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) / 3, network)
    double.save(tmp_path / "network.safetensors")
    assert_same(jaxcnn.load(tmp_path / "network.safetensors"), double)


def test_a_saved_network_is_read_by_the_other_readers(network, tmp_path):
    path = tmp_path / "network.safetensors"
    network.save(path)
    assert_same_arrays(load_parameters(path), (network.params, network.state))
    names = trees.named_leaves(network.params) | trees.named_leaves(network.state)
    assert {name: np.asarray(leaf).tolist() for name, leaf in read_safetensors(path).items()} == {
        name: leaf.tolist() for name, leaf in names.items()
    }
    save_safetensors(path, *network.unpack())
    assert_same(jaxcnn.load(path), Network(*network.unpack()))


@dataclasses.dataclass(frozen=True, repr=False)
class Mine(Composite):
    conv: Conv

    def forward(self, run, x):
        return jax.nn.relu(run.conv(x))


ELSEWHERE = """
import sys, jaxcnn
try:
    jaxcnn.load(sys.argv[1])
except jaxcnn.interop.files.paths.FileError as error:
    assert "pass layer=, or import the module of a class of your own" in str(error), error
    assert "'Mine', which is unknown" in str(error), error
else:
    raise AssertionError
"""


def test_a_class_of_ones_own_is_given_or_imported(tmp_path):
    path = tmp_path / "mine.safetensors"
    network = draw_network(Mine(Conv(3, 2)))
    network.save(path)
    assert_same(jaxcnn.load(path), network)
    assert_same(jaxcnn.load(path, layer=network.layer), network)
    subprocess.run([sys.executable, "-W", "error", "-c", ELSEWHERE, path], check=True)


def rewrite(path, **about):
    """Changes metadata of a file of safetensors; None removes them."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header["__metadata__"] | about
    header["__metadata__"] = {name: text for name, text in metadata.items() if text is not None}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"schema": "2"}, r"expected schema 1 in .*, got '2'; a later version"),
        ({"model": None}, "expected the text of a model in"),
        ({"model": "Dense(4, 3)"}, "does not match the leaves of the model"),
        ({"model": "Classification()"}, r"expected the text of a model in .*, got 'Classification\(\)'"),
        ({"model": "__import__('os').system('true')"}, "expected the text of a model"),
        ({"model": "Dense(4, " + "1" * 2**18 + ")"}, "expected a model of at most 262144 characters"),
        ({"model": "Conv(3, 4, kernel_size=1e999)"}, "expected the text of a model"),
        ({"preprocessing": "Dense(4, 3)"}, r"expected the text of a preprocessing in .*, got 'Dense\(4, 3\)'"),
        ({"task": "print"}, "expected the text of a task"),
        ({"class_names": "[1]"}, r"expected class names in .*, got '\[1\]'"),
        ({"class_names": "[" * 100_000}, "expected class names"),
    ],
)
def test_what_a_file_says_wrongly_is_refused(about, message, network, tmp_path):
    path = tmp_path / "network.safetensors"
    network.save(path)
    rewrite(path, **about)
    with pytest.raises(FileError, match=message):
        jaxcnn.load(path)


def test_a_layer_that_differs_from_the_file_is_refused(network, tmp_path):
    network.save(tmp_path / "network.safetensors")
    strided = LAYER.replace({"block/conv": Conv(4, 4, strides=2)})
    message = r"got layer= with 'block=.*Conv\(4, 4, strides=.* instead of 'block=.*Conv\(4, 4\), drop"
    with pytest.raises(FileError, match=message):
        jaxcnn.load(tmp_path / "network.safetensors", layer=strided)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint16, np.bool_])
def test_parameters_without_a_model_come_back_to_the_bit(dtype, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    params = {"b": {"kernel": jnp.asarray(array), "scalar": array[0, 1]}, "a": {}, "c": {"d": {}}}
    state = {"b": {}, "a": {"mean": array[:0]}, "c": {"d": {"e": array.T}}}
    save_parameters(tmp_path / "a.safetensors", params, state)
    loaded = load_parameters(tmp_path / "a.safetensors")
    assert_same_arrays(loaded, (params, state))
    assert [list(tree) for tree in loaded] == [list(params), list(state)]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert jaxcnn.save_parameters is save_parameters
    assert jaxcnn.load_parameters is load_parameters


@pytest.mark.parametrize(
    ("params", "state", "message"),
    [
        ({"a": jnp.ones(2)}, {"a": jnp.ones(2)}, "got 'a' in parameters and state"),
        ({"a": [jnp.ones(2)]}, {}, r"expected parameters as nested dicts of arrays, got \[.* at 'a'"),
        ({"a/b": jnp.ones(2)}, {}, "keys that are non-empty strings without '/'"),
        ({}, {}, "at least one tensor"),
    ],
)
def test_trees_that_a_file_cannot_hold_are_refused(params, state, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_parameters(tmp_path / "a.safetensors", params, state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"format": "pt"}, "expected a file that jaxcnn wrote, got .*, which is of another program"),
        ({"structure": None}, "got a file without it, as version 0.1 wrote"),
        ({"structure": '{"params": {"a": null}, "state": {}}'}, "got differences: b"),
        ({"structure": '{"params": {"a": null, "b": null, "a": null}, "state": {"a": null}}'}, "got differences: a"),
        ({"structure": '{"params": {"a": null, "b": 1}, "state": {}}'}, "expected the structure"),
        ({"structure": "[]"}, "expected the structure"),
        ({"structure": '{"a":' * 100_000}, "cannot be read"),
    ],
)
def test_files_without_a_sound_structure_are_refused(about, message, tmp_path):
    path = tmp_path / "a.safetensors"
    save_parameters(path, {"a": jnp.ones(2)}, {"b": jnp.ones(3)})
    rewrite(path, **about)
    with pytest.raises(FileError, match=message):
        load_parameters(path)


def test_integers_that_jax_would_cut_are_refused(tmp_path):
    save_parameters(tmp_path / "a.safetensors", {"a": np.array([2**40])}, {})
    with pytest.raises(FileError, match="expected integers of at most 32 bits as a"):
        load_parameters(tmp_path / "a.safetensors")


@pytest.fixture(scope="module")
def squeezenet():
    layer = squeezenet1_1(3)
    return (layer, *draw(layer))


def test_published_weights_are_loaded_with_the_name_in_the_folder(tmp_path):
    layer = resnet18(3)
    params, state = draw(layer)
    save_torch(tmp_path / "model.safetensors", layer, params, state, architecture="timm/resnet18")
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": list(NAMES)}))
    loaded = jaxcnn.load(tmp_path)
    expected = load_weights("resnet18", tmp_path)
    assert_same(loaded, Network(*expected[:3], expected.preprocessing, NAMES, Classification()))
    assert_same_arrays((loaded.params, loaded.state), (params, state))
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": ["a", "b"]}))
    assert jaxcnn.load(tmp_path).class_names == ()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnet81"}))
    with pytest.raises(FileError, match=r"known here in .*, got timm/resnet81; did you mean timm/resnet\d+"):
        jaxcnn.load(tmp_path)


def test_a_file_of_torch_is_loaded_by_the_name_of_its_model(squeezenet, tmp_path):
    path = tmp_path / "weights.pth"
    save_torch(path, *squeezenet, architecture="torchvision/squeezenet1_1")
    for options in ({"model": "squeezenet1_1"}, {"architecture": "torchvision/squeezenet1_1"}):
        loaded = jaxcnn.load(path, **options)
        assert_same(loaded, Network(*squeezenet, task=Classification(), preprocessing=loaded.preprocessing))
    with pytest.raises(FileError, match=r"a source that names its model, got .*weights.pth; give model="):
        jaxcnn.load(path)
    with pytest.raises(KeyError, match=r"got 'squeezenet_1_1'; did you mean squeezenet1_1\?"):
        jaxcnn.load(path, model="squeezenet_1_1")
    with pytest.raises(ValueError, match=r"load expects layer= only for jaxcnn's own files"):
        jaxcnn.load(path, layer=squeezenet[0])


def test_a_network_without_head_has_no_task(squeezenet, tmp_path):
    layer = resnet18(3).replace(head=identity)
    save_torch(tmp_path / "weights.pth", layer, *draw(layer), architecture="timm/resnet18")
    loaded = jaxcnn.load(tmp_path / "weights.pth", architecture="timm/resnet18")
    assert loaded.layer["head"] == identity
    with pytest.raises(ValueError, match="expects a network with a task"):
        loaded.predict(np.zeros((32, 32, 3), np.float32))


def test_a_published_file_of_torchvision_tells_its_model(squeezenet, tmp_path, monkeypatch):
    path = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    save_torch(path, *squeezenet, architecture="torchvision/squeezenet1_1")
    with pytest.raises(FileError, match="its checksum does not match its name"):
        jaxcnn.load(path)
    monkeypatch.setattr("jaxcnn.interop.weights.verify_torchvision_name", lambda path: True)
    assert jaxcnn.load(path).layer == squeezenet[0]


RUN = {
    "recipe": {"epochs": 3, "precision": "float32"},
    "model": repr(LAYER),
    "task": "Classification(label_smoothing=0.1)",
    "image_shape": [6, 5, 3],
    "class_names": list(NAMES),
    "data_fingerprint": {"train": "ab"},
    "versions": {},
}


def write_run(path, network, **changes):
    with RunFolder.create(path, RUN | changes) as folder:
        folder.save_best(network.params, network.state, epoch=2)
    return path


def test_the_best_epoch_of_a_run_is_loaded(network, tmp_path):
    path = write_run(tmp_path / "run", network)
    expected = dataclasses.replace(network, preprocessing=FitPicture((6, 5, 3)))
    assert_same(jaxcnn.load(path), expected)
    assert_same(jaxcnn.load(str(path), layer=LAYER), expected)
    with pytest.raises(ValueError, match=r"load expects entry= only for published weights, got entry='a' for .*run"):
        jaxcnn.load(path, entry="a")
    with pytest.raises(RunFolderError, match=r"which differs from .* in layer="):
        jaxcnn.load(path, layer=LAYER.replace(head=Dense(4, 5)))


def test_a_run_on_images_of_any_size_prepares_nothing(network, tmp_path):
    assert jaxcnn.load(write_run(tmp_path / "run", network, image_shape=[0, 0, 3])).preprocessing is None


def test_a_run_of_version_0_1_is_loaded(tmp_path):
    golden = Path(__file__).parent / "golden"
    shutil.copytree(golden / "run_0_1", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["options"]["data"] = str(golden / "digits16.npz")
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with np.load(golden / "digits16.npz") as arrays:
        Image.fromarray(arrays["images"][40, ..., 0]).save(tmp_path / "digit.png")
    (found,) = jaxcnn.load(tmp_path / "old").predict(tmp_path / "digit.png", top=3)
    # As version 0.1 printed it.
    assert {name: f"{share:.1%}" for name, share in found.items()} == {"eight": "95.4%", "two": "3.7%", "one": "0.7%"}


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("resnet50", {}, ValueError, r"got the name of a model, 'resnet50'; .*jaxcnn\.models\.resnet50\(\)"),
        ("nothing", {}, ValueError, "expected a hub id"),
        ("nothing.pth", {}, FileNotFoundError, "expected a file of weights, got nothing.pth, which does not exist"),
        ("nothing.safetensors", {"model": "resnet18"}, FileNotFoundError, "does not exist"),
    ],
)
def test_sources_that_are_none_are_refused(source, options, error, message):
    with pytest.raises(error, match=message):
        jaxcnn.load(source, **options)


def test_options_for_other_sources_are_refused(network, tmp_path):
    network.save(tmp_path / "a.safetensors")
    for name in ("model", "architecture", "entry"):
        with pytest.raises(ValueError, match=f"load expects {name}= only for published weights, got {name}='resnet18'"):
            jaxcnn.load(tmp_path / "a.safetensors", **{name: "resnet18"})
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(FileError, match="empty file"):
        jaxcnn.load(tmp_path / "empty.safetensors", model="resnet18")
    write_safetensors(tmp_path / "other.safetensors", {"a": np.ones(2)})
    with pytest.raises(FileError, match="a source that names its model"):
        jaxcnn.load(tmp_path / "other.safetensors")


def test_predictions_are_probabilities_by_name(network, tmp_path):
    pixels = write_picture(tmp_path / "a.png")
    (found,) = network.predict(tmp_path / "a.png")
    logits = np.asarray(network(PREPARE(pixels)[None])[0], np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    order = np.argsort(-probabilities)
    assert list(found) == [NAMES[i] for i in order]
    np.testing.assert_allclose(list(found.values()), probabilities[order], rtol=1e-5)
    (best,) = network.predict(pixels, top=1)
    assert list(best) == [NAMES[order[0]]]
    (indices,) = dataclasses.replace(network, class_names=()).predict(str(tmp_path / "a.png"))
    assert list(indices) == [str(i) for i in order]
    assert network.predict() == []


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_predictions_do_not_depend_on_the_batch(batch_size, network, tmp_path):
    pictures = [write_picture(tmp_path / f"{i}.png", seed=i, size=(5 + i, 9)) for i in range(5)]
    found = network.predict(*pictures[:3], *(tmp_path / f"{i}.png" for i in (3, 4)), batch_size=batch_size)
    assert len(found) == 5
    for picture, one in zip(pictures, found, strict=True):
        (alone,) = network.predict(picture)
        assert list(one) == list(alone)
        np.testing.assert_allclose(list(one.values()), list(alone.values()), rtol=1e-4)


def test_other_tasks_give_what_they_decode(tmp_path):
    segment = draw_network(
        Sequential(conv=Conv(3, 2)),
        preprocessing=FitPicture((6, 6, 3)),
        class_names=("no", "yes"),
        task=Segmentation(2),
    )
    pixels = write_picture(tmp_path / "a.png", size=(6, 6))
    (mask,) = segment.predict(tmp_path / "a.png")
    expected = np.argmax(segment(pixels[None].astype(np.float32) / 255)[0], axis=-1)
    np.testing.assert_array_equal(mask, expected)
    (numbers,) = draw_network(task=Regression()).predict(np.ones((6, 5, 3), np.float32))
    assert numbers.shape == (3,)


def test_a_picture_is_fitted_with_its_proportions():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :, 0] = 255
    fitted = FitPicture((8, 8, 3))(picture)
    assert fitted.dtype == np.float32
    np.testing.assert_allclose(fitted, np.broadcast_to(np.float32([1, 0, 0]), (8, 8, 3)), atol=1e-6)
    grey = FitPicture((2, 2, 1))(np.array([[0, 1], [0.5, 0.25]], np.float32))
    np.testing.assert_allclose(grey[..., 0], [[0, 1], [0.5, 0.25]], atol=1e-6)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 8), np.uint8), r"shape \(height, width, 3\), uint8 or floating point, got uint8 \(4, 8\)"),
        (np.zeros((4, 8, 3), np.int32), "got int32"),
        (np.full((4, 8, 3), 255.0), r"pixels in \[0, 1\], got 255 to 255; divide"),
        (np.full((4, 8, 3), np.nan), r"pixels in \[0, 1\], got nan"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        FitPicture((8, 8, 3))(picture)
    with pytest.raises(ValueError, match=r"FitPicture expects \(height, width, channels\)"):
        FitPicture((8, 0, 3))


def test_predictions_that_cannot_be_made_say_why(network, images, tmp_path):
    write_picture(tmp_path / "a.png")
    without = dataclasses.replace(network, preprocessing=None)
    with pytest.raises(ValueError, match=r"with a preprocessing for picture files, got none for .*a\.png"):
        without.predict(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"prepared images of one shape, got \[\(4, 5, 3\), \(6, 5, 3\)\]"):
        without.predict(images[0], images[1][:4])
    with pytest.raises(ValueError, match=r"one output for each of 2 class names, got outputs of shape \(3,\)"):
        dataclasses.replace(without, class_names=("a", "b")).predict(images[0])
    with pytest.raises(ValueError, match="predict expects top of at least 1, got 0"):
        network.predict(top=0)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"b\.png"):
        network.predict(tmp_path / "b.png")


def test_training_starts_from_the_weights_of_a_network(tmp_path):
    model = mlp(3, image_size=8, hidden=(8,))
    network = jaxcnn.Network(model, *model.init(jax.random.key(0)))
    images = np.random.default_rng(0).uniform(size=(30, 8, 8, 1)).astype(np.float32)
    examples = jaxcnn.data.arrays(image=images, label=np.arange(30) % 3)
    recipe = jaxcnn.training.Recipe(epochs=1, batch_size=6, optimizer="sgd", learning_rate=1e-12, augment="none")
    result = jaxcnn.train(network, examples, recipe, folder=tmp_path / "run")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result.params, network.params)
    assert jaxcnn.load(tmp_path / "run").layer == model
    other = jaxcnn.train(model, examples, recipe)
    assert not np.allclose(other.params["head"]["kernel"], network.params["head"]["kernel"], atol=1e-3)


def test_published_weights_are_trained_with_their_normalization():
    model = Sequential(conv=Conv(3, 4), pool=GlobalAvgPool(), head=Dense(4, 2))
    preprocessing = Preprocessing(8, (8, 8), scale=255, mean=(51.0, 0.0, 0.0), std=(25.5, 255.0, 255.0))
    network = jaxcnn.Network(model, *model.init(jax.random.key(0)), preprocessing)
    images = np.random.default_rng(0).uniform(size=(20, 8, 8, 3)).astype(np.float32)
    examples = jaxcnn.data.arrays(image=images, label=np.arange(20) % 2)
    recipe = jaxcnn.training.Recipe(epochs=1, batch_size=6, optimizer="sgd", learning_rate=1e-12, augment="none")
    result = jaxcnn.train(network, examples, recipe)
    assert result.params["normalize"] == {}
    trained = normalized(model, preprocessing.normalization())
    y, _ = trained.apply(result.params, result.state, images[0], train=False)
    prepared = (images[0] - np.array([0.2, 0, 0], np.float32)) / np.array([0.1, 1, 1], np.float32)
    expected, _ = model.apply(network.params, network.state, prepared, train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
