"""Blocks of one's own, exported and as modules of flax: nothing there knows their classes."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from random_weights import random_weights
from user_blocks import inverted_residual, pyramid, shared_head, squeeze_excite_block

from jaxcnn import batched
from jaxcnn.interop.export import export_stablehlo
from jaxcnn.interop.flax import to_linen, to_nnx
from jaxcnn.interop.onnx import export_onnx
from jaxcnn.layers import GlobalAvgPool, Sequential

BLOCKS = {
    "squeeze-excite": Sequential(block=squeeze_excite_block(3, 4), pool=GlobalAvgPool()),
    "inverted": Sequential(block=inverted_residual(3), pool=GlobalAvgPool()),
    "pyramid": pyramid(3),
    "shared head": shared_head().replace(pyramid=pyramid(3)),
}
SHAPE = (8, 8, 3)
IMAGES = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


def weights(model):
    return random_weights(model, np.float32)


def assert_close(actual, expected, tolerance=1e-4):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", BLOCKS)
def test_an_exported_block_computes_the_same(name):
    model = BLOCKS[name]
    params, state = weights(model)
    exported = export_stablehlo(model, params, state, SHAPE, platforms=["cpu"])
    expected, _ = batched(model)(params, state, IMAGES, train=False)
    program = export.deserialize(bytearray(exported.content))
    assert_close(program.call(IMAGES), expected)
    outputs = exported.description["output"]
    if isinstance(expected, dict):
        assert set(outputs) == {"fine", "coarse"}
        outputs = outputs["fine"]
    assert outputs["shape"][0] == "b"
    assert outputs["dtype"] == "float32"


@pytest.mark.parametrize("name", ["squeeze-excite", "shared head"])
def test_an_onnx_file_of_a_block_computes_the_same(name):
    if importlib.util.find_spec("jax2onnx") is None:
        pytest.skip("jax2onnx is not installed")
    model = BLOCKS[name]
    # export_onnx compares the results itself.
    exported = export_onnx(model, *weights(model), SHAPE)
    names = "(coarse, fine,) =" if name == "shared head" else "(logits,) ="
    assert any(names in line for line in exported.load)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_a_module_of_linen(name):
    model = BLOCKS[name]
    params, state = weights(model)
    module, variables = to_linen(model), {"params": params, "batch_stats": state}
    expected, _ = batched(model)(params, state, IMAGES, train=False)
    assert_close(module.apply(variables, jnp.asarray(IMAGES), train=False), expected)
    rngs = {"dropout": jax.random.key(0)}
    _, updates = module.apply(variables, jnp.asarray(IMAGES), train=True, mutable=["batch_stats"], rngs=rngs)
    _, new_state = batched(model)(params, state, IMAGES, train=True, key=jax.random.key(1))
    if name != "inverted":  # It drops paths at random, so that its last moments depend on the key.
        assert_close(jax.tree.leaves(updates["batch_stats"]), jax.tree.leaves(new_state))


def test_a_block_is_a_module_of_nnx():
    nnx = pytest.importorskip("flax.nnx")
    model = BLOCKS["shared head"]
    params, state = model.init(nnx.Rngs(0).params())
    expected, _ = batched(model)(params, state, IMAGES, train=False)
    module = to_nnx(model, nnx.Rngs(0))
    module.eval()
    assert_close(module(jnp.asarray(IMAGES)), expected)
