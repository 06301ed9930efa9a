"""Reads and writes weights, exports models, and converts flax modules; each module is imported when first used."""

from typing import TYPE_CHECKING

from jaxcnn.lazy import lazy_attributes

if TYPE_CHECKING:
    from jaxcnn.interop import export, files, flax, onnx, own_file, preprocessing, weights

__all__ = ["export", "files", "flax", "onnx", "own_file", "preprocessing", "weights"]

__getattr__, __dir__ = lazy_attributes(__name__, __all__)
