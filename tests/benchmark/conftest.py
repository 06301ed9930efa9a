"""Puts a layer's parameters into its translation, each by the peer's own layout, and runs both."""

import functools
import importlib
import os

# Set before keras is imported.
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, layers

LEAVES = ("kernel", "scale", "bias", "mean", "var")
PACKAGES = {"torch": "torch", "flax": "flax.linen", "equinox": "equinox", "keras": "keras"}


@pytest.fixture(params=PACKAGES)
def peer(request):
    """Each peer that is installed."""
    pytest.importorskip(PACKAGES[request.param])
    with jax.numpy_dtype_promotion("standard"):
        yield Translated(request.param)


def random_leaves(tree, rng):
    """Draws nested dicts of the same shapes; all positive, since variances are among them."""
    if not isinstance(tree, dict):
        return rng.uniform(0.5, 1.5, tree.shape).astype(np.float32)
    return {name: random_leaves(value, rng) for name, value in tree.items()}


@functools.cache
def drawn(layer, shape):
    """Returns parameters, state and a batch of images; never those of a fresh layer, many of which are 0 or 1."""
    rng = np.random.default_rng(0)
    params, state = (random_leaves(tree, rng) for tree in jax.eval_shape(layer.init, jax.random.key(0)))
    return params, state, rng.standard_normal((3, *shape), dtype=np.float32)


@functools.cache
def ours(layer, shape, train):
    """Returns what jaxcnn computes of them."""
    params, state, images = drawn(layer, shape)
    forward = jax.jit(batched(layer), static_argnames="train")
    return np.asarray(forward(params, state, images, train=train, key=jax.random.key(1) if train else None)[0])


def leaves(layer, tree, path="model"):
    """Yields (layer, path, leaves) of the layers that have any, in the order of use."""
    if isinstance(layer, layers.Residual):
        yield from leaves(layer.body, {name: value for name, value in tree.items() if name != "shortcut"}, path)
        yield from leaves(layer.shortcut, tree["shortcut"], f"{path}.shortcut")
    elif isinstance(layer, layers.Sequential | layers.Concat | layers.AuxiliaryHeads):
        for name, inner in layer.layers:
            yield from leaves(inner, tree[name], f"{path}.{name}")
    elif isinstance(layer, layers.Gate):
        yield from leaves(layer.body, tree, path)
    elif tree:
        yield layer, path, {name: tree[name] for name in LEAVES if name in tree}


def transposed_groups(kernel, groups):
    """Turns (height, width, in / groups, out) into (in, out / groups, height, width)."""
    height, width, inputs, outputs = kernel.shape
    grouped = kernel.reshape(height, width, inputs, groups, outputs // groups)
    return grouped.transpose(3, 2, 4, 0, 1).reshape(groups * inputs, outputs // groups, height, width)


def in_layout(peer, layer, name, array):
    """Returns a leaf as the peer stores it."""
    transpose = isinstance(layer, layers.ConvTranspose)
    if name != "kernel":
        return array
    if isinstance(layer, layers.Dense):
        return array if peer in ("flax", "keras") else array.T
    if peer == "torch":
        return transposed_groups(array, layer.groups) if transpose else array.transpose(3, 2, 0, 1)
    if peer == "equinox":
        return (array[::-1, ::-1] if transpose else array).transpose(3, 2, 0, 1)
    if peer == "flax":
        return array[::-1, ::-1] if transpose else array
    if transpose:
        return array.transpose(0, 1, 3, 2)
    depthwise = 1 < layer.groups == layer.in_channels
    return array.reshape(*array.shape[:2], layer.in_channels, -1) if depthwise else array


class Translated:
    """Runs the translations of one peer on our parameters."""

    def __init__(self, name):
        self.name = name
        self.module = importlib.import_module(f"jaxcnn.benchmark.peers.to_{name}")

    def both(self, layer, shape, *, train):
        """Returns what jaxcnn and the peer compute of the same batch with the same parameters."""
        params, state, images = drawn(layer, shape)
        return ours(layer, shape, train), self.run(layer, shape, params, state, images, train)

    def run(self, layer, shape, params, state, images, train):
        """Returns what the peer computes, with the channels last."""
        values = {}
        for kind, tree in (("params", params), ("state", state)):
            values[kind] = [
                (path, in_layout(self.name, inner, name, array))
                for inner, path, arrays in leaves(layer, tree)
                for name, array in arrays.items()
            ]
        return np.asarray(getattr(self, f"_in_{self.name}")(layer, shape, values, images, train))

    def _in_torch(self, layer, shape, values, images, train):
        import torch

        module = self.module.translate(layer, shape).train(train)
        moments = [tensor for name, tensor in module.named_buffers() if "running" in name]
        with torch.no_grad():
            for tensors, kind in ((list(module.parameters()), "params"), (moments, "state")):
                for tensor, (_, array) in zip(tensors, values[kind], strict=True):
                    tensor.copy_(torch.from_numpy(array.reshape(tensor.shape).copy()))
            result = module(self.module.to_torch_images(images))
        return result.movedim(1, -1).numpy()

    def _in_flax(self, layer, shape, values, images, train):
        module = self.module.translate(layer, shape, jnp.dtype("float32"))
        init = functools.partial(module.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), images)
        for collection, kind in (("params", "params"), ("batch_stats", "state")):
            rest = iter(values[kind])
            variables = {**variables, collection: _filled(variables.get(collection, {}), rest)}
            assert next(rest, None) is None
        rngs = {"dropout": jax.random.key(1)}
        apply = functools.partial(module.apply, train=train, mutable=["batch_stats"])
        return jax.jit(apply)(variables, images, rngs=rngs)[0]

    def _in_equinox(self, layer, shape, values, images, train):
        from jaxcnn.benchmark.spec import Spec

        model = self.module.make_model(Spec("equinox", layer, shape, len(images)))
        old, structure = jax.tree.flatten(model.params)
        new = [jnp.asarray(array).reshape(leaf.shape) for leaf, (_, array) in zip(old, values["params"], strict=True)]
        images = self.module.channels_first(images) if images.ndim == 4 else images
        key = jax.random.key(1) if train else None
        return model.apply(jax.tree.unflatten(structure, new), model.state, jnp.asarray(images), train, key)[0]

    def _in_keras(self, layer, shape, values, images, train):
        model = self.module.build(layer, shape)
        by_path = {}
        for kind in ("params", "state"):
            for path, array in values[kind]:
                by_path.setdefault(path, []).append(array)
        for path, arrays in by_path.items():
            keras_layer = model.get_layer(path)
            keras_layer.set_weights([a.reshape(w.shape) for a, w in zip(arrays, keras_layer.weights, strict=True)])
        return model(images, training=train)


def _filled(tree, rest):
    """Replaces the leaves of nested dicts by the next values: modules in the order of their numbers."""
    if not isinstance(tree, dict):
        return next(rest)[1].reshape(tree.shape)
    return {name: _filled(tree[name], rest) for name in sorted(tree, key=lambda name: (name == "bias", name))}
