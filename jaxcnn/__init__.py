"""A purely functional CNN library for JAX: written for one image, vmapped over batches, trained with Optax."""

from jaxcnn import layers, ops, trees
from jaxcnn.compiler import compiler_options
from jaxcnn.layers import batched
from jaxcnn.types import Layer, Params, State

__all__ = ["Layer", "Params", "State", "batched", "compiler_options", "layers", "ops", "trees"]
