import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxcnn.interop.files.keras_file import read_keras

GOLDEN = Path(__file__).parents[2] / "golden"

# In the order of the model, which the golden file numbers.
SHAPES = {
    "conv/kernel": (3, 3, 3, 2),
    "conv/bias": (2,),
    "bn/gamma": (2,),
    "bn/beta": (2,),
    "bn/moving_mean": (2,),
    "bn/moving_variance": (2,),
    "depthwise/kernel": (3, 3, 2, 1),
    "head/first/kernel": (2, 2),
    "head/first/bias": (2,),
    "head/second/kernel": (2, 1),
    "head/second/bias": (1,),
}


def write(path, layers, group=None, names=None):
    """Writes the format as Keras does: the names of layers and weights as attributes, the arrays by their names."""
    with h5py.File(path, "w") as file:
        target = file if group is None else file.create_group(group)
        target.attrs["layer_names"] = [layer.encode() for layer in names or layers]
        for layer, weights in layers.items():
            part = target.create_group(layer)
            part.attrs["weight_names"] = [name.encode() for name in weights]
            for name, values in weights.items():
                part[name] = values
    return path


def test_a_model_that_keras_saved_is_read():
    tensors = read_keras(GOLDEN / "model.h5")
    assert {name: tensor.shape for name, tensor in tensors.items()} == SHAPES
    assert list(tensors) == list(SHAPES)
    for place, (name, shape) in enumerate(SHAPES.items()):
        assert tensors[name].dtype == np.float32
        expected = 100 * place + np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(np.asarray(tensors[name]), expected, err_msg=name)


def test_names_are_those_of_layer_and_weight_of_whatever_age(tmp_path):
    layers = {
        "conv1_conv": {"conv1_conv/kernel:0": np.ones((7, 7, 3, 4)), "conv1_conv/bias:0": np.ones(4)},
        "pool": {},
        "block1_conv1": {"block1_conv1_W_1:0": np.ones((3, 3, 3, 2)), "block1_conv1_b_1:0": np.ones(2)},
        "block1_conv1_W": {"block1_conv1_W_b:0": np.ones(1)},
        "conv2/bn": {"conv2/bn/gamma:0": np.ones(2)},
        "nested": {"dense/kernel:0": np.ones((2, 2)), "dense_1/kernel:0": np.zeros((2, 2))},
    }
    assert list(read_keras(write(tmp_path / "old.h5", layers))) == [
        *("conv1_conv/kernel", "conv1_conv/bias", "block1_conv1/kernel", "block1_conv1/bias", "block1_conv1_W/bias"),
        *("conv2/bn/gamma", "nested/dense/kernel", "nested/dense_1/kernel"),
    ]


def test_names_that_keras_split_are_put_together(tmp_path):
    layers = {f"layer{i}": {f"layer{i}/kernel:0": np.full(1, i)} for i in range(5)}
    path = write(tmp_path / "split.h5", layers)
    with h5py.File(path, "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:3], names[3:]
    tensors = read_keras(path)
    assert [int(np.asarray(tensors[f"layer{i}/kernel"])[0]) for i in range(5)] == list(range(5))


def test_weights_of_the_model_itself_are_read(tmp_path):
    layers = {"a": {"a/kernel": np.ones(2)}, "top_level_model_weights": {"token": np.ones(3)}}
    path = write(tmp_path / "top.h5", layers, "model_weights", names=["a"])
    assert list(read_keras(path)) == ["a/kernel", "top_level_model_weights/token"]


def test_values_are_read_late_in_the_byte_order_of_the_machine_and_belong_to_the_caller(tmp_path):
    path = write(tmp_path / "big.h5", {"a": {"a/kernel:0": np.arange(3, dtype=">f4"), "a/step:0": np.array(7)}})
    tensors = read_keras(path)
    assert tensors["a/kernel"].dtype == np.dtype("=f4")
    assert np.asarray(tensors["a/kernel"]).dtype == np.dtype("=f4")
    np.asarray(tensors["a/kernel"])[:] = 9
    np.testing.assert_array_equal(np.asarray(tensors["a/kernel"]), [0, 1, 2])
    assert tensors["a/step"].shape == ()
    assert np.asarray(tensors["a/step"]) == 7


def test_two_weights_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "twice.h5", {"a": {"a/kernel:0": np.ones(1), "a/kernel:1": np.ones(1)}})
    with pytest.raises(ValueError, match="has two weights with the name 'a/kernel'; give the layers distinct names"):
        read_keras(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.keras", r"a .keras file of Keras 3, .* keras.models.load_model\('name.keras'\).save\('name.h5'\)"),
        ("model.weights.h5", r"a .weights.h5 file of Keras 3, .* model.save\('name.h5'\)"),
        ("make_keras_files.py", r"expects an .h5 file, but .* is a file that begins with b'"),
        ("none.h5", "expected a file of weights, got .*, which does not exist"),
    ],
)
def test_other_files_are_refused_with_what_to_do(name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_keras(GOLDEN / name)


def test_the_state_of_an_optimizer_alone_is_refused(tmp_path):
    with h5py.File(tmp_path / "optimizer.h5", "w") as file:
        file.create_group("optimizer_weights").attrs["weight_names"] = [b"adam/m"]
    with pytest.raises(ValueError, match="holds the state of an optimizer, but no weights of a model"):
        read_keras(tmp_path / "optimizer.h5")


def test_another_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("images")
    with pytest.raises(ValueError, match=r"expected the attribute layer_names, got the groups \['images'\]"):
        read_keras(tmp_path / "other.h5")


def test_links_to_other_files_and_what_is_not_numbers_are_refused(tmp_path):
    other = write(tmp_path / "other.h5", {"a": {"a/kernel": np.ones(2)}})
    path = write(tmp_path / "model.h5", {"a": {"a/kernel": np.ones(2)}})
    with h5py.File(path, "r+") as file:
        del file["a/a/kernel"]
        file["a/a/kernel"] = h5py.ExternalLink(other, "a/a/kernel")
    with pytest.raises(ValueError, match="expects 'a/kernel' to be an array of this file, got a link to something"):
        read_keras(path)
    path = write(tmp_path / "model.h5", {"a": {"a/kernel": "text"}})
    with pytest.raises(ValueError, match="expects numbers as 'a/kernel', got dtype object"):
        read_keras(path)


def test_damaged_files_are_refused(tmp_path):
    content = (GOLDEN / "model.h5").read_bytes()
    path = tmp_path / "cut.h5"
    for length in (20, 2000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is truncated or damaged; download or copy it again"):
            read_keras(path)
    path = write(path, {"a": {"a/kernel": np.ones(2)}}, names=["a", "b"])
    with pytest.raises(ValueError, match=r"is truncated or damaged; .*'b'"):
        read_keras(path)


def test_values_that_cannot_be_read_say_where(tmp_path):
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = [b"a/kernel"]
        file["a"].create_dataset("a/kernel", data=np.arange(1000.0), compression="gzip")
        position = file["a/a/kernel"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(position + 20)
        file.write(bytes(100))
    with pytest.raises(ValueError, match="is damaged at /a/a/kernel; download or copy it again"):
        read_keras(path)


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"expects h5py to be installed; pip install 'jaxcnn\[weights\]'"):
        read_keras(GOLDEN / "model.h5")
