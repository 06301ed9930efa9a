"""What the comparisons of whole models with torch share: weights drawn here and copied by name into a torch module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees

torch = pytest.importorskip("torch")
nn = torch.nn

LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def draw(model, seed=0):
    """Draws parameters and moments, so that no scale is one and no mean zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, spec):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=spec.shape) / np.sqrt(np.prod(spec.shape[:-1]))
        return rng.uniform(0.5, 1.5, spec.shape) if name in ("scale", "var") else 0.1 * rng.normal(size=spec.shape)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0)))


def torch_name(path):
    *parents, leaf = path.split("/")
    return ".".join([*parents, LEAF_NAMES[leaf]])


def torch_layout(module, path, leaf):
    """Turns a leaf of jaxcnn into torch's order of axes."""
    leaf = np.asarray(leaf)
    if leaf.ndim == 4:
        transposed = isinstance(module.get_submodule(".".join(path.split("/")[:-1])), nn.ConvTranspose2d)
        return leaf.transpose(2, 3, 0, 1) if transposed else leaf.transpose(3, 2, 0, 1)
    return leaf.T


def load(module, params, state):
    """Copies parameters and moments into the module, and checks that none is left over on either side."""
    leaves = {path: leaf for tree in (params, state) for path, leaf in trees.named_leaves(tree).items()}
    own = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    assert {torch_name(path) for path in leaves} == own
    tensors = {
        torch_name(path): torch.from_numpy(np.ascontiguousarray(torch_layout(module, path, leaf)))
        for path, leaf in leaves.items()
    }
    module.double().load_state_dict(tensors, strict=False)


def assert_agree(name, actual, expected, tolerance):
    """Compares arrays; the largest value sets the scale, for a gradient may have values near zero."""
    atol = tolerance * np.abs(expected).max() + 1e-12
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)


def channels_first(images):
    return torch.from_numpy(np.moveaxis(images, -1, 1).copy())


def channels_last(outputs):
    outputs = outputs.detach().numpy()
    return np.moveaxis(outputs, 1, -1)


def check_evaluation(model, peer, images, *, tolerance=1e-10):
    """Compares the outputs in evaluation."""
    params, state = draw(model)
    load(peer, params, state)
    outputs, _ = jax.jit(lambda p, s, x: batched(model)(p, s, x, train=False))(params, state, images)
    assert_agree("outputs", outputs, channels_last(peer.eval()(channels_first(images))), tolerance)


def check_training(model, peer, images, *, tolerance=1e-9):
    """Compares outputs, gradients and new moments of a step whose loss weighs every output differently."""
    params, state = draw(model)
    load(peer, params, state)
    expected = peer.train()(channels_first(images))
    weights = np.random.default_rng(2).normal(size=channels_last(expected).shape)
    peer.zero_grad()
    torch.sum(channels_first(weights) * expected).backward()

    @jax.jit
    def step(params, state, images):
        def loss(params):
            outputs, new_state = batched(model)(params, state, images, train=True)
            return jnp.sum(weights * outputs), (outputs, new_state)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (outputs, new_state) = step(params, state, images)
    assert_agree("outputs", outputs, channels_last(expected), tolerance)
    for path, leaf in trees.named_leaves(new_state).items():
        assert_agree(path, leaf, peer.get_buffer(torch_name(path)).numpy(), tolerance)
    for path, leaf in trees.named_leaves(gradients).items():
        gradient = peer.get_parameter(torch_name(path)).grad.numpy()
        assert_agree(path, torch_layout(peer, path, leaf), gradient, tolerance)
