import subprocess
import sys
import threading

import jax
import jax.export
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import pytest

import jaxcnn
from jaxcnn import compiler
from jaxcnn.compiler import Measured, TopLevelJit, compiler_options
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
        pytest.skip("the options are those of XLA for CPU")


def measured(options, since=(0,), before=(99,), platform="cpu"):
    return (Measured(platform, since, before, options),)


@pytest.fixture
def unknown_by_default(monkeypatch):
    """Makes a refusal by the compiler show that the steps pass on what `compiler_options` returns."""
    monkeypatch.setattr(compiler, "compiler_options", lambda: UNKNOWN)


def batch(examples=4):
    images = np.random.default_rng(0).standard_normal((examples, 6, 6, 2)).astype(np.float32)
    return jnp.asarray(images), jnp.arange(examples) % 3


def fresh(seed=0):
    return init_train_state(MODEL, OPTIMIZER, jax.random.key(seed))


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# compiler_options


@pytest.mark.parametrize("platform", [None, "cpu", "gpu", "tpu", "cuda", "rocm"])
def test_the_options_compile(platform):
    options = jaxcnn.compiler_options(platform)
    assert isinstance(options, dict)
    if platform in (None, jax.default_backend()):
        np.testing.assert_array_equal(jax.jit(jnp.negative, compiler_options=options)(jnp.ones(3)), -np.ones(3))


def test_an_unknown_platform_is_refused():
    with pytest.raises(ValueError, match=r"expects a platform among \('cpu', 'gpu', .*\), got 'cpuu'"):
        compiler_options("cpuu")


@pytest.mark.usefixtures("on_cpu")
def test_the_default_is_the_platform_of_the_default_device(monkeypatch):
    monkeypatch.setattr(compiler, "MEASURED", measured(KNOWN))
    assert compiler_options() == compiler_options("cpu") == KNOWN
    assert compiler_options("tpu") == {}


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "refused",
    [UNKNOWN, {"xla_cpu_experimental_ynn_fusion_type": "NO_SUCH_TYPE"}, {**KNOWN, **UNKNOWN}],
    ids=["unknown name", "unknown value", "one of two"],
)
def test_options_that_the_compiler_refuses_are_left_out(monkeypatch, refused):
    with pytest.raises(RuntimeError):
        jax.jit(jnp.negative, compiler_options=refused)(1.0)
    monkeypatch.setattr(compiler, "MEASURED", measured(refused))
    assert compiler_options("cpu") == {}


def test_a_platform_that_this_machine_lacks_has_no_options(monkeypatch):
    if jax.default_backend() == "tpu":
        pytest.skip("does not apply: there is a TPU")
    monkeypatch.setattr(compiler, "MEASURED", measured(KNOWN, platform="tpu"))
    assert compiler_options("tpu") == {}


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("since", "before", "expected"),
    [
        ((0, 11), (0, 13), KNOWN),
        ((0, 12, 3), (0, 12, 4), KNOWN),
        ((0, 12, 4), (0, 13), {}),
        ((0, 11), (0, 12, 3), {}),
        ((0, 11), (0, 12), {}),
    ],
)
def test_options_go_by_the_version_of_jaxlib(monkeypatch, since, before, expected):
    monkeypatch.setattr(jaxlib.version, "__version_info__", (0, 12, 3))
    monkeypatch.setattr(compiler, "MEASURED", measured(KNOWN, since, before))
    assert compiler_options("cpu") == expected


@pytest.mark.usefixtures("on_cpu")
def test_the_options_are_the_callers_own(monkeypatch):
    monkeypatch.setattr(compiler, "MEASURED", measured(KNOWN))
    compiler_options("cpu").update(UNKNOWN)
    assert compiler_options("cpu") == KNOWN


@pytest.mark.usefixtures("on_cpu")
def test_the_compiler_is_asked_once_also_within_a_program(monkeypatch):
    asked, ask = [], compiler._accepted.__wrapped__
    accepted = compiler.functools.cache(lambda *question: asked.append(question) or ask(*question))
    monkeypatch.setattr(compiler, "_accepted", accepted)
    monkeypatch.setattr(compiler, "MEASURED", measured(KNOWN))
    found = []
    jax.jit(lambda x: found.append(compiler_options("cpu")) or x)(1.0)
    assert [*found, compiler_options("cpu"), compiler_options()] == 3 * [KNOWN]
    assert len(asked) == 1


def test_importing_within_a_program_does_not_mistake_it_for_the_top_level():
    program = """
import jax
def load(x):
    import jaxcnn.compiler
    return x
jax.jit(load)(1.0)
from jaxcnn.compiler import TopLevelJit
step = TopLevelJit(lambda x: -x, compiler_options={"xla_cpu_no_such_option": "1"})
assert jax.jit(step)(1.0) == -1.0
try:
    step(1.0)
except RuntimeError as error:
    assert "No such compile option" in str(error), error
else:
    raise AssertionError("the options were not passed on")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


# TopLevelJit


def refused(function, *arguments):
    """Whether the compiler saw the option that it does not know."""
    try:
        function(*arguments)
    except RuntimeError as error:
        return "No such compile option" in str(error)
    return False


@pytest.mark.usefixtures("on_cpu")
def test_options_hold_at_the_top_level():
    negate = TopLevelJit(jnp.negative, compiler_options=UNKNOWN)
    x = jnp.ones(3)
    assert refused(negate, x)
    assert refused(negate.lower(x).compile)
    assert refused(negate.trace(x).lower().compile)
    found = []
    thread = threading.Thread(target=lambda: found.append(refused(negate, x)))
    thread.start()
    thread.join()
    assert found == [True]


def cube(x):
    return x**3


def repeat(function, x):
    return jax.lax.scan(lambda carry, _: (function(carry), None), x, length=2)[0]


TRANSFORMS = {
    "jit": lambda f: jax.jit(f),
    "constant argument": lambda f: lambda x: jax.jit(lambda: f(np.asarray(x)))(),
    "vmap": lambda f: jax.vmap(f),
    "jit of vmap": lambda f: jax.jit(jax.vmap(f)),
    "vmap of jit": lambda f: jax.vmap(jax.jit(f)),
    "grad": lambda f: jax.grad(lambda x: jnp.sum(f(x))),
    "jit of grad": lambda f: jax.jit(jax.grad(lambda x: jnp.sum(f(x)))),
    "hessian": lambda f: jax.hessian(lambda x: jnp.sum(f(x))),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
    "checkpoint": lambda f: jax.grad(lambda x: jnp.sum(jax.checkpoint(f)(x))),
    "scan": lambda f: lambda x: repeat(f, x),
    "jit of scan": lambda f: jax.jit(lambda x: repeat(f, x)),
    "loop": lambda f: lambda x: jax.lax.fori_loop(0, 2, lambda _, carry: f(carry), x),
    "branch": lambda f: lambda x: jax.lax.cond(jnp.sum(x) > 0, f, jnp.negative, x),
    "itself": lambda f: TopLevelJit(lambda x: f(x) + 1, compiler_options=KNOWN),
}


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("transform", list(TRANSFORMS.values()), ids=list(TRANSFORMS))
@pytest.mark.parametrize("options", [UNKNOWN, KNOWN], ids=["unknown", "known"])
def test_it_works_within_every_transform_and_leaves_its_options_out(transform, options):
    x = jnp.array([0.5, -1.5, 2.0])
    jitted = TopLevelJit(cube, compiler_options=options)
    actual = transform(jitted)(x)
    assert_close(actual, transform(cube)(x))


@pytest.mark.usefixtures("on_cpu")
def test_jax_itself_refuses_options_within_another_program():
    """If this fails, JAX allows it, and `TopLevelJit` can be a plain `jax.jit`."""
    with pytest.raises(ValueError, match="can only be passed to top-level"):
        jax.jit(jax.jit(cube, compiler_options=KNOWN))(1.0)


@pytest.mark.usefixtures("on_cpu")
def test_the_options_of_the_outer_program_hold():
    inner = TopLevelJit(cube, compiler_options=KNOWN)
    assert refused(jax.jit(lambda x: inner(x), compiler_options=UNKNOWN), 1.0)


def test_without_jit_it_is_the_function():
    with jax.disable_jit():
        assert TopLevelJit(lambda x: [x][0] if x > 1 else None, compiler_options=KNOWN)(2) == 2


def test_arguments_are_donated_and_a_second_call_does_not_trace_again():
    traces = []
    jitted = TopLevelJit(lambda x: traces.append(x) or x + 1, donate_argnums=0)
    x = jnp.zeros(3)
    y = jitted(x)
    assert x.is_deleted()
    np.testing.assert_array_equal(jitted(y), [2, 2, 2])
    assert len(traces) == 1


def test_it_keeps_name_and_docstring_of_its_function():
    assert TopLevelJit(cube).__name__ == "cube"
    assert TopLevelJit(compiler_options).__doc__ == compiler_options.__doc__


def test_it_is_lowered_for_other_platforms_and_exported():
    jitted = TopLevelJit(cube, compiler_options=KNOWN)
    assert isinstance(jitted, jax.stages.Wrapped)
    for platform in ("tpu", "cuda"):
        assert "multiply" in jitted.trace(jnp.ones(3)).lower(lowering_platforms=(platform,)).as_text()
    exported = jax.export.export(jitted, platforms=("cpu", "tpu", "cuda"))(jnp.ones(3))
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("cpu", "tpu", "cuda")
    if jax.default_backend() != "cpu":
        return
    jitted = jax.jit(again.call, compiler_options=KNOWN)
    np.testing.assert_array_equal(jitted(jnp.full(3, 2.0)), [8, 8, 8])


# The steps of jaxcnn.training


@pytest.mark.usefixtures("on_cpu", "unknown_by_default")
def test_the_steps_pass_on_the_options_of_compiler_options():
    images, labels = batch()
    train_state, mask = fresh(), jnp.ones(4, bool)
    params, state = train_state.params, train_state.state
    assert refused(make_train_step(MODEL, OPTIMIZER), train_state, images, labels, jax.random.key(0))
    assert refused(make_eval_step(MODEL), params, state, images, labels, mask)
    assert refused(make_predict_step(MODEL), params, state, images)


@pytest.mark.usefixtures("on_cpu")
def test_the_steps_pass_on_options_of_ones_own():
    images, labels = batch()
    train_state, mask = fresh(), jnp.ones(4, bool)
    params, state = train_state.params, train_state.state
    options = {"compiler_options": UNKNOWN}
    assert refused(make_train_step(MODEL, OPTIMIZER, **options), train_state, images, labels, jax.random.key(0))
    assert refused(make_eval_step(MODEL, **options), params, state, images, labels, mask)
    assert refused(make_predict_step(MODEL, **options), params, state, images)


@pytest.mark.usefixtures("on_cpu", "unknown_by_default")
def test_no_options_are_options_of_ones_own():
    images, _ = batch()
    train_state = fresh()
    assert not refused(make_predict_step(MODEL, compiler_options={}), train_state.params, train_state.state, images)


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
    images, labels = batch()
    train_step = make_train_step(MODEL, OPTIMIZER, compiler_options=KNOWN)

    def run(train_state, key):
        def step(train_state, _):
            return train_step(train_state, images, labels, key)

        return jax.lax.scan(step, train_state, length=3)

    keys = jax.random.split(jax.random.key(1), 2)
    runs = jax.tree.map(lambda *leaves: jnp.stack(leaves), fresh(0), fresh(1))
    final, metrics = jax.jit(jax.vmap(run), compiler_options=KNOWN)(runs, keys)
    stepped = jax.tree.map(jnp.copy, runs)
    for _ in range(3):
        stepped, _ = jax.vmap(train_step, in_axes=(0, None, None, 0))(stepped, images, labels, keys)
    for i in range(2):
        train_state = fresh(i)
        for step in range(3):
            train_state, each = train_step(train_state, images, labels, keys[i])
            assert float(metrics.loss[i, step]) == pytest.approx(float(each.loss), rel=1e-4)
        for many in (final, stepped):
            assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], many), train_state)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("options", [{}, KNOWN], ids=["none", "known"])
def test_the_same_steps_give_the_same_bits(options):
    images, labels = batch(32)
    results = []
    for _ in range(2):
        train_step = make_train_step(MODEL, OPTIMIZER, compiler_options=options)
        train_state = fresh()
        for _ in range(5):
            train_state, _ = train_step(train_state, images, labels, jax.random.key(1))
        results.append(train_state)
    assert_equal(*results)
