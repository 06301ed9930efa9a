import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.layers import BatchNorm, Conv, Dense, Function, GlobalAvgPool, Sequential
from jaxcnn.training import init_train_state, make_eval_step, make_predict_step, make_train_step

KNOWN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
UNKNOWN = {"xla_cpu_no_such_option": "1"}
MODEL = Sequential(
    conv=Conv(2, 4), norm=BatchNorm(4), relu=Function(jax.nn.relu), pool=GlobalAvgPool(), head=Dense(4, 3)
)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


@pytest.fixture
def on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("does not apply: the options are those of XLA for CPU")


def batch(examples=4):
    images = np.random.default_rng(0).standard_normal((examples, 6, 6, 2)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.arange(examples) % 3}


def fresh(seed=0):
    return init_train_state(MODEL, OPTIMIZER, jax.random.key(seed))


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def refused(function, *arguments):
    """Whether the compiler saw the option that it does not know."""
    try:
        function(*arguments)
    except RuntimeError as error:
        return "No such compile option" in str(error)
    return False


@pytest.mark.usefixtures("on_cpu")
def test_the_steps_pass_their_options_on():
    examples = batch()
    train_state = fresh()
    params, state = train_state.params, train_state.state
    options = {"compiler_options": UNKNOWN}
    assert refused(make_train_step(MODEL, OPTIMIZER, **options), train_state, examples, jax.random.key(0))
    assert refused(make_eval_step(MODEL, **options), params, state, examples)
    assert refused(make_predict_step(MODEL, **options), params, state, examples["image"])
    lowered = make_train_step(MODEL, OPTIMIZER, **options).lower(train_state, examples, jax.random.key(0))
    assert refused(lowered.compile)


def test_making_a_step_starts_no_device():
    program = """
import jax, optax
from jaxcnn.models import lenet5
from jaxcnn.training import make_eval_step, make_predict_step, make_train_step
make_train_step(lenet5(), optax.sgd(0.1)), make_eval_step(lenet5()), make_predict_step(lenet5())
# jax refuses to set the number of devices once it has started them.
jax.config.update("jax_num_cpu_devices", 3)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.usefixtures("on_cpu")
def test_whole_runs_are_scanned_and_mapped_over_seeds():
    examples = batch()
    train_step = make_train_step(MODEL, OPTIMIZER)

    def run(train_state, key):
        def step(train_state, _):
            return train_step(train_state, examples, key)

        return jax.lax.scan(step, train_state, length=3)

    keys = jax.random.split(jax.random.key(1), 2)
    runs = jax.tree.map(lambda *leaves: jnp.stack(leaves), fresh(0), fresh(1))
    final, metrics = jax.jit(jax.vmap(run), compiler_options=KNOWN)(runs, keys)
    stepped = jax.tree.map(jnp.copy, runs)
    for _ in range(3):
        stepped, _ = jax.vmap(train_step, in_axes=(0, None, 0))(stepped, examples, keys)
    for i in range(2):
        train_state = fresh(i)
        for step in range(3):
            train_state, each = train_step(train_state, examples, keys[i])
            assert float(metrics.sums["loss"].total[i, step]) == pytest.approx(float(each.sums["loss"].total), rel=1e-4)
        for many in (final, stepped):
            assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], many), train_state)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("options", [{}, KNOWN], ids=["none", "known"])
def test_the_same_steps_give_the_same_bits(options):
    examples = batch(32)
    results = []
    for _ in range(2):
        train_step = make_train_step(MODEL, OPTIMIZER, compiler_options=options)
        train_state = fresh()
        for _ in range(5):
            train_state, _ = train_step(train_state, examples, jax.random.key(1))
        results.append(train_state)
    assert_equal(*results)
