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
from jaxcnn.benchmark.peers.plan import make_plan
from jaxcnn.layers.composite import path_of_child

LEAVES = ("kernel", "scale", "bias", "mean", "var")
PACKAGES = {"torch": "torch", "flax": "flax.linen", "equinox": "equinox", "keras": "keras"}


@pytest.fixture(params=PACKAGES)
def peer(request):
    """Each peer that is installed."""
    pytest.importorskip(PACKAGES[request.param])
    with jax.numpy_dtype_promotion("standard"):
        yield Translated(request.param)


@pytest.fixture
def torch_peer():
    """PyTorch, if it is installed."""
    pytest.importorskip("torch")
    return Translated("torch")


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
    results = forward(params, state, images, train=train, key=jax.random.key(1) if train else None)[0]
    return jax.tree.map(np.asarray, results)


def leaves(layer, tree, path=""):
    """Yields (path, layer, leaves) of the layers that have any."""
    if isinstance(layer, layers.Composite):
        for name, inner in layer.parts("parameters", tree).items():
            yield from leaves(layer.children()[name], inner, path_of_child(layer, path, name))
    elif tree:
        yield path, layer, {name: tree[name] for name in LEAVES if name in tree}


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

    drawn = staticmethod(drawn)

    def __init__(self, name):
        self.name = name
        self.module = importlib.import_module(f"jaxcnn.benchmark.peers.to_{name}")

    def both(self, layer, shape, *, train):
        """Returns what jaxcnn and the peer compute of the same batch with the same parameters."""
        params, state, images = drawn(layer, shape)
        return ours(layer, shape, train), self.run(layer, shape, params, state, images, train)

    def run(self, layer, shape, params, state, images, train):
        """Returns what the peer computes, a tree, with the channels last."""
        values = self.in_layouts(layer, params, state)
        plan = make_plan(self.name, layer, shape, train=train)
        results = getattr(self, f"_in_{self.name}")(plan, layer, shape, values, images, train)
        return jax.tree.map(np.asarray, results)

    def _in_torch(self, plan, layer, shape, values, images, train):
        import torch

        module = self.filled_torch_module(plan, values).train(train)
        with torch.no_grad():
            results = module(self.module.to_torch_images(images))
        return jax.tree.map(lambda result: result.movedim(1, -1).numpy(), results)

    def in_layouts(self, layer, params, state):
        """Returns the arrays of each layer as the peer stores them, by path, of parameters and state."""
        values = {}
        for kind, tree in (("params", params), ("state", state)):
            values[kind] = {
                path: [in_layout(self.name, inner, name, array) for name, array in arrays.items()]
                for path, inner, arrays in leaves(layer, tree)
            }
        return values

    def filled_torch_module(self, plan, values):
        """Builds the module of torch with our parameters."""
        import torch

        module = self.module.build(plan)
        with torch.no_grad():
            for path in plan.layers:
                inner = module.get_submodule(f"model/{path}")
                moments = [tensor for name, tensor in inner.named_buffers() if "running" in name]
                for tensors, kind in ((list(inner.parameters()), "params"), (moments, "state")):
                    for tensor, array in zip(tensors, values[kind].get(path, []), strict=True):
                        tensor.copy_(torch.from_numpy(array.reshape(tensor.shape).copy()))
        return module

    def _in_flax(self, plan, layer, shape, values, images, train):
        module = self.module.build(plan, jnp.dtype("float32"))
        init = functools.partial(module.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), images)
        for collection, kind in (("params", "params"), ("batch_stats", "state")):
            trees = dict(variables.get(collection, {}))
            assert {f"layers_{path}" for path in values[kind]} == set(trees)
            for path, arrays in values[kind].items():
                trees[f"layers_{path}"] = _filled(trees[f"layers_{path}"], iter(arrays))
            variables = {**variables, collection: trees}
        rngs = {"dropout": jax.random.key(1)}
        apply = functools.partial(module.apply, train=train, mutable=["batch_stats"])
        return jax.jit(apply)(variables, images, rngs=rngs)[0]

    def _in_equinox(self, plan, layer, shape, values, images, train):
        from jaxcnn.benchmark.spec import Spec

        model = self.module.make_model(Spec("equinox", layer, shape, len(images)), plan)
        params = dict(model.params)
        for path, arrays in values["params"].items():
            old, structure = jax.tree.flatten(params[path])
            new = [jnp.asarray(array).reshape(leaf.shape) for leaf, array in zip(old, arrays, strict=True)]
            params[path] = jax.tree.unflatten(structure, new)
        images = self.module.channels_first(images) if images.ndim == 4 else images
        key = jax.random.key(1) if train else None
        return model.apply(params, model.state, jnp.asarray(images), train, key)[0]

    def _in_keras(self, plan, layer, shape, values, images, train):
        model, _ = self.module.build(plan, shape)
        used = {keras_layer.name for keras_layer in model.layers}
        for path in dict.fromkeys([*values["params"], *values["state"]]):
            if self.module.name_of(path) not in used:
                assert not train
                continue
            arrays = [*values["params"].get(path, []), *values["state"].get(path, [])]
            keras_layer = model.get_layer(self.module.name_of(path))
            keras_layer.set_weights([a.reshape(w.shape) for a, w in zip(arrays, keras_layer.weights, strict=True)])
        return model(images, training=train)


def _filled(tree, rest):
    """Replaces the leaves of nested dicts by the next values."""
    if not isinstance(tree, dict):
        return next(rest).reshape(tree.shape)
    return {name: _filled(tree[name], rest) for name in sorted(tree, key=lambda name: (name == "bias", name))}
