"""Where the first NaN or infinity of a step appears."""

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import data, trees
from jaxcnn.layers import Composite, Dense, Dropout, Flatten, Function, Sequential
from jaxcnn.tasks import Classification
from jaxcnn.training import (
    NonFiniteLossError,
    Observer,
    Recipe,
    make_train_state,
    make_train_step,
    run,
    runs,
)
from jaxcnn.training.non_finite import find_cause
from jaxcnn.types import Layer, Mean

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
SLOWER = "lower the learning rate, warm it up or clip the gradients"


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def model(**layers):
    return Sequential(flatten=Flatten(), hidden=Dense(36, 8), **layers, head=Dense(8, 2))


def batch(count=4):
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(0, 1, (count, 6, 6, 1)).astype(np.float32),
        "label": np.arange(count, dtype=np.int32) % 2,
    }


def cause(layer, examples=None, *, change=None, optimizer=SGD, **options):
    params, state = layer.init(KEY)
    params = trees.unflatten(trees.flatten(params) | (change or {}), params)
    parts = make_train_step(layer, optimizer, **options).parts
    return find_cause(parts, make_train_state(params, state, optimizer), examples or batch(), KEY)


def log(x):
    return jnp.log(x)


def root(x):
    return x + jnp.sqrt(jnp.square(0 * x))


def test_a_step_of_finite_numbers_points_to_the_machine():
    found = cause(model(relu=Function(jax.nn.relu)))
    assert found.where.startswith("the same step, computed once more from the same numbers, is finite: the device")
    assert found.advice == "resume the run, and test the machine if this happens again"


def test_examples_that_are_not_finite_are_named():
    examples = batch(8)
    for place in (1, 3, 4, 6):
        examples["image"][place, 2, 3] = np.inf
    found = cause(model(), examples)
    assert found.where == ("'image' of examples 1, 3, 4 and 1 more holds NaN or infinity before the step")
    assert found.advice == "remove these examples from the data, or repair them"


def test_parameters_that_are_not_finite_before_the_step_are_named():
    found = cause(model(), change={"hidden/kernel": jnp.full((36, 8), jnp.nan), "head/bias": jnp.full(2, jnp.inf)})
    assert found.where == "the parameter 'head/bias', 'hidden/kernel' holds NaN or infinity before the step"
    assert found.advice == "start from weights that are finite"


def augment(key, example):
    return example | {"image": jnp.where(example["label"] == 1, jnp.nan, example["image"])}


def test_images_that_the_augmentation_spoils_are_named():
    found = cause(model(), augment=augment)
    assert found.where == "the augmentation makes 'image' of examples 1, 3 NaN or infinite"


def mix(key, examples):
    return examples | {"image": examples["image"].at[2].set(jnp.inf)}


def test_images_that_mixing_spoils_are_named():
    found = cause(model(), mix=mix)
    assert found.where == "the mixing of images makes 'image' of example 2 NaN or infinite"


def hidden(layer, examples, places):
    """The inputs of the layer after "hidden", by NumPy."""
    params, _ = layer.init(KEY)
    images = examples["image"][places].reshape(len(places), -1)
    return images @ np.asarray(params["hidden"]["kernel"]) + np.asarray(params["hidden"]["bias"])


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_first_layer_is_named_with_the_range_of_its_inputs(micro_batches):
    layer = model(log=Function(log), again=Function(log))
    examples = batch(8)
    found = cause(layer, examples, micro_batches=micro_batches)
    values = hidden(layer, examples, range(8))
    bad = np.flatnonzero((values < 0).any(1))
    assert len(bad) > 0
    listed = ", ".join(map(str, bad[:3])) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    assert found.where == (
        f"layer 'log' (Function) makes NaN or infinity of inputs from {values.min():.3g} to {values.max():.3g}, for "
        f"example{'s' * (len(bad) > 1)} {listed}"
    )
    assert found.advice == SLOWER


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_single_example_of_a_batch_is_named(micro_batches):
    # The others have pixels below 1.
    examples = batch(6)
    examples["image"][4] = 7.0
    layer = Sequential(overflow=Function(overflow), flatten=Flatten(), head=Dense(36, 2))
    found = cause(layer, examples, micro_batches=micro_batches)
    assert found.where.startswith("layer 'overflow' (Function) makes NaN or infinity of inputs from ")
    assert found.where.endswith(" to 7, for example 4")


def overflow(x):
    return jnp.exp(x * x * x)


def test_the_range_of_the_parameters_of_a_layer_is_told():
    kernel = jnp.full((36, 8), 3e38).at[0, 0].set(-2.0)
    found = cause(model(), change={"hidden/kernel": kernel})
    assert found.where.startswith("layer 'hidden' (Dense) makes NaN or infinity of inputs from 0.0")
    assert " and parameters from -2 to 3e+38, for examples 0, 1, 2 and 1 more" in found.where


def test_a_computation_in_half_precision_overflows_where_it_does():
    found = cause(model(), change={"hidden/kernel": jnp.full((36, 8), 60000.0)}, precision="float16")
    assert found.where.startswith("layer 'hidden' (Dense) makes NaN or infinity of inputs from ")


@dataclass(frozen=True, repr=False)
class Quotient(Composite):
    """Divides by zero before its second layer, or after it."""

    first: Layer
    second: Layer
    early: bool

    def forward(self, run, x):
        y = run.first(x)
        y = run.second(y / (y - y) if self.early else y)
        return y if self.early else y / (y - y)


@pytest.mark.parametrize(
    ("early", "where"),
    [(True, "before its layer 'quotient/second', makes"), (False, "after its last layer, makes")],
)
def test_the_arithmetic_of_a_composite_is_told_from_its_layers(early, where):
    found = cause(model(quotient=Quotient(Dense(8, 8), Dense(8, 8), early)))
    assert found.where.startswith(f"the forward of layer 'quotient' (Quotient), {where} NaN or infinity of inputs from")


def test_a_model_without_layers_inside_is_named_as_a_whole():
    @dataclass(frozen=True)
    class Own:
        def init(self, key):
            return {"kernel": jnp.ones(36)}, {}

        def apply(self, params, state, x, *, train, key=None):
            return jnp.log(-params["kernel"] * x.reshape(-1))[:2], state

    found = cause(Own())
    assert found.where.startswith("the model (Own) makes NaN or infinity of inputs from ")


@dataclass(frozen=True)
class Spoiled(Classification):
    """A loss that is infinite for the examples of class 1."""

    def loss(self, outputs, batch):
        loss = super().loss(outputs, batch)
        return loss._replace(total=loss.total + jnp.where(batch["label"] == 1, jnp.inf, 0.0).sum())


def test_examples_whose_loss_is_not_finite_are_named():
    found = cause(model(), task=Spoiled())
    assert found.where.startswith(
        "the loss of examples 1, 3 is not finite, though the model gives finite numbers, from "
    )
    assert found.advice == "make sure that the labels are in [0, num_classes), or lower the learning rate"


def test_a_label_out_of_range_is_found():
    examples = batch()
    examples["label"][2] = 5
    assert cause(model(), examples).where.startswith("the loss of example 2 is not finite")


def test_a_loss_of_all_examples_that_is_not_finite_is_told():
    @dataclass(frozen=True)
    class Together(Classification):
        def loss(self, outputs, batch):
            loss = super().loss(outputs, batch)
            return loss._replace(total=loss.total / (0.0 if len(batch["label"]) > 1 else 1.0))

    assert cause(model(), task=Together()).where.startswith("the loss of all examples is not finite, though the model")


def test_gradients_alone_are_told_in_the_order_of_the_backward_pass():
    # The root has an infinite slope at zero. The head comes after it.
    layer = Sequential(
        flatten=Flatten(), early=Dense(36, 16), hidden=Dense(16, 8), root=Function(root), head=Dense(8, 2)
    )
    found = cause(layer)
    assert found.where == (
        "only gradients are not finite: in the order of the backward pass first that of 'hidden/bias', and then those "
        "of 'early/bias', 'early/kernel', 'hidden/kernel' (4 of 6 arrays)"
    )
    assert found.advice == SLOWER


def test_an_update_of_finite_gradients_that_is_too_large_is_told():
    found = cause(model(), optimizer=optax.chain(optax.scale(1e30), optax.sgd(1e30)))
    assert found.where.startswith("the optimizer's update makes ")
    assert "not finite, though all gradients are, up to " in found.where


def test_running_moments_that_become_infinite_are_told():
    @dataclass(frozen=True)
    class Counter:
        def init(self, key):
            return {}, {"mean": jnp.full((), 3e38)}

        def apply(self, params, state, x, *, train, key=None):
            return x, {"mean": state["mean"] * 10}

    assert cause(model(count=Counter())).where == "the step makes the running moment 'count/mean' not finite"


def test_random_numbers_are_those_of_the_step():
    """The layer overflows only for the images that dropout keeps: the same as in the step itself."""
    layer = Sequential(flatten=Flatten(), drop=Dropout(0.97), big=Function(big), head=Dense(36, 2))
    examples = batch(16)
    params, state = layer.init(KEY)
    parts = make_train_step(layer, optax.sgd(0.1)).parts
    train_state = make_train_state(params, state, optax.sgd(0.1), step=3)
    found = find_cause(parts, train_state, examples, KEY)
    prepared = parts.prepare(train_state, examples, KEY)
    outputs, _ = parts.forward.outputs(params, state, prepared.batch, prepared.key)
    bad = np.flatnonzero(~np.isfinite(outputs).all(1))
    assert 0 < len(bad) < 16
    listed = ", ".join(map(str, bad[:3]))
    assert f", for example{'s' * (len(bad) > 1)} {listed}" in found.where


def big(x):
    return jnp.where(x != 0, jnp.inf, x)


RECIPE = Recipe(epochs=4, batch_size=10, learning_rate=0.05, augment="none", checkpoint_epochs=2, ema=0.9)


class Spoil:
    """Spoils the batch of a step, and keeps what `find_cause` is given."""

    def __init__(self, monkeypatch, step):
        self.given, original, find = None, data.Batches.at, runs.find_cause

        def at(batches, steps):
            for number, one in zip(steps, original(batches, steps), strict=True):
                yield one | {"image": one["image"] * np.float32(np.nan if number == step - 1 else 1)}

        def found(parts, train_state, *rest):
            self.given = jax.tree.map(np.array, train_state)
            return find(parts, train_state, *rest)

        monkeypatch.setattr(data.Batches, "at", at)
        monkeypatch.setattr(runs, "find_cause", found)


class Stop(Observer):
    def __init__(self, step):
        self.step, self.state, self.doing = step, None, []

    def on_step(self, progress, images_per_second):
        if progress.step == self.step:
            self.state = jax.tree.map(np.array, progress.train_state)
            return True
        return False

    def on_activity(self, activity):
        self.doing.append(activity)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("step", "folder", "change", "kept"),
    [
        (15, True, {}, "the checkpoint of step 12 is kept in "),
        pytest.param(13, True, {}, "the checkpoint of step 12 is kept in ", marks=pytest.mark.slow),
        pytest.param(8, True, {}, "there is no checkpoint yet in ", marks=pytest.mark.slow),
        (8, False, {}, None),
        pytest.param(15, True, {"micro_batches": 2}, "the checkpoint of step 12 is kept in ", marks=pytest.mark.slow),
        pytest.param(
            15,
            True,
            {"freeze": "hidden", "unfreeze_epoch": 2},
            "the checkpoint of step 12 is kept in ",
            marks=pytest.mark.slow,
        ),
        (20, True, {"freeze": "hidden", "unfreeze_epoch": 2}, "the checkpoint of step 12 is kept in "),
        pytest.param(
            15, True, {"mixup": 0.5, "plain_epochs": 2}, "the checkpoint of step 12 is kept in ", marks=pytest.mark.slow
        ),
    ],
)
def test_a_run_repeats_the_steps_before_and_names_the_cause(stripes, tmp_path, monkeypatch, step, folder, change, kept):
    recipe, layer = dataclasses.replace(RECIPE, **change), model(drop=Dropout(0.2))
    where = tmp_path / "run" if folder else None
    undisturbed = Stop(step - 1)
    run(layer, stripes, recipe, observers=[undisturbed])
    spoil, observer = Spoil(monkeypatch, step), Stop(None)
    with pytest.raises(NonFiniteLossError) as error:
        run(layer, stripes, recipe, folder=where, observers=[observer])
    split = data.split(stripes, fractions=recipe.split_fractions, seed=0)["train"]
    first = data.Batches(split, 10, seed=0).indices(step - 1)[:3]
    named = ", ".join(f"{index} of train" for index in first)
    expected = (
        f"expected a finite loss, got nan at step {step}; 'image' of examples {named} and 7 more holds NaN or "
        "infinity before the step; remove these examples from the data, or repair them"
    )
    assert str(error.value) == expected + (f"; {kept}{where}" if kept else "")
    assert error.value.step == step
    assert "repeating the steps since the checkpoint, to find the cause" in observer.doing
    phase_starts = (step - 1) == 12 and change
    if not phase_starts:
        given, true = trees.named_leaves(spoil.given), trees.named_leaves(undisturbed.state)
        assert given.keys() == true.keys()
        for name, leaf in given.items():
            np.testing.assert_array_equal(leaf, true[name], err_msg=name)
    if folder and kept.startswith("the checkpoint"):
        monkeypatch.undo()
        assert run(layer, stripes, recipe, folder=where, resume=True).figures


@pytest.mark.parametrize(("step", "checkpoint_epochs"), [(15, 2), (20, 3)])
def test_a_step_too_far_from_the_last_known_state_is_not_repeated(stripes, monkeypatch, step, checkpoint_epochs):
    spoil = Spoil(monkeypatch, step)
    with pytest.raises(NonFiniteLossError, match="lower the learning rate, warm it up"):
        run(model(), stripes, dataclasses.replace(RECIPE, checkpoint_epochs=checkpoint_epochs))
    assert spoil.given is None


def test_the_loss_of_the_validation_set_is_told_from_that_of_training(stripes, monkeypatch):
    monkeypatch.setattr(runs.Job, "_sums", lambda *arguments: {"loss": data_mean(np.nan), "accuracy": data_mean(0.0)})
    with pytest.raises(NonFiniteLossError, match="expected a finite loss on the validation set, got nan at step 6;"):
        run(model(), stripes, RECIPE)


def data_mean(total):
    return Mean(np.float64(total), np.float64(1.0))


SEVERAL = """
import sys
import jax, numpy as np
from jaxcnn import data
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.training import NonFiniteLossError, Placement, Recipe, make_placement, run

images = np.random.default_rng(0).uniform(size=(60, 6, 6, 1)).astype(np.float32)
source = data.arrays(image=images, label=np.arange(60) % 2, class_names=["a", "b"])
original = data.Batches.at

def at(batches, steps):
    for number, one in zip(steps, original(batches, steps), strict=True):
        yield one | {"image": one["image"] * np.float32(3e38 if number == 4 else 1)}

data.Batches.at = at
recipe = Recipe(epochs=2, batch_size=12, augment="none", ema=0.9, optimizer="sgd", learning_rate=0.01)
model = Sequential(flatten=Flatten(), hidden=Dense(36, 8), head=Dense(8, 2))
explicit = Placement(jax.make_mesh((2,), ("data",)), rules=((".*/kernel", "data"),))
for placement in (make_placement(2, shard="parameters"), explicit):
    try:
        run(model, source, recipe, placement=placement)
    except NonFiniteLossError as error:
        print(error)
"""


def test_several_devices_name_the_cause():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "at step 5; layer 'hidden' (Dense) makes NaN or infinity of inputs from " in line, line
