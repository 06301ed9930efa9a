"""What one process measures, as a line of JSON."""

import base64
import dataclasses
import functools
import importlib
import io
import json
import pickle
import sys
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.layers import output_shape
from jaxcnn.models.detection.detector import Detector
from jaxcnn.tasks import Detection
from jaxcnn.types import Layer, Shape

Mode = Literal["train", "infer"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Spec:
    """What one process measures.

    Attributes:
      contestant: a name of `jaxcnn.benchmark.peers.CONTESTANTS`.
      model: the layer value; a detector, or what gives logits, shape (num_classes,), or a map of them, (height, width,
        num_classes).
      image_shape: (height, width, channels) of one image.
      batch_size: images in a step, over all devices.
      mode: "train" or "infer".
      precision: dtype of the computation; parameters, moments and the loss are always float32.
      devices: number of devices that share the batch.
      name: of the model in the catalog, by which torchvision finds its own.
      programs: folder of compiled programs, which jaxcnn takes if they are there, and otherwise leaves there; None for
        the peers, which keep none.
    """

    contestant: str
    model: Layer
    image_shape: Shape
    batch_size: int
    mode: Mode = "train"
    precision: Precision = "float32"
    devices: int = 1
    name: str = ""
    programs: str | None = None

    @functools.cached_property
    def task(self) -> Detection | None:
        """The task of a detector; None for a model of logits."""
        if not isinstance(self.model, Detector):
            return None
        height, width, _ = self.image_shape
        return self.model.task((height, width))

    @functools.cached_property
    def output_shape(self) -> Shape:
        """Shape of the logits of one image in evaluation; its last axis are the classes, of a detector the only one."""
        shape: Any = output_shape(self.model, self.image_shape)
        if self.task is not None:
            return (self.task.num_classes({"classes": jax.ShapeDtypeStruct(shape["classes"], jnp.float32)}),)
        if not isinstance(shape, tuple) or not shape or not all(isinstance(size, int) for size in shape):
            raise ValueError(f"the benchmark expects a model whose result is one array of logits, got {shape}")
        return shape

    def to_json(self) -> str:
        """Writes the spec as one line."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # The other process must not trace the model to know the shape: that would be part of its cold start.
        return json.dumps(
            {**fields, "model": base64.b64encode(_pickle(self.model)).decode(), "output_shape": self.output_shape}
        )

    @classmethod
    def from_json(cls, line: str) -> "Spec":
        """Reads a line that `to_json` wrote; only for trusted lines, since a layer is unpickled."""
        fields = json.loads(line)
        output_shape = tuple(fields.pop("output_shape"))
        model = pickle.loads(base64.b64decode(fields["model"]))
        spec = cls(**{**fields, "model": model, "image_shape": tuple(fields["image_shape"])})
        spec.__dict__["output_shape"] = output_shape
        return spec


class _Pickler(pickle.Pickler):
    """Writes functions of modules by name, also those that JAX wraps in objects of its own, such as `jax.nn.relu`."""

    def reducer_override(self, obj: Any) -> Any:
        name = getattr(obj, "__qualname__", None)
        if name is None or isinstance(obj, type | FunctionType | BuiltinFunctionType):
            return NotImplemented
        if getattr(sys.modules.get(obj.__module__), name, None) is not obj:
            return NotImplemented
        return _function, (obj.__module__, name)


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _pickle(model: Layer) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "the benchmark sends the model to other processes and expects its functions to be named ones of modules, "
            f"not lambdas: {error}"
        ) from error
    return buffer.getvalue()
