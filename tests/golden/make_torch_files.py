"""Writes the files of torch that the readers are tested with: run it with torch 2.13 in this folder.

    python make_torch_files.py

The values that the readers must give stand in tests/interop/files/test_torch_file.py.
"""

import collections

import torch

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
MORE_DTYPES = ("complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")


def main():
    tensors = collections.OrderedDict()
    for name in (*DTYPES, *MORE_DTYPES):
        tensors[name] = torch.tensor([0, 1, 2, 3]).to(getattr(torch, name))
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors["matrix"] = matrix
    tensors["transposed"] = matrix.t()
    tensors["column"] = matrix[:, 1]
    tensors["part"] = matrix[1:, ::2]
    tensors["own"] = matrix.clone() + 100
    tensors["expanded"] = torch.tensor([[7.0]]).expand(2, 3)
    tensors["scalar"] = torch.tensor(5)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["parameter"] = torch.nn.Parameter(torch.arange(3.0))
    tensors["layer.weight"] = torch.arange(6.0).reshape(2, 3, 1, 1).to(memory_format=torch.channels_last)
    tensors._metadata = {"": {"version": 1}, "layer": {"version": 2}}
    torch.save(tensors, "state_dict.pth")

    nested = {"epoch": 3, "state_dict": {"weight": torch.arange(3.0)}, "optimizer": {"state": {}, "lr": [0.1]}}
    torch.save(nested, "checkpoint.pth")
    torch.save({"weight": torch.arange(3.0)}, "protocol_4.pth", pickle_protocol=4)
    torch.save({"weight": torch.arange(3.0)}, "before_1_6.pth", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), "program.pt")
    torch.save(torch.nn.Linear(2, 1), "module.pth")


if __name__ == "__main__":
    main()
