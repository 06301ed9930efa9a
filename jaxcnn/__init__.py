"""A purely functional CNN library for JAX: written for one image, vmapped over batches, trained with Optax.

Everything is imported when it is first used, JAX too.
"""

from typing import TYPE_CHECKING

from jaxcnn.lazy import lazy_attributes

if TYPE_CHECKING:
    from jaxcnn import data, evaluation, inspection, interop, layers, models, ops, plots, tasks, training, trees
    from jaxcnn.compilation import enable_compilation_cache
    from jaxcnn.interop.own_file import load_parameters, save_parameters
    from jaxcnn.layers import batched
    from jaxcnn.network import Network, load, train
    from jaxcnn.types import Layer, Params, State

__all__ = [
    "Layer",
    "Network",
    "Params",
    "State",
    "batched",
    "data",
    "enable_compilation_cache",
    "evaluation",
    "inspection",
    "interop",
    "layers",
    "load",
    "load_parameters",
    "models",
    "ops",
    "plots",
    "save_parameters",
    "tasks",
    "train",
    "training",
    "trees",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    [*__all__, "tracing", "types"],
    {
        "Layer": "types",
        "Network": "network",
        "Params": "types",
        "State": "types",
        "batched": "layers",
        "enable_compilation_cache": "compilation",
        "load": "network",
        "load_parameters": "interop.own_file",
        "save_parameters": "interop.own_file",
        "train": "network",
    },
)
