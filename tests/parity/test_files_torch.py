"""The files of torch itself: what it saves is read to the bit, and it loads what is written."""

import collections

import numpy as np
import pytest
from torch_peer import nn, torch

from jaxcnn.interop.files.torch_file import read_torch, write_torch


class Network(nn.Module):
    """A module with all that a state dict can hold: shared parameters, buffers, integers, and none at all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.relu = nn.ReLU()
        self.register_buffer("index", torch.arange(12).reshape(3, 4).t())
        self.register_buffer("brief", torch.randn(5, 4).bfloat16()[::2, 1:])


def as_torch(tensor):
    values = np.asarray(tensor)
    return (
        torch.tensor(values.astype(np.float32)).bfloat16() if values.dtype.name == "bfloat16" else torch.tensor(values)
    )


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].shape == tuple(value.shape)
        tensor = as_torch(actual[name])
        assert tensor.dtype == value.dtype
        assert torch.equal(tensor, value), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_read_to_the_bit(protocol, tmp_path):
    state = Network().state_dict()
    torch.save(state, tmp_path / "weights.pth", pickle_protocol=protocol)
    assert_same(read_torch(tmp_path / "weights.pth"), state)


def test_a_state_dict_of_the_format_before_1_6_is_read_to_the_bit(tmp_path):
    state = {**Network().state_dict(), "view": torch.arange(12).reshape(3, 4).t()[1:]}
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    assert_same(read_torch(tmp_path / "weights.pth"), state)


def test_a_file_without_checksums_is_read(tmp_path):
    state = Network().state_dict()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert_same(read_torch(tmp_path / "weights.pth"), state)


def test_a_training_checkpoint_is_read(tmp_path):
    model = Network()
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "best": 0.5, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_same(read_torch(tmp_path / "checkpoint.pth"), model.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Network, "asks for .*Network, which is refused"),
        (lambda: {"a": torch.ones(3).to_sparse()}, "asks for torch._utils._rebuild_sparse_tensor, which is refused"),
        (lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()}, "save tensor.resolve_conj"),
        (lambda: {"a": torch.ones(2), "b": np.float64(1)}, r"asks for numpy\S*scalar, which is refused"),
    ],
)
def test_what_is_not_read_is_refused(content, message, tmp_path):
    torch.save(content(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        read_torch(tmp_path / "other.pth")


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_loads_what_is_written(mapped, tmp_path):
    state = Network().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    write_torch(tmp_path / "written.pth", read_torch(tmp_path / "weights.pth"))
    loaded = torch.load(tmp_path / "written.pth", weights_only=True, mmap=mapped)
    assert isinstance(loaded, collections.OrderedDict)
    assert list(loaded) == list(state)
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value), name
    Network().load_state_dict(loaded)


def test_torch_loads_every_dtype_that_is_written(tmp_path):
    names = (
        "float64",
        "float32",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
        "complex128",
    )
    arrays = {name: np.array([[0, 1], [1, 0]]).astype(name) for name in names} | {
        "scalar": np.array(-3),
        "empty": np.ones((0, 2)),
    }
    write_torch(tmp_path / "written.pth", arrays)
    loaded = torch.load(tmp_path / "written.pth", weights_only=True)
    for name, values in arrays.items():
        assert loaded[name].numpy().dtype == values.dtype
        np.testing.assert_array_equal(loaded[name].numpy(), values)
