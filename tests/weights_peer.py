"""What the comparisons of published weights share: a reference, its weights in a file, our model with them, outputs.

The reference is a torch module or a Keras model with random, calibrated weights. It is saved as its library saves it,
and loaded by `load_weights`, so that names, order of axes, epsilon, padding and the place of strides are all compared.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees
from jaxcnn.interop import conversion
from jaxcnn.interop import weights as weights_module
from jaxcnn.interop.records import RECORDS
from jaxcnn.interop.weights import load_weights
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, DropPath, MaxPool
from jaxcnn.values import Partial

LOGITS_TOLERANCE, GRADIENT_TOLERANCE = 1e-10, 1e-8
FLOAT32_ROUNDING = 2.0**-24


def record_of(name):
    """Returns the record of a library's architecture, such as "torchvision/resnet50"."""
    return next(record for record in RECORDS if record.name == name)


def images(size, *, batch=2, seed=1):
    """Draws images of (height, width) or of a square's side, normalised as those that networks are given."""
    height, width = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(seed).normal(size=(batch, height, width, 3))


def error(actual, expected):
    """Returns the largest difference as a part of the largest value expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    assert expected.std() > 0
    return np.abs(actual - expected).max() / np.abs(expected).max()


def channels_first(batch):
    import torch

    return torch.from_numpy(np.moveaxis(np.asarray(batch), -1, 1).copy())


def torch_logits(module, batch):
    import torch

    with torch.no_grad():
        return module.eval()(channels_first(batch)).numpy()


def torch_weights(name, module, tmp_path, size, *, seed=0):
    """Fills a torch module with calibrated weights in float64, and loads them here from a file of it.

    Args:
      name: library and architecture, such as "torchvision/resnet50".
      module: the torch module.
      tmp_path: folder for the file.
      size: height and width of the images that it is calibrated with.
      seed: of the weights.

    Returns:
      What `load_weights` gave.
    """
    import torch
    import torchvision_peer

    torchvision_peer.calibrate(module.double(), channels_first(images(size, seed=seed + 7)), seed)
    path = tmp_path / "weights.pth"
    torch.save(module.state_dict(), path)
    return load_weights(record_of(name).model, path, architecture=name)


def forward(model):
    """Returns the compiled function (params, state, batch) -> logits; one program for a size and a dtype.

    A new function each time: a program that was traced before would not see what a test has changed.
    """
    return jax.jit(lambda params, state, x: batched(model)(params, state, x, train=False)[0])


def our_logits(weights, batch, *, model=None):
    """Returns the logits of our model, or of another one with the same parameters."""
    run = forward(weights.model if model is None else model)
    return run(weights.params, weights.state, jnp.asarray(batch))


def check_torch_weights(name, module, tmp_path, sizes):
    """Compares logits at two sizes in float64, and at the first one in float32.

    Args:
      name: library and architecture.
      module: the torch module, freshly built.
      tmp_path: folder for the file of weights.
      sizes: two sizes, one of them odd.

    Returns:
      What `load_weights` gave, in float64.
    """
    weights = torch_weights(name, module, tmp_path, sizes[0])
    batches = [images(size) for size in sizes]
    check_logits(weights, batches, [torch_logits(module, batch) for batch in batches])
    return weights


def check_logits(weights, batches, expected):
    """Compares logits with exact ones in float64, and those of the first batch in float32.

    Deep networks with random weights amplify rounding, some a thousandfold, and the error of one computation in float32
    changes with the number of threads. How much a network amplifies does not: the logits in float64 are computed again,
    with all parameters, moments and pixels changed at random by as much as float32 rounds them. The error in float32 is
    one to ten times that effect; with 11 bits, as in float16 and TensorFloat-32, it is 8,000 times as much.

    Args:
      weights: what was loaded, in float64.
      batches: arrays of images.
      expected: the logits of the reference for each of them, in float64.
    """
    run = forward(weights.model)
    for batch, logits in zip(batches, expected, strict=True):
        assert error(run(weights.params, weights.state, jnp.asarray(batch)), logits) < LOGITS_TOLERANCE
    exact, rng = (weights.params, weights.state, batches[0]), np.random.default_rng(3)

    def changed_slightly(leaf):
        return jnp.asarray(leaf * (1 + FLOAT32_ROUNDING * rng.normal(size=leaf.shape)))

    effects = [mean_square_error(run(*jax.tree.map(changed_slightly, exact)), expected[0]) for _ in range(4)]
    logits = run(*jax.tree.map(lambda leaf: leaf.astype(jnp.float32), exact))
    assert logits.dtype == jnp.float32
    assert mean_square_error(logits, expected[0]) < 100**2 * np.mean(effects)


def mean_square_error(actual, expected):
    return np.mean(np.square(np.asarray(actual, np.float64) - np.asarray(expected, np.float64)))


def without_chance(model):
    """Returns the model with all rates of dropout and of stochastic depth at zero."""
    return changed(model, (Dropout, DropPath), rate=0.0)


def check_torch_training(name, module, tmp_path, size, *, batch=4):
    """Compares logits, every gradient and every new running moment of a training step in float64.

    Args:
      name: library and architecture.
      module: the torch module, whose dropouts and stochastic depth are turned off here.
      tmp_path: folder for the file of weights.
      size: height and width of the images.
      batch: number of images.
    """
    import torch

    weights = torch_weights(name, module, tmp_path, size)
    for part in module.modules():
        for rate in ("p", "drop_prob"):
            if isinstance(getattr(part, rate, None), float):
                setattr(part, rate, 0.0)
    x = images(size, batch=batch)
    expected = module.train()(channels_first(x))
    assert isinstance(expected, torch.Tensor)
    scales = np.random.default_rng(2).normal(size=expected.shape)
    torch.sum(torch.from_numpy(scales) * expected).backward()
    model = without_chance(weights.model)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits, new_state = batched(model)(params, state, jnp.asarray(x), train=True, key=jax.random.key(0))
            if isinstance(logits, dict):  # with auxiliary heads
                logits = jnp.stack([logits["main"], *(logits[name] for name in model.heads)], 1)
            return jnp.sum(scales * logits), (logits, new_state)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, new_state) = step(weights.params, weights.state)
    assert error(logits, expected.detach().numpy()) < GRADIENT_TOLERANCE
    compare_training(record_of(name), model, gradients, new_state, torch_arrays(module))


def torch_arrays(module):
    """Returns gradients and buffers of a torch module by name."""
    gradients = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    return gradients | {name: buffer.numpy() for name, buffer in module.named_buffers()}


def compare_training(record, model, gradients, new_state, expected):
    """Compares gradients and new moments with arrays of the source, by name.

    A gradient that is zero but for rounding (that of a bias before a batch norm) is compared with the largest one.
    """
    expected = {record.rewritten(name): array for name, array in expected.items() if not record.ignores(name)}
    wanted = conversion.targets(record, model)
    assert set(wanted) == set(expected)
    largest = max(np.abs(expected[name]).max() for name, target in wanted.items() if target.tree == 0)
    for name, target in wanted.items():
        leaf = (gradients, new_state)[target.tree]
        for key in target.keys:
            leaf = leaf[key]
        ours = record.to_source(target.path, target.layer, target.keys[-1], np.asarray(leaf))
        scale = max(np.abs(expected[name]).max(), 1e-6 * largest if target.tree == 0 else 0)
        np.testing.assert_allclose(ours, expected[name], rtol=0, atol=GRADIENT_TOLERANCE * scale, err_msg=name)


def narrow(monkeypatch, hidden=24):
    """Gives AlexNet and the VGG networks so few hidden units, for the length of a test, that numbers cost little.

    Args:
      monkeypatch: pytest's.
      hidden: units of each of the two hidden dense layers, instead of 4,096.
    """
    records = tuple(
        replace(record, build=functools.partial(build_narrow, record.build, hidden))
        if record.model.startswith(("alexnet", "vgg"))
        else record
        for record in RECORDS
    )
    monkeypatch.setattr(weights_module, "RECORDS", records)
    monkeypatch.setattr(sys.modules[__name__], "RECORDS", records)


def build_narrow(build, hidden, num_classes, *, in_channels=3):
    """Builds a model with other numbers of hidden units; their places and the flattened map stay."""
    model = build(num_classes, in_channels=in_channels)
    return model.replace(
        dense1=Dense(model["dense1"].in_features, hidden),
        dense2=Dense(hidden, hidden),
        head=Dense(hidden, num_classes),
    )


def check_names(name, arrays, num_classes=1000):
    """Compares names and shapes with all those of a reference, in both directions, and the number of parameters.

    Args:
      name: library and architecture.
      arrays: what has a shape by name, such as the state dict of a module on torch's meta device.
      num_classes: number of classes of the reference.

    Returns:
      Our model, as the record builds it.
    """
    record = record_of(name)
    model = record.build(num_classes)
    assert list(conversion.differences(conversion.targets(record, model), conversion.usable(record, arrays))) == []
    return model


def check_options(name, module, num_classes=1000):
    """Compares a record with a torch module: names and shapes in both directions, and what its layers are.

    Args:
      name: library and architecture.
      module: the torch module, which may be on the meta device.
      num_classes: its number of classes.

    Returns:
      Our model, as the record builds it.
    """
    import torch

    record, model = record_of(name), check_names(name, module.state_dict(), num_classes)
    compared = set()
    for array, target in conversion.targets(record, model).items():
        part, layer = module.get_submodule(array.rsplit(".", 1)[0]), target.layer
        if isinstance(layer, BatchNorm):
            assert layer.unbiased, array
            assert (layer.epsilon, layer.decay) == (part.eps, pytest.approx(1 - part.momentum)), array
        elif isinstance(layer, Conv):
            rule = "SAME" if type(part).__name__ == "Conv2dSame" else tuple((side, side) for side in part.padding)
            # At stride 1 an odd kernel has one padding that keeps the size, whatever it is called.
            half = tuple((taps // 2, taps // 2) for taps in layer.kernel_size)
            ours = half if layer.padding == "SAME" and layer.strides == (1, 1) else layer.padding
            assert (ours, layer.strides, layer.groups) == (rule, part.stride, part.groups), array
            assert layer.dilation == part.dilation, array
        compared.add(type(part))
    assert torch.nn.Conv2d in compared
    return model


def keras_facts(architectures):
    """Returns names and shapes of all weights of Keras models, and the options of their norms, by architecture."""
    script = Path(__file__).parent / "parity" / "keras_names.py"
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *architectures], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_keras_facts(name, facts):
    """Compares names and shapes with all those of a Keras model, in both directions, and its norms.

    Args:
      name: library and architecture.
      facts: what `keras_facts` says of it.

    Returns:
      Our model, as the record builds it.
    """
    record = record_of(name)
    arrays = {array: np.broadcast_to(np.float32(0), shape) for array, shape in facts["weights"].items()}
    model = check_names(name, arrays)
    norms = {
        array.rsplit("/", 1)[0]: target.layer
        for array, target in conversion.targets(record, model).items()
        if isinstance(target.layer, BatchNorm)
    }
    assert {array: (norm.epsilon, pytest.approx(norm.decay)) for array, norm in norms.items()} == {
        array: tuple(options) for array, options in facts["norms"].items()
    }
    assert not any(norm.unbiased for norm in norms.values())
    return model


def changed(model, kinds, **changes):
    """Returns a model with other options in all layers of some kinds: a planted fault.

    Args:
      model: any layer value.
      kinds: class, or tuple of classes, of the layers to change.
      **changes: their new fields, or functions of a layer that give the new value.

    Returns:
      The model; it fails if nothing has changed.
    """
    count = 0

    def walk(value):
        nonlocal count
        if isinstance(value, kinds):
            count += 1
            values = {name: change(value) if callable(change) else change for name, change in changes.items()}
            if isinstance(value, Partial):
                options = dict(values.get("options", value.options))
                return type(value)(values.get("function", value.function), **options)
            return replace(value, **values)
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        if not is_dataclass(value) or isinstance(value, type):
            return value
        new = {field.name: walk(getattr(value, field.name)) for field in fields(value)}
        if all(new[name] is getattr(value, name) or new[name] == getattr(value, name) for name in new):
            return value
        copy = object.__new__(type(value))
        for field_name, part in new.items():
            object.__setattr__(copy, field_name, part)
        return copy

    result = walk(model)
    assert count or kinds == (Dropout, DropPath)
    return result


def with_leaf(tree, path, change):
    """Returns a tree with one leaf changed by a function."""
    assert path in trees.named_leaves(tree)
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: change(leaf) if jax.tree_util.keystr(keys, simple=True, separator="/") == path else leaf,
        tree,
    )


def faults(weights, *, kernel=None, bias=None, same=None, flattened=None):
    """Yields (what, model, params) of planted faults that a comparison must see.

    Args:
      weights: what was loaded.
      kernel: path of a kernel of more than one row and column, whose rows and columns are to be swapped.
      bias: path of a bias, or of a batch norm's, to be dropped.
      same: whether there is a padding to replace by "SAME"; if None, wherever strides are not 1.
      flattened: path of a kernel after a flattened map and the shape of the map, to leave its rows in torch's order.
    """
    model, params = weights.model, weights.params
    if "BatchNorm(" in repr(model):
        yield (
            "epsilon",
            changed(model, BatchNorm, epsilon=lambda norm: 1.001e-5 if norm.epsilon != 1.001e-5 else 1e-5),
            params,
        )
    if same is not False:
        kinds = (Conv, MaxPool)
        yield (
            "SAME",
            changed(model, kinds, padding=lambda layer: "SAME" if layer.strides == (2, 2) else layer.padding),
            params,
        )
    if kernel:
        yield "kernel", model, with_leaf(params, kernel, lambda leaf: jnp.swapaxes(leaf, 0, 1))
    if bias:
        yield "bias", model, with_leaf(params, bias, jnp.zeros_like)
    if flattened:
        path, shape = flattened
        rows = np.moveaxis(np.arange(np.prod(shape)).reshape(shape), -1, 0).ravel()
        yield "flatten", model, with_leaf(params, path, lambda leaf: leaf[rows])


def check_faults_are_seen(weights, batch, expected, **places):
    """Plants faults one by one and asserts that each makes the comparison fail, by far."""
    run, batch = forward(weights.model), jnp.asarray(batch)
    assert error(run(weights.params, weights.state, batch), expected) < LOGITS_TOLERANCE
    planted = list(faults(weights, **places))
    assert planted
    for what, model, params in planted:
        planted_run = run if model is weights.model else forward(model)
        assert error(planted_run(params, weights.state, batch), expected) > 1e4 * LOGITS_TOLERANCE, what


def keras_weights(name, tmp_path, sizes, *, seed=0, **options):
    """Makes a Keras model with calibrated weights in a process of its own, in float64.

    Args:
      name: library and architecture, such as "keras/ResNet50".
      tmp_path: folder for the files.
      sizes: sizes of the images to compute logits for.
      seed: of the weights.
      **options: for `keras.applications`, besides weights, classes and the input's shape.

    Returns:
      What `load_weights` gave, and the logits for `images(size)` of each size.
    """
    record = record_of(name)
    for i, size in enumerate(sizes):
        np.save(tmp_path / f"images{i}.npy", images(size))
    run_keras(record, tmp_path, [f"images{i}.npy" for i in range(len(sizes))], seed, options)
    expected = [np.load(tmp_path / f"logits{i}.npy") for i in range(len(sizes))]
    weights = load_weights(record.model, tmp_path / "weights.h5", architecture=name)
    return weights, expected


def run_keras(record, folder, inputs, seed=0, options=None):
    """Runs `keras_reference.py` in a process of its own."""
    task = {
        "architecture": record.architecture,
        "inputs": [str(folder / name) for name in inputs],
        "seed": seed,
        "options": options or {},
        "folder": str(folder),
    }
    script = Path(__file__).parent / "parity" / "keras_reference.py"
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(task)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def check_keras_names(name, tmp_path):
    """Compares names and shapes with all those of a Keras model of 1,000 classes; returns ours."""
    run_keras(record_of(name), tmp_path, [])
    shapes = json.loads((tmp_path / "names.json").read_text())
    return check_names(name, {path: np.broadcast_to(np.float32(0), tuple(shape)) for path, shape in shapes.items()})


def check_keras_weights(name, tmp_path, sizes, **options):
    """Compares logits with Keras at two sizes in float64, and at the first one in float32."""
    weights, expected = keras_weights(name, tmp_path, sizes, **options)
    check_logits(weights, [images(size) for size in sizes], expected)
    return weights, expected
