import functools
import io
import os
import pickle
import pickletools
import random
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxcnn.interop.files import paths
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.torch_file import read_torch, write_torch

GOLDEN = Path(__file__).parents[2] / "golden"

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
VIEWS = {
    "matrix": MATRIX,
    "transposed": MATRIX.T,
    "column": MATRIX[:, 1],
    "part": MATRIX[1:, ::2],
    "own": MATRIX + 100,
    "expanded": np.full((2, 3), 7, np.float32),
    "scalar": np.array(5),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.arange(3, dtype=np.float32),
    "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1),
}
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
)


def rezipped(source, target, changes, compression=zipfile.ZIP_STORED):
    """Copies an archive with some entries changed: new bytes, or None to leave the entry out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        root = old.namelist()[0].split("/")[0]
        entries = {name: old.read(name) for name in old.namelist()}
        entries |= {f"{root}/{name}": data for name, data in changes.items()}
        for name, data in entries.items():
            if data is not None:
                new.writestr(name, data)
    return target


def with_pickle(data, tmp_path):
    return rezipped(GOLDEN / "state_dict.pth", tmp_path / "changed.pth", {"data.pkl": data})


def pickle_of(name):
    with zipfile.ZipFile(GOLDEN / name) as archive:
        return archive.read(f"{Path(name).stem}/data.pkl")


def read_all(path):
    return {name: np.asarray(tensor) for name, tensor in read_torch(path).items()}


# Values.


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_of_torch_is_read(name):
    tensor = read_torch(GOLDEN / "state_dict.pth")[name]
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    assert (tensor.shape, tensor.dtype) == ((4,), dtype)
    values = np.asarray(tensor)
    assert values.dtype == dtype
    np.testing.assert_array_equal(
        values.astype(np.complex128), [0, 1, 1 if name == "bool" else 2, 1 if name == "bool" else 3]
    )


@pytest.mark.parametrize("name", VIEWS)
def test_views_parameters_and_empty_tensors_are_read(name):
    tensor = read_torch(GOLDEN / "state_dict.pth")[name]
    assert (tensor.shape, tensor.dtype) == (VIEWS[name].shape, VIEWS[name].dtype)
    np.testing.assert_array_equal(np.asarray(tensor), VIEWS[name])


def test_the_names_come_in_the_order_of_the_file():
    assert tuple(read_torch(GOLDEN / "state_dict.pth")) == (*DTYPES, *VIEWS)


def test_the_result_cannot_be_changed_and_the_values_are_the_callers_own():
    tensors = read_torch(GOLDEN / "state_dict.pth")
    with pytest.raises(TypeError, match="does not support item assignment"):
        tensors["new"] = tensors["own"]
    first = np.asarray(tensors["matrix"])
    first[:] = 0
    np.testing.assert_array_equal(np.asarray(tensors["matrix"]), MATRIX)
    assert np.asarray(tensors["matrix"], np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="since reading copies, got copy=False"):
        np.array(tensors["matrix"], copy=False)


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes((GOLDEN / "state_dict.pth").read_bytes())
    tensors = read_torch(path)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("state_dict/data/1").header_offset + 64
        position = path.read_bytes().index(struct.pack("<4f", 0, 1, 2, 3), start)
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(b"\xff")
    np.testing.assert_array_equal(np.asarray(tensors["float64"]), [0, 1, 2, 3])
    with pytest.raises(ValueError, match="is damaged at data/1; download or copy it again"):
        np.asarray(tensors["float32"])


def test_files_without_checksums_are_read(tmp_path):
    content = bytearray((GOLDEN / "state_dict.pth").read_bytes())
    entries = 0
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 16 : at + 20] = bytes(4)
        entries += 1
        at = content.find(b"PK\x01\x02", at + 1)
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert [info.CRC for info in archive.infolist()] == [0] * entries
    np.testing.assert_array_equal(read_all(path)["matrix"], MATRIX)


def test_packed_archives_are_read(tmp_path):
    path = rezipped(GOLDEN / "state_dict.pth", tmp_path / "packed.pth", {}, zipfile.ZIP_DEFLATED)
    expected = read_all(GOLDEN / "state_dict.pth")
    for name, values in read_all(path).items():
        np.testing.assert_array_equal(values, expected[name])


def test_the_other_byte_order_is_respected(tmp_path):
    expected = read_all(GOLDEN / "state_dict.pth")
    changes = {"byteorder": b"big"}
    tensors = {name: values for name, values in expected.items() if name in DTYPES}
    for key, (name, values) in enumerate(tensors.items()):
        size = values.itemsize // (2 if name.startswith("complex") else 1)
        changes[f"data/{key}"] = b"".join(
            values.tobytes()[at : at + size][::-1] for at in range(0, values.nbytes, size)
        )
    actual = read_all(rezipped(GOLDEN / "state_dict.pth", tmp_path / "big.pth", changes))
    for name, values in tensors.items():
        assert actual[name].dtype == values.dtype
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def test_an_unknown_byte_order_is_refused(tmp_path):
    path = rezipped(GOLDEN / "state_dict.pth", tmp_path / "middle.pth", {"byteorder": b"middle"})
    with pytest.raises(ValueError, match="expected byte order 'little' or 'big', got 'middle'"):
        read_torch(path)


def test_other_protocols_of_pickle_are_read():
    np.testing.assert_array_equal(read_all(GOLDEN / "protocol_4.pth")["weight"], [0, 1, 2])


def test_the_format_before_1_6_is_read():
    np.testing.assert_array_equal(read_all(GOLDEN / "before_1_6.pth")["weight"], [0, 1, 2])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe8\x03.", "expected a file of torch's version 1001, got 1000"),
        (b"FloatStorage", b"FloatStorag3", "asks for torch.FloatStorag3, which is refused"),
        (struct.pack("<q3f", 3, 0, 1, 2), struct.pack("<q3f", 4, 0, 1, 2), "expected 3 elements in storage .*, got 4"),
        (struct.pack("<q3f", 3, 0, 1, 2), struct.pack("<q2f", 3, 0, 1), "the file is truncated"),
        (b"]q\x00X", b"}q\x00X", "is damaged"),
    ],
)
def test_damaged_files_of_the_format_before_1_6_are_refused(old, new, message, tmp_path):
    content = (GOLDEN / "before_1_6.pth").read_bytes()
    assert content.count(old) == 1
    (tmp_path / "a.pth").write_bytes(content.replace(old, new))
    with pytest.raises(FileError, match=message):
        read_torch(tmp_path / "a.pth")


# Checkpoints.


class Stub:
    """Pickles as torch's objects do: a call of a function named by its module."""

    def __init__(self, name, *arguments, state=None):
        self.name, self.arguments, self.state = name, arguments, state


class Pickler(pickle._Pickler):
    """Writes `Stub`s as calls of what need not exist, and tuples that begin with "storage" as persistent ids."""

    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            module, _, attribute = obj.rpartition(".")
            self.write(f"c{module}\n{attribute}\n".encode())
        elif isinstance(obj, Stub):
            self.save(Name(obj.name))
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


class Name(str):
    """A global, written by its dotted name."""


def dumps(obj):
    file = io.BytesIO()
    Pickler(file, 2).dump(obj)
    return file.getvalue()


def tensor(shape=(3,), strides=(1,), offset=0, key="0", size=4, storage="torch.DoubleStorage"):
    storage = ("storage", Name(storage), key, "cpu", size)
    return Stub(
        "torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, Stub("collections.OrderedDict")
    )


def test_the_state_dict_of_a_checkpoint_is_found():
    assert read_torch(GOLDEN / "checkpoint.pth").keys() == {"weight"}
    assert read_torch(GOLDEN / "checkpoint.pth", entry="state_dict").keys() == {"weight"}


SCALAR = tensor((), (), size=4)
MOMENTS = {"state": {0: {"step": SCALAR, "exp_avg": tensor()}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
WEIGHTS = {"weight": tensor()}


@pytest.mark.parametrize(
    "content",
    [
        {
            **{"epoch": 3, "arch": "resnet18", "state_dict": WEIGHTS, "best_acc1": SCALAR, "optimizer": MOMENTS},
            "scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        },
        {"model": WEIGHTS, "loss": SCALAR},
        {"epoch": SCALAR, "state_dict": WEIGHTS},
        {"model": {"state_dict": WEIGHTS}},
        {"model": {"state_dict": WEIGHTS, "epoch": SCALAR}, "optimizer": MOMENTS, "loss": SCALAR},
        {"a": {"b": {"c": {"d": WEIGHTS}}}},
    ],
)
def test_the_state_dict_is_found_beside_scalars_and_inside_other_entries(content, tmp_path):
    assert read_torch(with_pickle(dumps(content), tmp_path)).keys() == {"weight"}


def test_an_entry_may_lie_inside_others_and_hold_others(tmp_path):
    both = {"ema": {"state_dict": WEIGHTS}, "raw": {"bias": tensor()}}
    path = with_pickle(dumps({"checkpoint": both, "optimizer": MOMENTS, "loss": SCALAR}), tmp_path)
    assert read_torch(path, entry="ema").keys() == {"weight"}
    assert read_torch(path, entry="raw").keys() == {"bias"}
    assert read_torch(path, entry="checkpoint").keys() == {"bias"}  # the one that holds tensors itself
    with pytest.raises(ValueError, match="is not a dict of tensors; the entries are 'checkpoint'"):
        read_torch(path, entry="optimizer")
    with pytest.raises(ValueError, match="has no entry 'ema2'; it has 'checkpoint'"):
        read_torch(path, entry="ema2")
    path = with_pickle(dumps({"a": {"b": {"c": {"d": WEIGHTS}}}}), tmp_path)
    with pytest.raises(ValueError, match="has no entry 'ema'; it has 'a'"):
        read_torch(path, entry="ema")


def test_dicts_that_share_their_parts_are_looked_through_once(tmp_path):
    shared = {str(i): None for i in range(3000)}
    for _ in range(4):
        shared = {str(i): shared for i in range(3000)}
    with pytest.raises(ValueError, match="holds no state dict"):
        read_torch(with_pickle(dumps(shared), tmp_path))


def test_of_several_state_dicts_one_is_chosen(tmp_path):
    path = with_pickle(dumps({"model": {"a": tensor()}, "model_ema": {"b": tensor()}, "epoch": 3}), tmp_path)
    with pytest.raises(
        ValueError,
        match=r"several state dicts; choose one with entry=.*'model' \(dict\), 'model_ema' \(dict\), 'epoch' \(int\)",
    ):
        read_torch(path)
    assert read_torch(path, entry="model_ema").keys() == {"b"}
    with pytest.raises(ValueError, match="has no entry 'ema'; it has 'model'"):
        read_torch(path, entry="ema")
    with pytest.raises(ValueError, match=r"entry 'epoch' of .* is not a dict of tensors"):
        read_torch(path, entry="epoch")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": tensor(), "epoch": 3}, r"entries that are not tensors: 'epoch' \(int\); save it without them"),
        ({"model": {"a": tensor(), "b": None}}, r"entries that are not tensors: 'b' \(NoneType\)"),
        (
            {"a": tensor(), "model": {"b": tensor()}},
            r"entries that are not tensors: 'model' \(dict\); save it without them, or open .* entry=, such as 'model'",
        ),
        ({"model": {"a": {"x": tensor()}, "b": {"x": tensor()}}}, "several state dicts; choose one with entry=.*'a'"),
        ({"optimizer": {"state": {0: {"step": tensor()}}}}, "holds no state dict; it has 'optimizer'"),
        ({"a": {"a": {"a": {"a": {"a": {"a": {"a": tensor()}}}}}}}, "holds no state dict; it has 'a'"),
        ({"epoch": 3}, r"holds no state dict; it has 'epoch' \(int\)"),
        ({}, "holds no state dict; it has no entries"),
        ([tensor()], "expected a dict of tensors in .*, got a list"),
        (tensor(), "expected a dict of tensors in .*, got a LazyTensor"),
        ({3: tensor()}, "expects names that are strings, got 3"),
        ({str(i): i for i in range(30)}, r"'19' \(int\) and 10 more"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_torch(with_pickle(dumps(content), tmp_path))


# Other files.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b"<!DOCTYPE html>", "a web page, probably from a failed download"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file; .* keras_file.read_keras"),
        (b"\x02\0\0\0\0\0\0\0{}", "a safetensors file; read it with safetensors_file.read_safetensors"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"PK\x03\x04 and no more", "is truncated or damaged; download or copy it again"),
        (b"weights!", "a file that begins with b'weights!'"),
    ],
)
def test_files_of_other_formats_are_named(content, message, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_torch(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("program.pt", "is a TorchScript program"),
        ("module.pth", "asks for torch.nn.modules.linear.Linear, which is refused"),
    ],
)
def test_other_files_of_torch_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        read_torch(GOLDEN / name)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a file of weights, got '.*none.pth', which does not exist"):
        read_torch(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError, match="expected a file of weights, got the folder"):
        read_torch(tmp_path)


def test_other_zip_archives_are_named(tmp_path):
    path = rezipped(GOLDEN / "state_dict.pth", tmp_path / "other.pth", {"data.pkl": None})
    with pytest.raises(ValueError, match=r"not a checkpoint of torch: expected one data.pkl, got 0"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "")
    with pytest.raises(ValueError, match=r"is a .keras file"):
        read_torch(path)
    path = rezipped(GOLDEN / "state_dict.pth", path, {}, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match="is compressed by method 12; expected stored or deflated"):
        read_torch(path)


# Damage.


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (tensor(shape=(4,), offset=1), r"shape \(4,\) does not lie inside its storage of 4 elements"),
        (tensor(shape=(2, 3), strides=(3, 1)), "does not lie inside"),
        (tensor(shape=(2**40,), strides=(0,)), "does not lie inside"),
        (tensor(shape=(0, 2**40, 2**40), strides=(1, 1, 1)), "does not lie inside"),
        (tensor(shape=(-1,)), "expected offset, shape and strides"),
        (tensor(shape=(2,), strides=(-1,)), "expected offset, shape and strides"),
        (tensor(offset=True), "expected offset, shape and strides"),
        (tensor(shape=(1,) * 65, strides=(1,) * 65), "expected offset, shape and strides"),
        (tensor(shape=[3]), "expected offset, shape and strides"),
        (tensor(size=5), "expected 5 elements in data/0, got 32 bytes"),
        (tensor(size=-1), "expected a storage in the format of torch.save"),
        (tensor(key="99"), "it lacks data/99"),
        (tensor(key=0), "expected a storage in the format of torch.save"),
        (tensor(storage="torch._utils._rebuild_tensor_v2"), "expected a storage in the format of torch.save"),
        (tensor(storage="torch.storage.UntypedStorage"), "expected arguments of torch._utils._rebuild_tensor_v2"),
        (Stub("torch._utils._rebuild_parameter", 1, 2, 3), "expected arguments of torch._utils._rebuild_parameter"),
        (Stub("collections.OrderedDict", [1]), "expected arguments of collections.OrderedDict"),
        (Stub("torch.float8_e5m2"), "expected arguments of torch.float8_e5m2"),
        ({(1, 2): 3}, "a dict with keys of type tuple"),
    ],
)
def test_tensors_that_cannot_be_are_refused(damaged, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_torch(with_pickle(dumps({"a": damaged}), tmp_path))


def test_a_lazily_conjugated_tensor_is_refused(tmp_path):
    lazy = tensor()
    lazy.arguments += ({"conj": True},)
    with pytest.raises(ValueError, match=r"save tensor.resolve_conj\(\).resolve_neg\(\)"):
        read_torch(with_pickle(dumps({"a": lazy}), tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02}", "pickle exhausted before seeing STOP"),
        (b"\x80\x02.", "it uses a value that does not exist"),
        (b"\x80\x02(N.", "values are left on the stack"),
        (b"\x80\x02}N}R.", "it calls a value that is not a function"),
        (b"\x80\x02]NNs.", "it sets items of a value that is not a dict"),
        (b"\x80\x02}Na.", "it appends to a value that is not a list"),
        (b"\x80\x02}(Nu.", "it sets items of a value that is not a dict"),
        (b"\x80\x02h\x05.", "is damaged .KeyError: 5"),
        (b"\x80\x02t.", "is damaged .IndexError"),
        (b"\x80\x02N}b.", "sets attributes of something that is not a dict"),
        (b"\x80\x02NQ.", "expected a storage in the format of torch.save"),
        (b"\x80\x02(ios\nsystem\n.", "uses the operation INST, which weights do not need"),
        (b"\x80\x02\x82\x01.", "uses the operation EXT1"),
        (b"\x80\x02)\x81.", "uses the operation NEWOBJ"),
        (b"\x80\x04NN\x93.", "asks for None.None"),
        (b"\x80\x02\xff.", "opcode b'.xff' unknown"),
    ],
)
def test_damaged_pickles_are_refused(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_torch(with_pickle(data, tmp_path))


def test_a_huge_pickle_is_refused(tmp_path):
    path = rezipped(
        GOLDEN / "state_dict.pth", tmp_path / "huge.pth", {"data.pkl": bytes(2**24 + 1)}, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(FileError, match=r"has a data.pkl of 16777217 bytes; expected at most 16777216"):
        read_torch(path)


# Code.


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, f"{os.name}.system"), (exec, "builtins.exec"), (functools.partial, "functools.partial")],
)
def test_code_is_refused_by_name_and_not_run(function, name, protocol, tmp_path):
    trace = tmp_path / "trace"
    argument = {os.system: f"touch {trace}", exec: f"open({str(trace)!r}, 'w').close()", functools.partial: print}[
        function
    ]
    data = pickle.dumps({"a": Evil(function, argument)}, protocol)
    # What pickle itself would do, so that the test is known to be able to fail.
    pickle.loads(data)
    assert trace.exists() == (function is not functools.partial)
    trace.unlink(missing_ok=True)
    refused = f"asks for (__builtin__|{name.split('.')[0]}).{name.split('.')[1]}, which is refused"
    with pytest.raises(ValueError, match=refused if protocol > 1 else f"{refused}|which weights do not need"):
        read_torch(with_pickle(data, tmp_path))
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils._rebuild_tensor_v2.__globals__",
        "torch._utils.os.system",
        "collections.abc.sys",
        "torch.load",
        "torch.hub.load",
        "numpy.load",
        "torch._utils._rebuild_parameter_with_state",
    ],
)
def test_names_beside_the_allowed_ones_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"asks for {name}, which is refused"):
        read_torch(with_pickle(dumps({"a": Stub(name)}), tmp_path))


# Fuzz.


def only_clear_errors(path):
    try:
        read_all(path)
    except (ValueError, FileNotFoundError) as error:
        return bool(str(error))
    return False


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    content = (GOLDEN / "state_dict.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        assert only_clear_errors(path), length


def test_flipped_bits_give_clear_errors_or_the_same_values(tmp_path):
    rng = random.Random(0)
    content = (GOLDEN / "checkpoint.pth").read_bytes()
    path = tmp_path / "flipped.pth"
    refused = 0
    for _ in range(250):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        if only_clear_errors(path):
            refused += 1
        else:
            np.testing.assert_array_equal(read_all(path).get("weight", [0, 1, 2]), [0, 1, 2])
    assert refused > 50


def test_scrambled_pickles_give_clear_errors(tmp_path):
    rng = random.Random(1)
    content = pickle_of("checkpoint.pth")
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    refused = 0
    for _ in range(250):
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed))
            match rng.randrange(3):
                case 0:
                    changed[at] = rng.randrange(256)
                case 1:
                    changed[at:at] = rng.choice(codes)
                case 2:
                    del changed[at : at + rng.randrange(1, 8)]
        path = rezipped(GOLDEN / "checkpoint.pth", tmp_path / "scrambled.pth", {"data.pkl": bytes(changed)})
        refused += only_clear_errors(path)
    assert refused > 125


# Writing.


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "written.pth"
    tensors = {
        name: tensor for name, tensor in read_torch(GOLDEN / "state_dict.pth").items() if name not in DTYPES[-5:]
    }
    assert len(tensors) == len(DTYPES) - 5 + len(VIEWS)
    write_torch(path, tensors)
    actual = read_all(path)
    assert list(actual) == list(tensors)
    for name, expected in tensors.items():
        assert actual[name].dtype == expected.dtype
        np.testing.assert_array_equal(actual[name], np.asarray(expected), err_msg=name)


def test_arrays_of_any_layout_and_byte_order_are_written(tmp_path):
    path = tmp_path / "written.pth"
    write_torch(
        path, {"swapped": MATRIX.astype(">f4"), "transposed": MATRIX.T, "reversed": MATRIX[::-1, ::2], "größe": MATRIX}
    )
    actual = read_all(path)
    np.testing.assert_array_equal(actual["swapped"], MATRIX)
    np.testing.assert_array_equal(actual["transposed"], MATRIX.T)
    np.testing.assert_array_equal(actual["reversed"], MATRIX[::-1, ::2])
    np.testing.assert_array_equal(actual["größe"], MATRIX)


def test_storages_are_written_aligned(tmp_path):
    path = tmp_path / "written.pth"
    write_torch(path, {str(i): np.arange(i) for i in range(1, 12)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            lengths = struct.unpack("<HH", content[info.header_offset + 26 : info.header_offset + 30])
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("a.pth", "b.pth"):
        write_torch(tmp_path / name, {"a": MATRIX})
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "expects at least one tensor, got none"),
        ({3: MATRIX}, "expects names that are strings, got 3"),
        ({"a": MATRIX, "b": np.array(["text"])}, "expects dtypes float64, .* got <U4 for 'b'"),
        ({"a": MATRIX, "b": np.zeros(2, np.uint16)}, "got uint16 for 'b'; cast it first"),
    ],
)
def test_a_failed_write_leaves_the_older_file_and_nothing_else(tensors, message, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("older")
    with pytest.raises(ValueError, match=message):
        write_torch(path, tensors)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_text("older")

    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr(paths.os, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        write_torch(path, {"a": MATRIX})
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder of '.*' does not exist; create it first"):
        write_torch(tmp_path / "none" / "weights.pth", {"a": MATRIX})
