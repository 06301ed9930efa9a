"""What a file of weights can cost: memory, time, and what it can make the reader open."""

import io
import json
import os
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from weights_files import draw, write_checkpoint

from jaxcnn.interop.files import keras_file
from jaxcnn.interop.files.config import read_timm_config
from jaxcnn.interop.files.keras_file import read_keras
from jaxcnn.interop.files.paths import FileError
from jaxcnn.interop.files.safetensors_file import read_metadata, read_safetensors, write_safetensors
from jaxcnn.interop.files.torch_file import _integer, _tensor, read_torch
from jaxcnn.interop.weights import load_weights, save_torch
from jaxcnn.models import resnet18

MIB = 2**20
READERS = (read_torch, read_safetensors, read_metadata, read_keras, read_timm_config)


def peak(function):
    """Returns the result of a function, and how much more memory than before it took at most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = function()
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def refused(function, match):
    def attempt():
        with pytest.raises(FileError, match=match):
            function()

    return peak(attempt)[1]


def archive(path, pickle, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {"data.pkl": pickle, **entries}.items():
            file.writestr(f"a/{name}", data)
    return path


def views(*views, size, storage="torch.ByteStorage"):
    """Pickles a state dict of views of one storage: (shape, strides, offset)."""
    pieces = [b"\x80\x02}("]
    for number, (shape, strides, offset) in enumerate(views):
        whole = b"".join(_tensor(storage, "0", (size,)))
        head, tail = whole.split(_integer(0) + b"(" + _integer(size) + b"t(" + _integer(1) + b"t")
        numbers = [b"(" + b"".join(map(_integer, part)) + b"t" for part in (shape, strides)]
        name = f"v{number}".encode()
        pieces += [b"X" + struct.pack("<I", len(name)) + name, head, _integer(offset), *numbers, tail]
    return b"".join([*pieces, b"u."])


# Files of torch.


def test_a_packed_storage_larger_than_its_tensors_is_refused_before_it_is_unpacked(tmp_path):
    pickle = views(((1,), (1,), 0), size=64 * MIB)
    path = archive(tmp_path / "bomb.pth", pickle, {"data/0": bytes(64 * MIB)})
    assert path.stat().st_size < MIB
    assert refused(lambda: read_torch(path), "data/0 is compressed and holds 67108864 bytes for tensors of 1") < 4 * MIB


def test_a_packed_storage_that_many_tensors_share_is_refused(tmp_path):
    path = archive(tmp_path / "a.pth", views(*[((8,), (1,), 0)] * 17, size=8), {"data/0": bytes(8)})
    with pytest.raises(FileError, match="has 17 tensors, expected at most 16"):
        read_torch(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reading_a_tensor_takes_no_more_than_its_values(compression, tmp_path):
    values = np.arange(2 * MIB, dtype=np.float32)
    write_checkpoint(tmp_path / "a.pth", {"a": values}, compression)
    read, memory = peak(lambda: np.asarray(read_torch(tmp_path / "a.pth")["a"]))
    np.testing.assert_array_equal(read, values)
    assert memory < values.nbytes + 5 * MIB


def test_of_a_large_storage_only_what_a_tensor_needs_is_held(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 24 * MIB, np.uint8)
    pickle = views(((3,), (11 * MIB,), 5), ((2, 500_000), (20 * MIB, 3), 7), size=len(data))
    tensors = read_torch(archive(tmp_path / "a.pth", pickle, {"data/0": data.tobytes()}, zipfile.ZIP_STORED))
    read, memory = peak(lambda: [np.asarray(tensors[name]) for name in ("v0", "v1")])
    np.testing.assert_array_equal(read[0], data[5 :: 11 * MIB])
    np.testing.assert_array_equal(read[1], [data[at + 7 :][: 3 * 500_000 : 3] for at in (0, 20 * MIB)])
    assert memory < 6 * MIB


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_views_of_any_shape_and_strides_are_those_of_numpy(compression, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcnn.interop.files.torch_file.PIECE", 64)
    rng = np.random.default_rng(1)
    data = rng.integers(0, 2**30, 400, np.int64)
    cases = []
    while len(cases) < 40:
        shape, strides = (tuple(map(int, rng.integers(1, 9, rank))) for rank in [rng.integers(0, 4)] * 2)
        if sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) < 300:
            cases.append((shape, strides, int(rng.integers(100))))
    for at in range(0, len(cases), 10):
        pickle = views(*cases[at : at + 10], size=len(data), storage="torch.LongStorage")
        # What makes the storage no larger than its tensors, as packed ones must be.
        pickle = pickle[:-2] + b"".join([b"X\1\0\0\0w", *_tensor("torch.LongStorage", "0", (400,))]) + b"u."
        tensors = read_torch(archive(tmp_path / "a.pth", pickle, {"data/0": data.tobytes()}, compression))
        for number, (shape, strides, offset) in enumerate(cases[at : at + 10]):
            expected = np.lib.stride_tricks.as_strided(data[offset:], shape, [8 * step for step in strides])
            np.testing.assert_array_equal(np.asarray(tensors[f"v{number}"]), expected)


@pytest.mark.parametrize("code", [b"]", b"K\1", b"]q\0"])
def test_a_pickle_of_endless_operations_costs_a_bounded_amount(code, tmp_path):
    path = archive(tmp_path / "a.pth", b"\x80\x02" + code * (8 * MIB // len(code)), {})
    assert path.stat().st_size < MIB // 8
    assert refused(lambda: read_torch(path), "has more than 262344 operations|is damaged") < 64 * MIB


def test_a_long_directory_is_refused_before_it_is_read(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
    content = data.getvalue()
    start = content.index(b"PK\x01\x02")
    entry, end = content[start:-22], content[-22:]
    count = 100_000
    directory = entry * count
    end = end[:12] + struct.pack("<II", len(directory), start) + end[20:]
    (tmp_path / "a.pth").write_bytes(content[:start] + directory + end)
    assert refused(lambda: read_torch(tmp_path / "a.pth"), "is truncated or damaged") < 8 * MIB


def test_two_entries_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.filelist.append(file.filelist[0])
        file._didModify = True
    with pytest.raises(FileError, match="has two entries of one name"):
        read_torch(tmp_path / "a.pth")


def test_a_file_that_is_cut_while_it_is_open_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    write_checkpoint(path, {"a": np.zeros(MIB, np.float32)})
    tensors = read_torch(path)
    os.truncate(path, 4096)
    with pytest.raises(FileError, match=r"a\.pth' is truncated or damaged"):
        np.asarray(tensors["a"])
    write_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(MIB, np.float32)})
    tensors = read_safetensors(tmp_path / "a.safetensors")
    os.truncate(tmp_path / "a.safetensors", 4096)
    with pytest.raises(FileError, match=r"a\.safetensors' is truncated or damaged"):
        np.asarray(tensors["a"])


def test_nested_values_that_share_their_parts_cost_nothing(tmp_path):
    # Each tuple holds the one before twice: written out, it would be 2**60 values.
    nested = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    pickle = b"\x80\x02}X\1\0\0\0a" + nested + b"s."
    assert refused(lambda: read_torch(archive(tmp_path / "a.pth", pickle, {})), "holds no state dict") < MIB


# Safetensors and JSON.


def by_hand(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"[" * MIB, b"", "recursion"),
        (b'{"a":' * MIB, b"", "bytes, expected at most 4194304"),
        (b"{" + b" " * (4 * MIB) + b"}", b"", "a header of 4194306 bytes, expected at most 4194304"),
        ({"a": A, "b": A}, bytes(8), "overlap or leave gaps"),
        ({"a": A, "b": {**A, "data_offsets": [16, 24]}}, bytes(24), "overlap or leave gaps"),
        ({"a": A}, bytes(9), "its tensors end at byte"),
        ({"a": A}, bytes(7), "its tensors end at byte"),
        ({"a": {**A, "shape": [3]}}, bytes(8), r"'a' has 8 bytes for shape \[3\]"),
        ({"a": {**A, "shape": [2**40, 2**40]}}, bytes(8), "'a' has 8 bytes for shape"),
        ({"a": {**A, "shape": [-1, -2]}}, bytes(8), "'a' has no dtype, shape and data_offsets"),
        ({"a": {**A, "shape": [True, 2]}}, bytes(8), "'a' has no dtype, shape and data_offsets"),
        ({"a": {**A, "data_offsets": [0, 8.0]}}, bytes(8), "'a' has no dtype, shape and data_offsets"),
        ({"a": {**A, "data_offsets": [0, 8, 9]}}, bytes(8), "'a' has no dtype, shape and data_offsets"),
        ({"a": None}, b"", "'a' has no dtype, shape and data_offsets"),
        ([], b"", "expected a JSON object as its header"),
        ({"__metadata__": {"a": 3}}, b"", "expected metadata of strings"),
        (b'{"a":\xff}', b"", "can't decode byte 0xff"),
    ],
)
def test_headers_of_safetensors_that_cannot_be_are_refused(header, data, reason, tmp_path):
    path = by_hand(tmp_path / "a.safetensors", header, data)
    assert refused(lambda: read_safetensors(path), f"a.safetensors.*{reason}") < 32 * MIB


def test_a_config_that_is_too_long_or_too_deep_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(FileError, match=r"config\.json' is no JSON: maximum recursion depth"):
        read_timm_config(tmp_path)
    (tmp_path / "config.json").write_text(f'{{"architecture": "{"x" * 5 * MIB}"}}')
    with pytest.raises(FileError, match=r"config\.json' has 5242\d+ bytes; expected at most 4194304"):
        read_timm_config(tmp_path)


# Files of Keras.


def keras(path, fill):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        fill(file)
    return path


def weight_of(file, add):
    group = file.create_group("a")
    group.attrs["weight_names"] = [b"a/k"]
    add(group.create_group("a"))


@pytest.mark.parametrize("target", ["pipe", "loop", "nowhere"])
def test_links_of_keras_files_are_not_followed(target, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    make = {
        "pipe": lambda: h5py.ExternalLink(tmp_path / "pipe", "k"),
        "loop": lambda: h5py.SoftLink("/a/a/k"),
        "nowhere": lambda: h5py.SoftLink("/b"),
    }[target]
    path = keras(tmp_path / "a.h5", lambda file: weight_of(file, lambda group: group.__setitem__("k", make())))
    with pytest.raises(FileError, match="expects 'a/k' to be an array of this file, got a link to something else"):
        read_keras(path)
    path = keras(tmp_path / "a.h5", lambda file: file.__setitem__("a", make()))
    with pytest.raises(FileError, match="expects 'a' to be an array of this file, got a link to something else"):
        read_keras(path)


def test_a_circle_of_groups_does_not_end_in_one(tmp_path):
    def fill(file):
        group = file.create_group("a")
        group["a"] = group
        group.attrs["weight_names"] = ["/".join("a" * 40)]

    with pytest.raises(FileError, match="expects names of at most 32 parts, got 40"):
        read_keras(keras(tmp_path / "a.h5", fill))


def test_weights_far_larger_than_their_file_are_refused(tmp_path):
    path = keras(
        tmp_path / "a.h5",
        lambda file: weight_of(file, lambda group: group.create_dataset("k", (2**31,), "f4", chunks=(2**20,))),
    )
    assert refused(lambda: read_keras(path), r"holds 8589934592 bytes of weights, expected at most \d+ in") < 2 * MIB


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", r"the process that read it ended with -6"),
        ("import time; time.sleep(60)", "reading it took more than 2 seconds"),
        ("print('{}')", "a.h5' is truncated or damaged|cannot read"),
    ],
)
def test_a_process_that_crashes_or_hangs_over_a_keras_file_is_one_error(program, message, tmp_path, monkeypatch):
    path = keras(tmp_path / "a.h5", lambda file: weight_of(file, lambda group: group.__setitem__("k", [1.0])))
    (tmp_path / "child.py").write_text(program)
    monkeypatch.setattr(keras_file, "_CHILD", str(tmp_path / "child.py"))
    monkeypatch.setattr(keras_file, "_SECONDS", 1)
    with pytest.raises(FileError, match=message):
        read_keras(path)


def test_the_process_that_reads_a_keras_file_limits_itself(tmp_path, monkeypatch):
    path = keras(tmp_path / "a.h5", lambda file: weight_of(file, lambda group: group.__setitem__("k", np.ones(2**19))))
    assert np.asarray(read_keras(path)["a/k"]).sum() == 2**19
    monkeypatch.setattr(keras_file, "_MEMORY", -(2**27))
    with pytest.raises(FileError, match=r"a\.h5' "):
        read_keras(path)


# All formats.


@pytest.mark.parametrize("reader", [*READERS, lambda path: load_weights("resnet18", path)])
def test_what_is_no_file_is_refused_and_not_opened(reader, tmp_path):
    for name in ("a.pth", "a.h5", "a.safetensors"):
        path = tmp_path / name
        os.mkfifo(path)
        with pytest.raises(FileError, match="is a device, pipe or socket"):
            reader(path)
    with pytest.raises(FileError, match="is a device, pipe or socket"):
        reader("/dev/zero")


def test_a_folder_of_pipes_is_refused(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(FileError, match="is a device, pipe or socket"):
        load_weights("resnet18", tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FileError, match=r"config\.json': it is a device, pipe or socket"):
        load_weights("resnet18", tmp_path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_loading_takes_little_more_than_the_size_of_the_weights(ending, tmp_path):
    model = resnet18(10)
    params, state = draw(model)
    save_torch(tmp_path / f"a{ending}", model, params, state, architecture="torchvision/resnet18")
    load_weights("resnet18", tmp_path / f"a{ending}")
    _, memory = peak(lambda: load_weights("resnet18", tmp_path / f"a{ending}"))
    # The largest kernel has 9 MiB, and is read in pieces where it has more than 16.
    assert 42 * MIB < memory < 60 * MIB
