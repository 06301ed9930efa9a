"""The same training on one device, on several, and with its parameters split over them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxcnn.training import Placement, make_placement

ROOT = Path(__file__).parents[2]

PROLOGUE = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, Mesh, PartitionSpec as P
from jaxcnn.layers import BatchNorm, Conv, Dense, Flatten, Function, MaxPool, Sequential
from jaxcnn.training import Placement, init_train_state, make_eval_step, make_train_state, make_train_step
from jaxcnn.training import make_placement

model = Sequential(
    conv1=Conv(3, 16, use_bias=False), norm=BatchNorm(16), relu=Function(jax.nn.relu), conv2=Conv(16, 16),
    pool=MaxPool(2), flatten=Flatten(), head=Dense(4 * 4 * 16, 3),
)
random = np.random.default_rng(0)

def batches(dtype):
    images = random.normal(size=(20, 16, 8, 8, 3)).astype(dtype)
    return [{"image": x, "label": y} for x, y in zip(images, random.integers(0, 3, (20, 16)).astype(np.int32))]

def shifted(key, example):
    image = example["image"]
    return {**example, "image": image + 0.1 * jax.random.normal(key, image.shape, image.dtype)}
"""

SAME = """
def run(placement, data, dtype):
    optimizer = optax.sgd(0.05, momentum=0.9)
    step = make_train_step(
        model, optimizer, augment=shifted, precision=dtype, ema=0.9, micro_batches=1, placement=placement
    )
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), model.init(jax.random.key(0)))
    train_state = make_train_state(*variables, optimizer, ema=True)
    train_state = train_state if placement is None else placement.put(train_state)
    for batch in data:
        train_state, metrics = step(train_state, batch, jax.random.key(1))
    evaluated = make_eval_step(model, precision=dtype, placement=placement)(
        train_state.params, train_state.state, data[0] | {"weight": np.ones(16, np.float32)}
    )
    return train_state, metrics, evaluated

def explicit():
    return Placement(jax.make_mesh((4, 2), ("data", "model")), rules=((".*/kernel", "model"),))

tolerance = {"float32": 1e-6, "float64": 1e-12}[dtype]
with jax.enable_x64(dtype == "float64"):
    data = batches(dtype)
    expected = run(None, data, dtype)
    for placement in [make_placement(2), make_placement(8, shard="parameters"), explicit()]:
        actual = run(placement, data, dtype)
        for one, other in zip(jax.tree.leaves(actual[0].params), jax.tree.leaves(expected[0].params), strict=True):
            assert one.dtype == dtype
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
        for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=30 * tolerance, atol=30 * tolerance)
        for leaf, sharding in zip(
            jax.tree.leaves(actual[0]), jax.tree.leaves(placement.shardings(actual[0])), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.sharding, sharding)
"""

SPECS = """
placement = make_placement(4, shard="parameters")
for shape, spec in (
    ((3, 3, 8, 16), P(None, None, None, "data")), ((3, 3, 32, 16), P(None, None, "data", None)),
    ((3, 3, 16, 16), P(None, None, None, "data")), ((4, 6), P("data", None)), ((3,), P()), ((), P()),
):
    assert placement.spec("head/kernel", shape) == spec, (shape, placement.spec("head/kernel", shape))
named = Placement(placement.mesh, rules=(("head/.*", "data"), (".*/kernel", P("data"))))
assert named.spec("head/bias", (8,)) == P("data") and named.spec("conv/bias", (8,)) == P()
assert named.spec("head/kernel", (2, 8)) == P(None, "data") and named.spec("conv/kernel", (4, 8)) == P("data")
assert placement.shard == (0, 1) and placement.parts == 4
whole = placement.gather(placement.put(init_train_state(model, optax.adam(0.1), jax.random.key(0))))
assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(whole))
step = make_train_step(model, optax.adam(0.1), placement=placement)
try:
    step(whole, {"image": np.zeros((6, 8, 8, 3), np.float32), "label": np.zeros(6, np.int32)}, jax.random.key(1))
except ValueError as error:
    print(error)
"""

NATIVE = """
import re
placement = make_placement(8)
optimizer = optax.sgd(0.1)
step = make_train_step(model, optimizer, placement=placement)
train_state = placement.put(init_train_state(model, optimizer, jax.random.key(0)))
program = step.lower(train_state, placement.split(batches(np.float32)[0]), jax.random.key(1)).compile().as_text()
print(re.findall(r"= (\\S+)\\{[^ ]* custom-call\\([^\\n]*custom_call_target=\\"(jaxcnn_\\w+)\\"", program))
print(re.findall(r"= (\\S+)\\{[^ ]* all-gather\\(", program))
"""


def run_python(code, devices=8, *words):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROLOGUE + code, *map(str, words)],
        env=os.environ
        | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_twenty_steps_give_the_same_parameters_on_1_2_and_8_devices(dtype):
    run_python(f"dtype = {dtype!r}\n" + SAME)


def test_each_device_calls_the_native_kernels_for_its_images_and_no_image_is_gathered():
    calls, gathers = map(eval, run_python(NATIVE).splitlines()[-2:])
    # 16 images on 8 devices.
    assert sorted(calls) == [
        ("f32[2,8,8,16]", "jaxcnn_convolve"),
        ("f32[2,8,8,16]", "jaxcnn_convolve"),
        ("f32[2,8,8,16]", "jaxcnn_input_gradient"),
        ("f32[3,3,16,16]", "jaxcnn_kernel_gradient"),
        ("f32[3,3,3,16]", "jaxcnn_kernel_gradient"),
    ]
    # XLA sorts the logits of the accuracy in one place.
    assert gathers in ([], ["f32[16,3]"])


def test_rules_choose_the_axis_that_is_split_and_an_uneven_batch_is_refused():
    message = "expected a batch size that divides over 4 devices, got 6; use 4 or 8, or fewer devices"
    assert run_python(SPECS).strip().endswith(message)


RUNS = """
import json, os, sys
from pathlib import Path
from jaxcnn import data
from jaxcnn.training import Observer, Recipe, run

folder, case = Path(sys.argv[1]), sys.argv[2]
images = random.integers(0, 256, (120, 8, 8, 3), np.uint8)
source = data.arrays(image=images, label=random.integers(0, 3, 120), num_classes=3)
recipe = Recipe(
    epochs=4, batch_size=8, optimizer="sgd", learning_rate=0.05, checkpoint_epochs=1, ema=0.9, warmup_epochs=1
)


class Stopping(Observer):
    def on_step(self, progress, rate):
        return progress.step == 13

def train(placement, resume=False, observers=()):
    return run(model, source, recipe, folder=folder, placement=placement, resume=resume, observers=observers)

if case == "alone":
    result = train(None)
else:
    before, after = (int(word) for word in case.split("-"))
    shard = "parameters" if before == 8 else "nothing"
    first = make_placement(before, shard=shard) if before > 1 else None
    assert train(first, observers=[Stopping()]).stopped
    result = train(make_placement(after, shard="parameters") if after > 1 else None, resume=True)
assert not result.stopped
for leaf in jax.tree.leaves((result.params, result.state)):
    assert len(leaf.sharding.device_set) == 1
np.savez(folder / "final.npz", *jax.tree.leaves((result.params, result.state)))
"""


@pytest.mark.slow
def test_a_checkpoint_is_resumed_on_another_number_of_devices(tmp_path):
    results = {}
    for case in ("alone", "8-1", "1-2"):
        run_python(RUNS, 8, tmp_path / case, case)
        with np.load(tmp_path / case / "final.npz") as content:
            results[case] = [content[name] for name in content.files]
        rows = [json.loads(line) for line in (tmp_path / case / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for case in ("8-1", "1-2"):
        for one, other in zip(results[case], results["alone"], strict=True):
            # Not to the bit: sums over 8 parts of a batch round otherwise than one sum.
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


BATCHES = """
import sys
from jaxcnn import data
from jaxcnn.training import Recipe, run
source = data.arrays(image=np.zeros((40, 8, 8, 3), np.uint8), label=np.arange(40) % 3, num_classes=3)
for words, options in (
    ({"batch_size": 6}, {}), ({"batch_size": 8}, {"place": "device"}), ({"batch_size": 8}, {"resume": True})
):
    try:
        run(model, source, Recipe(epochs=1, augment="none", **words), placement=make_placement(4), **options)
    except ValueError as error:
        print(error)
"""


def test_a_run_refuses_what_does_not_fit_its_placement():
    assert run_python(BATCHES).splitlines() == [
        "batch_size expects a number that divides over 4 devices, got 6; use 4 or 8, or fewer devices",
        "run expects place='memory' or 'stream' with placement=, which splits each batch, got 'device'",
        "run expects a folder to resume, got resume=True without one",
    ]


MESH = Mesh(np.array(jax.devices()[:1]), ("data",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Placement(MESH, ("batch",)), "axes of the mesh, data, in data_axes, got 'batch'"),
        (lambda: Placement(MESH, rules=((".*", "model"),)), r"axes of the mesh, data, in the rule '\.\*', got 'model'"),
        (lambda: Placement(MESH, rules=(("(", "data"),)), r"expects a regular expression in a rule, got '\('"),
        (lambda: make_placement(0), "expected a number of devices from 1 to 1, which is how many there are, got 0"),
        (lambda: make_placement(2), "from 1 to 1, which is how many there are, got 2; use fewer, or start more"),
        (lambda: make_placement(shard="gradients"), "one of nothing, parameters, got 'gradients'"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rule_that_does_not_fit_names_the_parameter():
    placement = Placement(MESH, rules=(("head/.*", PartitionSpec(None, "data")),))
    with pytest.raises(ValueError, match=r"divide the parameter 'head/bias' of shape \(3,\), got PartitionSpec"):
        placement.spec("head/bias", (3,))
