"""A purely functional CNN library for JAX: written for one image, vmapped over batches, trained with Optax.

Layers and array functions are imported at once. `models`, `data`, `tasks`, `training`, `interop`, `inspection`, `plots`
and the names built on them are imported when they are first used.
"""

from typing import TYPE_CHECKING

from jaxcnn import layers, ops, trees
from jaxcnn.layers import batched
from jaxcnn.lazy import lazy_attributes
from jaxcnn.types import Layer, Params, State

if TYPE_CHECKING:
    from jaxcnn import data, inspection, interop, models, plots, tasks, training
    from jaxcnn.interop.own_file import load_parameters, save_parameters
    from jaxcnn.network import Network, load, train

__all__ = [
    "Layer",
    "Network",
    "Params",
    "State",
    "batched",
    "data",
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
    ["data", "inspection", "interop", "models", "plots", "tasks", "training"],
    {
        "Network": "network",
        "load": "network",
        "load_parameters": "interop.own_file",
        "save_parameters": "interop.own_file",
        "train": "network",
    },
)
