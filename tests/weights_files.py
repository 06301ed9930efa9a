"""What the tests of files of weights share: arrays, and checkpoints of torch that are written without torch."""

import io
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.interop.files.torch_file import _tensor, read_torch
from jaxcnn.layers.flow import structure


def draw(model, seed=0):
    """Draws parameters and state, all different, without the time that a model's own initialisation takes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), structure(model))


def arrays_in(path):
    return {name: np.asarray(tensor) for name, tensor in read_torch(path).items()}


class Raw:
    """A piece of a pickle that is written already."""

    def __init__(self, data):
        self.data = data


class Pickler(pickle._Pickler):
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Raw):
            self.write(obj.data)
        else:
            super().save(obj, save_persistent_id)


STORAGES = {"float64": "Double", "float32": "Float", "int64": "Long", "uint8": "Byte", "int8": "Char"}


def write_checkpoint(path, content, compression=zipfile.ZIP_STORED):
    """Writes nested dicts of arrays and plain values in the format of torch.save."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        count = 0

        def replaced(value):
            nonlocal count
            if isinstance(value, dict):
                return {key: replaced(item) for key, item in value.items()}
            if not isinstance(value, np.ndarray):
                return value
            archive.writestr(f"a/data/{count}", value.tobytes())
            count += 1
            storage = f"torch.{STORAGES[value.dtype.name]}Storage"
            return Raw(b"".join(_tensor(storage, str(count - 1), value.shape)))

        data = io.BytesIO()
        Pickler(data, 2).dump(replaced(content))
        archive.writestr("a/data.pkl", data.getvalue())
