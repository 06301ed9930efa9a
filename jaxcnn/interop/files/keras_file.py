"""Reads weights of Keras: `.h5` files as Keras publishes its applications, by the names of layers.

    tensors = read_keras("resnet50_weights_tf_dim_ordering_tf_kernels.h5")
    tensors["conv1_conv/kernel"].shape  # (7, 7, 3, 64)

Such a file lists its layers in an attribute, and the weights of each layer in an attribute of the layer's group. The
two formats of Keras 3 are refused: their weights have numbers instead of names, which only the code of the model can
interpret. Source: the files that Keras 3.15 writes as `.h5`.

HDF5 is C code that may crash or hang on a damaged file. So a separate process converts the whole file to a temporary
file without a name, and the tensors are read from that. The temporary file has the size of the weights. The process may
take 10 seconds and one more for each 10 MB of the file, and 512 MiB of memory and 16 times the size of the file, which
also limits the size of decompressed weights.
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
# Weights are rarely compressed, and then by a small factor.
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
      whose name does not begin with that of its layer, as in nested models, is named "layer/" followed by its whole
      name.

    Raises:
      FileNotFoundError: the file does not exist.
      ImportError: h5py is not installed.
      FileError: the file is damaged or has another format, such as those of Keras 3; reading it exceeds the limits of
        time or memory above; its weights take more than 16 times its size; or two weights have the same name.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ImportError("the format .h5 expects h5py to be installed; pip install 'jaxcnn[weights]'")
    path = existing_file(path)
    with reading(path):
        what = describe_file(path)
        if what == "a zip archive":
            raise FileError(
                f"{str(path)!r} seems to be a .keras file of Keras 3, whose weights have no names of layers; convert "
                "it with Keras: keras.models.load_model('name.keras').save('name.h5')"
            )
        if what != paths.HDF5:
            raise FileError(f"read_keras expects an .h5 file, but {str(path)!r} is {what}")
        size = path.stat().st_size
        max_bytes = _MAX_UNPACKING * size + 2**20
        seconds = _SECONDS + size // _BYTES_PER_SECOND
        limits = (str(max_bytes), str(_MEMORY + max_bytes), str(seconds))
        # It has no buffer and no name: the other process writes to it, and it is deleted with the last tensor.
        converted = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        try:
            child = subprocess.run(
                [sys.executable, "-P", _CHILD, os.path.abspath(path), *limits],
                stdin=subprocess.DEVNULL,
                stdout=converted,
                stderr=subprocess.PIPE,
                timeout=2 * seconds,
                check=False,
                # Pass on the packages of this process; threads for linear algebra would only take memory.
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
                f"{str(path)!r} is truncated or damaged; download or copy it again (the process that read it ended "
                f"with {child.returncode})"
            )
        return read_opened(opened)
