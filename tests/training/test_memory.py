"""What a step needs in memory, and the message where there is too little."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from jaxcnn import data
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.models import lenet5
from jaxcnn.training import OutOfMemoryError, Recipe, init_train_state, make_train_step, run, runs
from jaxcnn.training.memory import memory_of_step

ROOT = Path(__file__).parents[2]
NO_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes."


def measured(layer, shape, *, micro_batches=1, ema=False, **options):
    optimizer = optax.adam(1e-3)
    key = jax.eval_shape(lambda: jax.random.key(0))
    train_state = jax.eval_shape(lambda: init_train_state(layer, optimizer, jax.random.key(0), ema=ema))
    batch = {"image": jax.ShapeDtypeStruct(shape, np.uint8), "label": jax.ShapeDtypeStruct(shape[:1], np.int32)}
    step = make_train_step(layer, optimizer, micro_batches=micro_batches, ema=0.9 if ema else None, **options)
    return memory_of_step(step.parts, train_state, batch, key), (step, train_state, batch, key)


def test_the_parts_are_counted():
    layer = Sequential(flatten=Flatten(), hidden=Dense(36, 100), head=Dense(100, 2))
    count = 36 * 100 + 100 + 100 * 2 + 2
    found, _ = measured(layer, (50, 6, 6, 1), ema=True)
    assert found["parameters"] == found["gradients"] == found["averages"] == 4 * count
    # The two moments of Adam, and its counter.
    assert found["optimizer"] == 8 * count + 4
    # Pixels as bytes and as numbers, and two times the labels.
    assert found["batch"] == 50 * 36 * (1 + 4) + 2 * 50 * 4
    # The inputs of both layers, at least.
    assert found["activations"] >= 50 * (36 + 100) * 4


def test_activations_are_those_of_a_micro_batch():
    whole, _ = measured(lenet5(), (64, 32, 32, 1))
    half, _ = measured(lenet5(), (64, 32, 32, 1), micro_batches=2)
    assert half["activations"] == pytest.approx(whole["activations"] / 2, rel=0.02)
    assert half["parameters"] == whole["parameters"]


def test_the_estimate_is_of_the_size_of_what_xla_needs():
    found, (step, *arguments) = measured(lenet5(), (64, 32, 32, 1))
    with jax.numpy_dtype_promotion("standard"):
        needed = step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    assert needed / 1.5 < found["activations"] < 3 * needed


@pytest.fixture
def stripes():
    images = np.random.default_rng(0).uniform(size=(60, 6, 6, 1)).astype(np.float32)
    return data.arrays(image=images, label=np.arange(60) % 2, class_names=["a", "b"])


def trained(stripes, **options):
    recipe = Recipe(epochs=2, batch_size=12, augment="none", **options)
    with jax.numpy_dtype_promotion("standard"):
        return run(Sequential(flatten=Flatten(), head=Dense(36, 2)), stripes, recipe)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(jax.errors.JaxRuntimeError(NO_MEMORY), NO_MEMORY.rstrip(".")), (MemoryError(), "out of memory")],
)
def test_a_step_without_memory_says_what_it_needs_and_what_to_try(stripes, monkeypatch, error, reason):
    def fit(*arguments, **options):
        raise error

    monkeypatch.setattr(runs, "fit", fit)
    with pytest.raises(OutOfMemoryError) as caught:
        trained(stripes, micro_batches=2)
    message = str(caught.value)
    assert message.startswith(
        f"expected enough memory for a training step of 12 images of 6x6x1, got: {reason}. It needs up to about "
    )
    assert "parameters 0.0 MB, gradients 0.0 MB, optimizer 0.0 MB, batch 0.0 MB, activations 0.0 MB" in message
    assert message.endswith(
        ". Try micro_batches 4, which computes the batch in equal parts, a smaller batch_size, precision bfloat16, "
        "smaller images, or more devices"
    )


def test_an_evaluation_without_memory_says_so(stripes, monkeypatch):
    def evaluate(*arguments, **options):
        raise jax.errors.JaxRuntimeError(NO_MEMORY)

    monkeypatch.setattr(runs, "evaluate", evaluate)
    message = (
        "enough memory for the evaluation of 12 images of 6x6x1 at once, got: RESOURCE_EXHAUSTED: .* Try precision"
    )
    with pytest.raises(OutOfMemoryError, match=message):
        trained(stripes)


def test_another_error_of_the_runtime_passes(stripes, monkeypatch):
    def fit(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setattr(runs, "fit", fit)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a fault"):
        trained(stripes)


LIMITED = """
import resource, sys
import jax.numpy as jnp
from jaxcnn.cli import main
jnp.zeros(3).block_until_ready()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 10**9
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is that of Linux")
def test_a_real_limit_ends_in_one_message_with_options(tmp_path):
    words = [
        "train",
        "--model",
        "resnet20",
        "--epochs",
        "1",
        "--batch-size",
        "1024",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "a training step of 1024 images of 32x32x1, got: RESOURCE_EXHAUSTED: Out of memory allocating" in line
    assert "Try --micro-batches 2, which computes the batch in equal parts, a smaller --batch-size, --precision" in line
    assert f"there is no checkpoint yet in {tmp_path / 'run'}" in line
