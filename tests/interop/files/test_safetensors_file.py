import contextlib
import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxcnn.files import written_whole
from jaxcnn.interop.files import safetensors_file
from jaxcnn.interop.files.safetensors_file import read_metadata, read_safetensors, write_safetensors

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
NAMES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool", "complex64"),
)
ARRAYS = {
    **{name: np.array([[0, 1], [1, 0]]).astype(getattr(ml_dtypes, name, name)) for name in NAMES},
    "scalar": np.array(3),
    "empty": np.zeros((0, 3), np.float32),
    "größe": MATRIX,
}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (values.shape, values.dtype)
        assert np.asarray(actual[name]).dtype == values.dtype
        np.testing.assert_array_equal(np.asarray(actual[name]), values, err_msg=name)


def by_hand(path, header, data=b""):
    """Writes the format from its description: the length of the header, the header in JSON, the values."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_file_written_by_hand_is_read(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [3, 4], "data_offsets": [4, 52]},
        "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
    }
    path = by_hand(tmp_path / "model.safetensors", header, b"\x80\x3f\x00\x40" + MATRIX.tobytes())
    assert_same(read_safetensors(path), {"a": np.array([1, 2], ml_dtypes.bfloat16), "b": MATRIX})
    assert read_metadata(path) == {"format": "pt"}


def test_every_dtype_is_written_and_read(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ARRAYS)
    assert_same(read_safetensors(path), ARRAYS)
    assert_same(safetensors.numpy.load_file(path), ARRAYS)
    assert read_metadata(path) == {}


def test_arrays_of_any_layout_and_byte_order_and_lazy_tensors_are_written(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"transposed": MATRIX.T, "reversed": MATRIX[::-1, ::2], "swapped": MATRIX.astype(">f4")}
    write_safetensors(path, arrays, {"source": "tests"})
    write_safetensors(tmp_path / "again.safetensors", read_safetensors(path))
    for file in (path, tmp_path / "again.safetensors"):
        assert_same(read_safetensors(file), {name: values.astype("=f4") for name, values in arrays.items()})
    assert read_metadata(path) == {"source": "tests"}


def test_the_values_are_the_callers_own(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": MATRIX})
    tensors = read_safetensors(tmp_path)
    np.asarray(tensors["a"])[:] = 0
    np.testing.assert_array_equal(np.asarray(tensors["a"]), MATRIX)
    with pytest.raises(TypeError, match="does not support item assignment"):
        tensors["new"] = tensors["a"]


def shards(folder, **changes):
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"b": MATRIX})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"a": MATRIX.T, "c": MATRIX[0]})
    weight_map = {"a": 2, "b": 1, "c": 2}
    weight_map = {name: f"model-0000{shard}-of-00002.safetensors" for name, shard in weight_map.items()}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 112}, "weight_map": weight_map | changes}))
    return index


def test_shards_are_read_by_their_index(tmp_path):
    index = shards(tmp_path)
    for path in (tmp_path, index):
        tensors = read_safetensors(path)
        assert list(tensors) == ["a", "b", "c"]
        assert_same(tensors, {"a": MATRIX.T, "b": MATRIX, "c": MATRIX[0]})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"d": "model-00003-of-00003.safetensors"}, FileNotFoundError, r"shards that do not exist: model-00003-of"),
        ({"d": "../other.safetensors"}, ValueError, r"expects shards in the same folder"),
        ({"d": "model-00001-of-00002.safetensors"}, ValueError, r"its shard model-00001.* do not match in d"),
        ({"c": "model-00001-of-00002.safetensors"}, ValueError, r"do not match in c"),
    ],
)
def test_shards_that_do_not_fit_their_index_are_refused(changes, error, message, tmp_path):
    shards(tmp_path, **changes)
    with pytest.raises(error, match=message):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not an index of safetensors: expected a weight_map in JSON|is no JSON"):
        read_safetensors(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a file of weights, got .*, which does not exist"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has neither model.safetensors nor model.safetensors.index.json"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "which is an empty file"),
        (b"PK\x03\x04" + bytes(100), "which is a zip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"which is an HDF5 file; .* read it with keras_file.read_keras"),
        (b"version https://git-lfs.github.com/spec/v1", "which is a Git LFS pointer"),
    ],
)
def test_files_of_other_formats_are_named(content, message, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_safetensors(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ARRAYS)
    content = path.read_bytes()
    for length in range(1, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="read_safetensors cannot read"):
            read_safetensors(path)
    with pytest.raises(ValueError, match="which is truncated or damaged; download or copy it again"):
        read_safetensors(path)


def test_a_dtype_that_numpy_lacks_is_refused(tmp_path):
    header = {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    with pytest.raises(ValueError, match=r"'a' in .* has dtype F8_E4M3; expected one of F64, F32"):
        read_safetensors(by_hand(tmp_path / "model.safetensors", header, bytes(2)))


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, None, "expects at least one tensor, got none"),
        ({3: MATRIX}, None, "expects names and metadata that are strings other than '__metadata__', got 3"),
        ({"a": MATRIX}, {"epoch": 3}, "expects names and metadata that are strings .*, got 3"),
        ({"__metadata__": MATRIX}, None, "got '__metadata__'"),
        ({"a": MATRIX, "b": np.array("text")}, None, "got <U4 for 'b'; cast it first"),
        ({"a": MATRIX, "b": MATRIX.astype(complex)}, None, "got complex128 for 'b'; cast it first"),
    ],
)
def test_a_failed_write_leaves_the_older_file_and_nothing_else(tensors, metadata, message, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("older")
    with pytest.raises(ValueError, match=message):
        write_safetensors(path, tensors, metadata)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_breaks_off_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_text("older")

    @contextlib.contextmanager
    def full_disk(path):
        with written_whole(path) as file:
            yield file
            raise OSError("no room")

    monkeypatch.setattr(safetensors_file, "written_whole", full_disk)
    with pytest.raises(OSError, match="no room"):
        write_safetensors(path, {"a": MATRIX})
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_names_and_aligned_values_are_read_by_the_package(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ARRAYS, {"model": "größe", "other": 'a\n"b"'})
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"model": "größe", "other": 'a\n"b"'}
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    for name, entry in header.items():
        assert (8 + length + entry["data_offsets"][0]) % ARRAYS[name].itemsize == 0, name


def test_a_header_that_readers_refuse_is_not_written(tmp_path):
    tensors = {"a" * 2**22: MATRIX}
    with pytest.raises(ValueError, match="expects names of at most 4194304 bytes, got 4194"):
        write_safetensors(tmp_path / "model.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []
