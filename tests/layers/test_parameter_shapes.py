"""Layers refuse parameters and moments of another width, which would give results of another shape, or broadcast."""

import re

import jax.numpy as jnp
import pytest

from jaxcnn import batched
from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, GroupNorm, LayerNorm, LayerScale

CASES = [
    (Conv(4, 6, 3, padding=1), Conv(4, 5, 3, padding=1), "Conv parameters: expected 'kernel' of shape (3, 3, 4, 6)"),
    (Conv(4, 6, 3, groups=2), Conv(4, 6, 1, groups=2), "Conv parameters: expected 'kernel' of shape (3, 3, 2, 6)"),
    (ConvTranspose(4, 6, 2, 2), ConvTranspose(4, 5, 2, 2), "ConvTranspose parameters: expected 'kernel' of shape"),
    (Dense(4, 10), Dense(4, 5), "Dense parameters: expected 'kernel' of shape (4, 10), got (4, 5)"),
    (BatchNorm(4), BatchNorm(1), "BatchNorm parameters: expected 'scale' of shape (4,), got (1,)"),
    (GroupNorm(4, 2), GroupNorm(1, 1), "GroupNorm parameters: expected 'scale' of shape (4,), got (1,)"),
    (LayerNorm(4), LayerNorm((5, 4)), "LayerNorm parameters: expected 'scale' of shape (4,), got (5, 4)"),
    (LayerScale(4), LayerScale(1), "LayerScale parameters: expected 'scale' of shape (4,), got (1,)"),
]


@pytest.mark.parametrize(("layer", "other", "message"), CASES, ids=[repr(layer) for layer, _, _ in CASES])
def test_parameters_of_another_layer_are_refused(layer, other, message, key):
    _, state = layer.init(key)
    params, _ = other.init(key)
    with pytest.raises(ValueError, match=re.escape(message)):
        batched(layer)(params, state, jnp.zeros((2, 6, 5, 4)), train=False)


def test_moments_of_another_width_are_refused(key):
    params, _ = BatchNorm(4).init(key)
    _, state = BatchNorm(1).init(key)
    with pytest.raises(ValueError, match=re.escape("BatchNorm state: expected 'mean' of shape (4,), got (1,)")):
        batched(BatchNorm(4))(params, state, jnp.zeros((2, 6, 5, 4)), train=False)


def test_a_bias_of_another_width_is_refused(key):
    params, state = Dense(4, 10).init(key)
    with pytest.raises(ValueError, match=re.escape("'bias' of shape (10,), got (1,); was it made by the init")):
        Dense(4, 10).apply(params | {"bias": jnp.zeros(1)}, state, jnp.zeros(4), train=False)
