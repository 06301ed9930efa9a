"""A purely functional CNN library for JAX: written for one image, vmapped over batches, trained with Optax."""

from jaxcnn import layers, ops, trees
from jaxcnn.layers import batched
from jaxcnn.types import Layer, Params, State

__all__ = ["Layer", "Params", "State", "batched", "layers", "ops", "trees"]
