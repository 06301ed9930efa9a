"""Training on a mesh of eight devices, in a process that pretends to have them, gives what one device gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import contextlib, json, sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxcnn import batched
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Function, MaxPool, Sequential
from jaxcnn.training import init_train_state, make_eval_step, make_predict_step, make_train_step

kind, shape, entered, placed, micro_batches = json.loads(sys.argv[1])
assert jax.device_count() == 8
mesh = jax.make_mesh(tuple(shape), ("data", "model")[: len(shape)], axis_types=(AxisType[kind],) * len(shape))
model = Sequential(
    conv1=Conv(2, 4), norm=BatchNorm(4), relu=Function(jax.nn.relu), pool=MaxPool(2), conv2=Conv(4, 4, groups=2),
    drop=Dropout(0.4), flatten=Flatten(), head=Dense(2 * 2 * 4, 3),
)
random = np.random.default_rng(0)
images, labels = random.normal(size=(4, 16, 4, 4, 2)).astype(np.float32), random.integers(0, 3, (4, 16))
labels = labels.astype(np.int32)

def noise(key, example):
    image = example["image"]
    return {**example, "image": image + 0.1 * jax.random.normal(key, image.shape)}

optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
train_step = make_train_step(model, optimizer, augment=noise, micro_batches=micro_batches, ema=0.9)
eval_step, predict_step = make_eval_step(model), make_predict_step(model)
apply = jax.jit(batched(model), static_argnames="train")

def run(lay_out, split):
    train_state = lay_out(init_train_state(model, optimizer, jax.random.key(0), ema=True))
    metrics = []
    for x, y in zip(images, labels):
        train_state, measured = train_step(train_state, {"image": split(x), "label": split(y)}, jax.random.key(1))
        metrics.append(measured)
    variables = train_state.params, train_state.state
    batch = {"image": images[0], "label": labels[0], "weight": np.ones(16, bool)}
    evaluated = eval_step(*variables, {name: split(array) for name, array in batch.items()})
    predicted = predict_step(*variables, split(images[0]))
    outputs, state = apply(*variables, split(images[0]), train=True, key=jax.random.key(2))
    return train_state, metrics, evaluated, predicted, outputs, state

expected = run(lambda tree: tree, lambda x: x)
with jax.set_mesh(mesh) if entered else contextlib.nullcontext():
    actual = run(
        (lambda tree: jax.device_put(tree, NamedSharding(mesh, P()))) if placed else (lambda tree: tree),
        lambda x: jax.device_put(x, NamedSharding(mesh, P("data"))),
    )
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)
for leaf in jax.tree.leaves(actual[0]):
    assert len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated, leaf.sharding
for outputs in actual[3:5]:
    images, classes = outputs.sharding.shard_shape((16, 3))
    # Automatic axes are the compiler's: the kernels of the CPU split the images over all of them.
    assert classes == 3 and (images == 16 // shape[0] or (kind == "Auto" and images == 2)), outputs.sharding
"""

# Kind of the axes; the mesh; whether it is entered by jax.set_mesh; whether the train state is put on it beforehand;
# the number of micro-batches.
DEFAULT = ("Explicit", (8,), True, True, 2)
SLOW = [
    ("Explicit", (8,), True, True, 1),
    ("Explicit", (8,), False, True, 1),
    ("Explicit", (8,), False, False, 1),
    ("Explicit", (4, 2), True, False, 2),
    ("Auto", (8,), False, True, 2),
    ("Auto", (4, 2), True, False, 1),
]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "case", [DEFAULT, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=lambda case: str(case)
)
def test_a_mesh_of_eight_devices_gives_what_one_gives(case):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(case)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
