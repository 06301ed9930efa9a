"""Weights of Keras: `.h5` files as Keras publishes its applications, by the names of layers.

    tensors = read_keras("resnet50_weights_tf_dim_ordering_tf_kernels.h5")
    tensors["conv1_conv/kernel"].shape  # (7, 7, 3, 64)

Such a file lists its layers in an attribute, and the weights of each layer in one of the layer's group. The two formats
of Keras 3 are refused: their weights have numbers, not names, and mean nothing without the code of the model. Source:
the files that Keras 3.15 writes as `.h5`.

The library that reads the format can crash or run forever over a damaged file. So a process of its own reads it, whole
and at once, into a temporary file without a name, from which the tensors come. That takes some tenths of a second and
as much room among the temporary files as the weights have. That process may take 10 seconds and one more for each 10 MB
of the file, and 512 MiB of memory and 16 times the size of the file, which also limits what packed weights may become.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from jaxcnn.interop.files import paths
from jaxcnn.interop.files.opened import OpenFile, reading, unquoted
from jaxcnn.interop.files.paths import FileError, describe_file, existing_file
from jaxcnn.interop.files.safetensors_file import read_opened
from jaxcnn.interop.files.tensor import Tensor

_CHILD = os.path.join(os.path.dirname(__file__), "keras_child.py")
_REFUSED = 3
# Weights are hardly ever packed, and then not far.
_MAX_UNPACKING = 16
_MEMORY = 2**29
_SECONDS, _BYTES_PER_SECOND = 10, 10**7


def read_keras(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Reads the weights of a Keras model from an `.h5` file.

    Args:
      path: a file of weights, or of a whole model, that Keras 1 or 2, or `model.save("name.h5")` of Keras 3, wrote.

    Returns:
      The tensors in the file's order of layers, named "layer/weight" without the ":0" of TensorFlow, such as
      "conv1_conv/kernel". The names of Keras 1 become today's: "block1_conv1_W_1" is "block1_conv1/kernel". A weight
      whose own name does not begin with that of its layer, as in nested models, is named "layer/" and its whole name.

    Raises:
      FileNotFoundError: the file is not there.
      ImportError: h5py is not installed.
      FileError: the file is damaged, of another format, one of Keras 3's own, reading it takes more than the time or
        memory above, its weights take more than 16 times its size, or two weights have one name.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ImportError("the format .h5 expects h5py to be installed; pip install 'jaxcnn[weights]'")
    path = existing_file(path)
    with reading(path):
        what = describe_file(path)
        if what == "a zip archive":
            raise FileError(
                f"{str(path)!r} seems to be a .keras file of Keras 3, whose weights have no names of layers; convert "
                "it where there is Keras: keras.models.load_model('name.keras').save('name.h5')"
            )
        if what != paths.HDF5:
            raise FileError(f"read_keras expects an .h5 file, but {str(path)!r} is {what}")
        size = path.stat().st_size
        max_bytes = _MAX_UNPACKING * size + 2**20
        seconds = _SECONDS + size // _BYTES_PER_SECOND
        limits = (str(max_bytes), str(_MEMORY + max_bytes), str(seconds))
        # Without a buffer and a name: the other process writes to it, and it goes with the last tensor.
        converted = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        try:
            child = subprocess.run(
                [sys.executable, "-P", _CHILD, os.path.abspath(path), *limits],
                stdin=subprocess.DEVNULL,
                stdout=converted,
                stderr=subprocess.PIPE,
                timeout=2 * seconds,
                check=False,
                # The packages of this process; threads of its own for linear algebra would take memory for nothing.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired as error:
            converted.close()
            raise FileError(f"{str(path)!r} is damaged: reading it took more than {2 * seconds} seconds") from error
        opened = OpenFile(path, converted)
        if child.returncode == _REFUSED:
            raise FileError(f"{str(path)!r} {unquoted(child.stderr.decode('utf-8', 'replace'), 1000)}")
        if child.returncode:
            raise FileError(
                f"{str(path)!r} is cut short or damaged; download or copy it again (the process that read it ended "
                f"with {child.returncode})"
            )
        return read_opened(opened)
