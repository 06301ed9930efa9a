"""Sound weights in other wrappings: prefixes, checkpoints, endings, no head, grey images, arguments of timm."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from weights_files import arrays_in, draw, write_checkpoint

from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.safetensors_file import write_safetensors
from jaxcnn.interop.weights import load_safetensors, load_weights, save_safetensors, save_torch
from jaxcnn.layers import identity
from jaxcnn.models import lenet5, mobilenet_v3_small, resnet18, squeezenet1_1
from jaxcnn.text import printable
from jaxcnn.trees import named_leaves

RESNET, SMALL = resnet18(3), squeezenet1_1(3)
CONFIG = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 224, 224]}}


@pytest.fixture(scope="module")
def leaves():
    return draw(SMALL)


@pytest.fixture(scope="module")
def arrays(leaves, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    save_torch(path, SMALL, *leaves, architecture="torchvision/squeezenet1_1")
    return arrays_in(path)


@pytest.fixture(scope="module")
def resnet_arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    save_torch(path, RESNET, *draw(RESNET), architecture="timm/resnet18")
    return arrays_in(path)


def assert_loads(leaves, path, **options):
    weights = load_weights("squeezenet1_1", path, **options)
    assert weights.model == SMALL
    for actual, expected in zip(weights[1:3], leaves, strict=True):
        actual, expected = named_leaves(actual), named_leaves(expected)
        assert actual.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(actual[name], leaf, err_msg=name)


def folder(tmp_path, arrays, **changes):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    write_safetensors(tmp_path / "model.safetensors", arrays)
    return tmp_path


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module.module.", "_orig_mod.module.", "model._orig_mod."]
)
def test_what_wrappers_put_before_all_names_is_taken_off(prefix, arrays, leaves, tmp_path):
    wrapped = {prefix + name: array for name, array in arrays.items()}
    write_checkpoint(tmp_path / "weights.pth", {"state_dict": wrapped})
    assert_loads(leaves, tmp_path / "weights.pth")
    write_safetensors(tmp_path / "weights.safetensors", wrapped)
    assert_loads(leaves, tmp_path / "weights.safetensors")


def test_the_counter_of_an_averaged_module_is_left_out(arrays, leaves, tmp_path):
    averaged = {"n_averaged": np.array(3), **{f"module.{name}": array for name, array in arrays.items()}}
    write_safetensors(tmp_path / "weights.safetensors", averaged)
    assert_loads(leaves, tmp_path / "weights.safetensors")


def test_another_prefix_is_named_and_the_differences_are_counted(arrays, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {f"backbone.{name}": array for name, array in arrays.items()})
    with pytest.raises(FileError, match=r"got names with the common prefix 'backbone\.':") as caught:
        load_weights("squeezenet1_1", tmp_path / "a.safetensors")
    assert len(str(caught.value).splitlines()) == 7
    assert str(caught.value).endswith("and 99 more")


@pytest.mark.parametrize("pair", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_of_several_state_dicts_one_is_chosen(pair, arrays, leaves, tmp_path):
    first, second = pair
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    path = tmp_path / "checkpoint.pth.tar"
    write_checkpoint(path, {first: zeros, second: {f"module.{name}": a for name, a in arrays.items()}})
    with pytest.raises(FileError, match=f"choose one with entry=.*{first!r} .*{second!r}"):
        load_weights("squeezenet1_1", path)
    assert_loads(leaves, path, entry=second)
    assert not np.any(load_weights("squeezenet1_1", path, entry=first).params["head"]["conv"]["kernel"])
    with pytest.raises(FileError, match="has no entry 'ema'; it has"):
        load_weights("squeezenet1_1", path, entry="ema")


def test_an_entry_of_what_has_none_is_refused(arrays, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match="expected entry= only for a checkpoint of torch, got 'ema'"):
        load_weights("squeezenet1_1", tmp_path / "a.safetensors", entry="ema")


@pytest.mark.parametrize("name", ["a.pth.tar", "a.ckpt", "a.PTH", "a.bin", "a.pt", "a.weights", "a"])
def test_a_file_of_torch_may_end_in_anything(name, arrays, leaves, tmp_path):
    write_checkpoint(tmp_path / name, arrays)
    assert_loads(leaves, tmp_path / name)


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "a.bin", "a"])
def test_a_file_of_safetensors_may_end_in_anything(name, arrays, leaves, tmp_path):
    write_safetensors(tmp_path / name, arrays)
    assert_loads(leaves, tmp_path / name)


@pytest.mark.parametrize("build", [resnet18, mobilenet_v3_small])
def test_a_file_without_a_head_gives_the_features(build, tmp_path):
    architecture = {resnet18: "timm/resnet18", mobilenet_v3_small: "timm/mobilenetv3_small_100"}[build]
    whole = load_after_saving(build(5), architecture, tmp_path / "whole.pth")
    headless = whole.model.replace(head=identity)
    saved = load_after_saving(headless, architecture, tmp_path / "headless.pth")
    assert saved.model == headless
    assert saved.params["head"] == {}


def test_own_files_without_a_head_load(tmp_path):
    model = SMALL.replace(head=identity)
    save_safetensors(tmp_path / "own.safetensors", model, *draw(model))
    with pytest.raises(FileError, match="does not hold the weights of squeezenet1_1"):
        load_weights("squeezenet1_1", tmp_path / "own.safetensors")
    model = lenet5().replace(head=identity)
    save_safetensors(tmp_path / "own.safetensors", model, *draw(model))
    assert load_weights("lenet5", tmp_path / "own.safetensors").model == model


def load_after_saving(model, architecture, path):
    save_torch(path, model, *draw(model), architecture=architecture)
    name = "resnet18" if "resnet" in architecture else "mobilenet_v3_small"
    return load_weights(name, path, architecture=architecture)


def test_own_files_of_a_model_whose_head_is_a_convolution_load(tmp_path):
    model = squeezenet1_1(7)
    save_safetensors(tmp_path / "own.safetensors", model, *draw(model))
    assert load_weights("squeezenet1_1", tmp_path / "own.safetensors").model == model


def test_a_folder_of_grey_images_gets_grey_preprocessing(tmp_path):
    model = resnet18(3, in_channels=1)
    save_torch(tmp_path / "w.pth", model, *draw(model), architecture="timm/resnet18")
    grey = folder(tmp_path, arrays_in(tmp_path / "w.pth"), model_args={"in_chans": 1})
    weights = load_weights("resnet18", grey)
    assert weights.model == model
    image = np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8)
    prepared = weights.preprocessing(image)
    assert prepared.shape == (224, 224, 1)
    assert (weights.preprocessing.mean, weights.preprocessing.std) == (
        (pytest.approx((0.485 + 0.456 + 0.406) / 3),),
        (pytest.approx((0.229 + 0.224 + 0.225) / 3),),
    )
    np.testing.assert_array_equal(weights.preprocessing(image[:, :, None]), prepared)
    colour = weights.preprocessing.__class__(
        256, 224, "bicubic", fit="cover", mean=weights.preprocessing.mean * 3, std=weights.preprocessing.std * 3
    )
    np.testing.assert_array_equal(colour(np.stack([image] * 3, 2))[:, :, :1], prepared)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, "config.json for 3 channels and 4 classes, and weights for 3 channels and 3 classes"),
        ({"num_classes": 0}, "3 channels and 0 classes"),
        ({"model_args": {"in_chans": 1}}, "config.json for 1 channels"),
        (
            {"model_args": {"act_layer": "silu"}},
            "got 'act_layer': 'silu'; it may change the built model",
        ),
        ({"architecture": "resnetaa50"}, "got timm/resnetaa50"),
        ({"architecture": "resnet34"}, "timm/resnet34 is the model 'resnet34' here"),
    ],
)
def test_a_config_of_another_model_is_refused(changes, message, resnet_arrays, tmp_path):
    with pytest.raises(FileError, match=message):
        load_weights("resnet18", folder(tmp_path, resnet_arrays, **changes))


def test_the_tag_of_weights_may_follow_the_architecture(resnet_arrays, tmp_path):
    path = folder(tmp_path, resnet_arrays, architecture="resnet18.a1_in1k")
    assert load_weights("resnet18", path).model == RESNET


def test_a_named_architecture_must_be_that_of_the_config(resnet_arrays, tmp_path):
    path = folder(tmp_path, resnet_arrays, architecture="resnetblur18")
    with pytest.raises(FileError, match=r"got timm/resnet18, and timm/resnetblur18 in"):
        load_weights("resnet18", path, architecture="timm/resnet18")
    with pytest.raises(FileError, match="got timm/resnetblur18"):
        load_weights("resnet18", path / "model.safetensors", architecture="timm/resnetblur18")


@pytest.mark.parametrize("dtype", [np.int8, np.complex64, np.bool_])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype, resnet_arrays, tmp_path):
    changed = {**resnet_arrays, "fc.bias": resnet_arrays["fc.bias"].astype(dtype)}
    write_safetensors(tmp_path / "a.safetensors", changed)
    with pytest.raises(FileError, match=f"expected floating point numbers as fc.bias in .*, got {np.dtype(dtype)}"):
        load_weights("resnet18", tmp_path / "a.safetensors")
    model = RESNET["head"]
    own = {"kernel": resnet_arrays["fc.weight"].T, "bias": resnet_arrays["fc.bias"].astype(dtype)}
    write_safetensors(tmp_path / "own.safetensors", own)
    with pytest.raises(FileError, match="expected floating point numbers as bias"):
        load_safetensors(tmp_path / "own.safetensors", model)


@pytest.mark.parametrize(("repeats", "names"), [(900, 600), (100_000, 1)])
def test_prefixes_without_number_cost_no_more_than_the_file(repeats, names, tmp_path):
    array = np.zeros(0, np.float32)
    write_safetensors(tmp_path / "a.safetensors", {f"{'module.' * repeats}l{i}": array for i in range(names)})
    tracemalloc.start()
    with pytest.raises(FileError, match="does not hold the weights of squeezenet1_1"):
        load_weights("squeezenet1_1", tmp_path / "a.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_counters_of_averages_are_left_out_at_every_depth(arrays, leaves, tmp_path):
    counted = {"n_averaged": np.array(3), "module.model.n_averaged": np.array(4)}
    wrapped = {f"module.model.module.{name}": array for name, array in arrays.items()}
    write_safetensors(tmp_path / "weights.safetensors", {**counted, **wrapped})
    assert_loads(leaves, tmp_path / "weights.safetensors")


@pytest.mark.parametrize("target", ["nowhere", "{name}"])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
)
def test_links_that_lead_nowhere_are_refused_in_a_folder(name, target, resnet_arrays, tmp_path):
    others = {
        "config.json": ["model.safetensors"],
        "model.safetensors": ["pytorch_model.bin"],
        "model.safetensors.index.json": ["pytorch_model.bin"],
    }
    for other in others.get(name, []):
        write_checkpoint(tmp_path / other, resnet_arrays)
    (tmp_path / name).symlink_to(target.format(name=name))
    with pytest.raises(FileNotFoundError, match=f"{name}' is a link to a file that is not there"):
        load_weights("resnet18", tmp_path)


def test_a_link_that_leads_nowhere_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "resnet18").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="'timm/resnet18' is a link to a file that is not there"):
        load_weights("resnet18", "timm/resnet18")


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "backbone."])
def test_a_prefix_of_most_names_is_said_with_what_is_left_over(prefix, arrays, tmp_path):
    others = {f"{'module.' if prefix.startswith('module.') else ''}criterion.{i}": np.zeros(1) for i in range(7)}
    wrapped = {f"{prefix}{name}": array for name, array in arrays.items()}
    write_safetensors(tmp_path / "a.safetensors", {**wrapped, **others})
    first = "backbone" if prefix == "backbone." else "model"
    with pytest.raises(
        FileError, match=rf"most of which have the prefix '{first}\.', and others: criterion\.0, .* and 2 more; save"
    ):
        load_weights("squeezenet1_1", tmp_path / "a.safetensors")


def test_a_common_part_of_the_names_that_is_expected_is_no_prefix(arrays, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {**arrays, "extra.weight": np.zeros(1, np.float32)})
    with pytest.raises(FileError, match=r"torchvision/squeezenet1_1:\n  left over: extra\.weight \(1,\)$"):
        load_weights("squeezenet1_1", tmp_path / "a.safetensors")


ODD = "\x1b[2J\n\u202e" + 1000 * "x"


def odd_files(tmp_path, arrays):
    zeros = np.zeros(1, np.float32)
    own = {"format": "jaxcnn", "model": repr(SMALL)}
    write_safetensors(tmp_path / "left.safetensors", {**arrays, ODD: zeros})
    yield tmp_path / "left.safetensors"
    write_safetensors(tmp_path / "prefix.safetensors", {f"{ODD}.{i}": zeros for i in range(9)} | {ODD: zeros})
    yield tmp_path / "prefix.safetensors"
    write_safetensors(tmp_path / "own.safetensors", {ODD: zeros}, own)
    yield tmp_path / "own.safetensors"
    header = json.dumps({"a": {"dtype": ODD, "shape": [], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "dtype.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    yield tmp_path / "dtype.safetensors"
    for name, shards in {
        "missing": {f"a{i}": f"{i}{ODD[:90]}.safetensors" for i in range(99)},
        "differing": {ODD: "part\x1b[2J.safetensors"},
    }.items():
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "part\x1b[2J.safetensors", arrays)
        (tmp_path / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        yield tmp_path / name
    (tmp_path / "config").mkdir()
    yield folder(tmp_path / "config", arrays, architecture=ODD)
    write_checkpoint(tmp_path / "entry.pth", {ODD: arrays, "b": arrays})
    yield tmp_path / "entry.pth"
    code = b"\x80\x02c" + ODD.replace("\n", "").encode() + b"\nsystem\n."
    with zipfile.ZipFile(tmp_path / "code.pth", "w") as archive:
        archive.writestr("a/data.pkl", code)
    yield tmp_path / "code.pth"


def test_names_of_a_file_are_escaped_and_short_in_errors(arrays, tmp_path):
    for path in odd_files(tmp_path, arrays):
        with pytest.raises((FileError, FileNotFoundError)) as caught:
            load_weights("squeezenet1_1", path)
        message = str(caught.value)
        assert printable(message, keep="\n") == message, path
        assert len(message.splitlines()) <= 8, path
        assert len(message) < 2000, path
    with pytest.raises(FileError) as caught:
        load_safetensors(tmp_path / "own.safetensors", SMALL)
    assert printable(caught.value, keep="\n") == str(caught.value)
