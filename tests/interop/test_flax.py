import functools
import importlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from flax.core import freeze
from flax.errors import ModifyScopeVariableError

from jaxcnn import batched
from jaxcnn.interop.flax import LayerAsLinen, from_linen, to_linen, to_nnx
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Function,
    GlobalAvgPool,
    LayerNorm,
    MaxPool,
    Residual,
    Sequential,
)

RELU = Function(jax.nn.relu)
IMAGES = jax.random.normal(jax.random.key(1), (4, 6, 6, 3))
LABELS = jnp.array([0, 1, 2, 1])
MODEL = Sequential(
    stem=Sequential(conv=Conv(3, 4, use_bias=False), norm=BatchNorm(4), relu=RELU),
    block=Residual(Sequential(conv=Conv(4, 4), norm=BatchNorm(4)), activation=RELU),
    pool=GlobalAvgPool(),
    head=Dense(4, 3),
)
MIDDLE = Sequential(norm=BatchNorm(3), relu=RELU, conv=Conv(3, 3))
DROPPING = Sequential(flatten=Flatten(), dropout=Dropout(0.5))


def run(layer, params, state, images, *, train, key=None):
    """The layer on a batch, spelled with `jax.vmap` alone."""
    keys = None if key is None else jax.random.split(key, len(images))

    def one(image, key):
        return layer.apply(params, state, image, train=train, key=key)

    return jax.vmap(one, (0, None if key is None else 0), (0, None), axis_name="batch")(images, keys)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def assert_close(actual, expected, rtol=1e-4, atol=1e-5):
    """Equal in structure, close in values; gradients pass through another order of sums, hence the tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


@pytest.fixture(scope="module")
def trained():
    """Parameters and state with nothing at its initial value, and one training step from there."""

    def noisy(tree, key):
        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten([leaf + jax.random.uniform(key, leaf.shape) for leaf in leaves])

    @jax.jit
    def compute():
        params, state = MODEL.init(jax.random.key(0))
        params, state = noisy(params, jax.random.key(2)), noisy(state, jax.random.key(3))

        def loss(params):
            logits, new_state = run(MODEL, params, state, IMAGES, train=True)
            return loss_of(logits), (logits, new_state)

        (_, (logits, new_state)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        evaluated, _ = run(MODEL, params, state, IMAGES, train=False)
        return dict(
            params=params, state=state, evaluated=evaluated, logits=logits, new_state=new_state, gradients=gradients
        )

    return compute()


# From jaxcnn to linen


class Key(nn.Module):
    """Returns the key that a module at the root of a linen model draws first."""

    collection: str

    def __call__(self, *_, **__):
        return self.make_rng(self.collection)


def test_linen_init_draws_the_layers_own_parameters_and_state(key):
    variables = to_linen(MIDDLE).init(key, IMAGES, train=False)
    flax_key, _ = Key("params").init_with_output(key)
    params, state = MIDDLE.init(flax_key)
    assert set(variables) == {"params", "batch_stats"}
    assert_close(variables["params"], params, rtol=0, atol=0)
    assert_close(variables["batch_stats"], state, rtol=0, atol=0)


def test_linen_init_in_training_leaves_the_running_moments_alone(key):
    variables = to_linen(BatchNorm(3)).init(key, IMAGES, train=True)
    assert_close(variables["batch_stats"], {"mean": jnp.zeros(3), "var": jnp.ones(3)}, rtol=0, atol=0)


def test_linen_evaluation_equals_the_layer(trained):
    variables = {"params": trained["params"], "batch_stats": trained["state"]}
    assert_close(to_linen(MODEL).apply(variables, IMAGES, train=False), trained["evaluated"])


def test_linen_training_step_equals_the_layer(trained):
    module = to_linen(MODEL)

    @jax.jit
    def step(params, batch_stats):
        def loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, updates = module.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
            return loss_of(logits), (logits, updates)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (logits, updates)), gradients = step(trained["params"], trained["state"])
    assert_close(logits, trained["logits"])
    assert_close(updates, {"batch_stats": trained["new_state"]})
    assert_close(gradients, trained["gradients"])


@pytest.mark.parametrize(
    "rebuild", [freeze, lambda tree: traverse_util.unflatten_dict(traverse_util.flatten_dict(tree))]
)
def test_linen_accepts_variables_that_flax_froze_or_pruned(trained, rebuild):
    variables = rebuild({"params": trained["params"], "batch_stats": trained["state"]})
    assert jax.tree.structure(variables["params"]) != jax.tree.structure(trained["params"])
    logits, updates = to_linen(MODEL).apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    assert_close(logits, trained["logits"])
    assert_close(jax.tree.leaves(updates), jax.tree.leaves(trained["new_state"]))


def test_linen_names_a_missing_parameter(trained):
    params = {**trained["params"], "head": {"bias": jnp.zeros(3)}}
    with pytest.raises(ValueError, match=r"names \('kernel', 'bias'\), got \('bias',\)"):
        to_linen(MODEL).apply({"params": params, "batch_stats": trained["state"]}, IMAGES, train=False)


class Twice(nn.Module):
    """A jaxcnn layer used twice between linen's own."""

    @nn.compact
    def __call__(self, images, train):
        layer = to_linen(MIDDLE, name="middle")
        x = nn.Conv(3, (1, 1))(images)
        return nn.Dense(3)(layer(layer(x, train=train), train=train).mean(axis=(1, 2)))


def test_linen_module_is_shared_and_trained_inside_another(key):
    module = Twice()
    logits, variables = jax.jit(lambda key: module.init_with_output(key, IMAGES, train=False))(key)
    assert set(variables["params"]) == {"Conv_0", "middle", "Dense_0"}
    assert_close(logits, module.apply(variables, IMAGES, train=False))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        logits, updates = module.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])
        return loss_of(logits), (logits, updates)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def expected(params):
        kernel, bias = params["Conv_0"]["kernel"][0, 0], params["Conv_0"]["bias"]
        x, state = jnp.einsum("bhwi,io->bhwo", IMAGES, kernel) + bias, variables["batch_stats"]["middle"]
        for _ in range(2):
            x, state = run(MIDDLE, params["middle"], state, x, train=True)
        logits = x.mean(axis=(1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        return loss_of(logits), (logits, {"batch_stats": {"middle": state}})

    assert_close(step(variables["params"]), expected(variables["params"]))


def test_linen_module_works_under_remat(trained):
    module = nn.remat(LayerAsLinen, static_argnums=(2,))(MODEL)
    variables = {"params": trained["params"], "batch_stats": trained["state"]}

    def loss(params):
        return loss_of(module.apply({**variables, "params": params}, IMAGES, True, mutable=["batch_stats"])[0])

    assert_close(jax.jit(jax.grad(loss))(trained["params"]), trained["gradients"])


def test_linen_dropout_uses_the_rng(key):
    module, ones = to_linen(DROPPING), jnp.ones((4, 2, 2, 3))
    drop = lambda key: module.apply({}, ones, train=True, rngs={"dropout": key})  # noqa: E731
    flax_key = Key("dropout").apply({}, rngs={"dropout": key})
    expected, _ = run(DROPPING, *DROPPING.init(key), ones, train=True, key=flax_key)
    np.testing.assert_array_equal(drop(key), expected)
    assert (drop(key) != drop(jax.random.key(1))).any()
    assert len({tuple(row) for row in np.asarray(drop(key))}) > 1
    np.testing.assert_array_equal(module.apply({}, ones, train=False), jnp.ones((4, 12)))


def test_linen_dropout_without_rng_says_what_to_pass():
    with pytest.raises(ValueError, match="expects a key, got None") as caught:
        to_linen(DROPPING).apply({}, IMAGES, train=True)
    assert any("pass rngs={'dropout': key} to module.apply" in note for note in caught.value.__notes__)


def test_linen_initialises_in_training_from_the_key_for_parameters(key):
    assert jax.tree.leaves(to_linen(DROPPING).init(key, IMAGES, train=True)) == []


def test_linen_training_needs_mutable_statistics_only_where_there_are_some(trained, key):
    with pytest.raises(ModifyScopeVariableError, match="batch_stats"):
        to_linen(MODEL).apply({"params": trained["params"], "batch_stats": trained["state"]}, IMAGES, train=True)
    stateless = to_linen(Sequential(pool=MaxPool(), norm=LayerNorm(3)))
    variables = stateless.init(key, IMAGES, train=False)
    assert stateless.apply(variables, IMAGES, train=True).shape == (4, 3, 3, 3)


def test_linen_layer_at_the_root_keeps_its_leaves(key):
    variables = to_linen(BatchNorm(3, unbiased=False)).init(key, IMAGES, train=False)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"scale": (3,), "bias": (3,)}
    native = nn.BatchNorm(use_running_average=False, momentum=0.9)
    outputs, updates = to_linen(BatchNorm(3, unbiased=False)).apply(
        variables, IMAGES, train=True, mutable=["batch_stats"]
    )
    native_outputs, native_updates = native.apply(variables, IMAGES, mutable=["batch_stats"])
    assert_close(outputs, native_outputs)
    assert_close(updates, native_updates)


def test_linen_takes_another_axis_name(key):
    module = to_linen(BatchNorm(3, axis_name="images"), axis_name="images")
    variables = module.init(key, IMAGES, train=False)
    outputs, _ = module.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs.mean(axis=(0, 1, 2)), 0, atol=1e-5)


def test_linen_modules_are_values():
    assert to_linen(MODEL) == to_linen(MODEL)
    assert hash(to_linen(MODEL)) == hash(to_linen(MODEL))
    assert to_linen(MODEL) != to_linen(DROPPING)


def test_linen_tabulate_counts_the_parameters(key):
    table = to_linen(Sequential(conv=Conv(3, 4))).tabulate(key, IMAGES, train=False)
    assert "112" in table


@pytest.mark.parametrize("wrong", [3, Conv, nn.Dense(3)])
def test_only_layers_become_flax_modules(wrong):
    with pytest.raises(TypeError, match="to_linen expects a jaxcnn layer"):
        to_linen(wrong)
    with pytest.raises(TypeError, match="to_nnx expects a jaxcnn layer"):
        to_nnx(wrong, nnx.Rngs(0))


# From jaxcnn to nnx


def filled_nnx(trained):
    model = to_nnx(MODEL, nnx.Rngs(0))
    nnx.update(model, {"params": trained["params"], "state": trained["state"]})
    return model


def test_nnx_draws_the_layers_own_parameters_and_state():
    model = to_nnx(MIDDLE, nnx.Rngs(0))
    params, state = MIDDLE.init(nnx.Rngs(0).params())
    assert_close(model.to_jaxcnn(), (params, state), rtol=0, atol=0)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == len(jax.tree.leaves(params))
    assert len(jax.tree.leaves(nnx.state(model, nnx.BatchStat))) == len(jax.tree.leaves(state))


def test_nnx_evaluation_equals_the_layer_and_leaves_the_state(trained):
    model = filled_nnx(trained)
    model.eval()
    assert_close(model(IMAGES), trained["evaluated"])
    assert_close(model.to_jaxcnn(), (trained["params"], trained["state"]), rtol=0, atol=0)


def test_nnx_training_step_equals_the_layer_and_updates_the_state_in_place(trained):
    model = filled_nnx(trained)

    @nnx.jit
    def step(model):
        def loss(model):
            logits = model(IMAGES)
            return loss_of(logits), logits

        return nnx.value_and_grad(loss, has_aux=True)(model)

    (_, logits), gradients = step(model)
    assert_close(logits, trained["logits"])
    assert_close(jax.tree.leaves(nnx.to_pure_dict(gradients)), jax.tree.leaves(trained["gradients"]))
    assert_close(model.to_jaxcnn()[1], trained["new_state"])


def test_nnx_optimizer_reaches_the_parameters_that_optax_reaches():
    tx = optax.sgd(0.1, momentum=0.9)
    model = to_nnx(MODEL, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params, state = model.to_jaxcnn()
    opt_state = tx.init(params)

    @nnx.jit
    def nnx_step(model, optimizer):
        gradients = nnx.grad(lambda model: loss_of(model(IMAGES)))(model)
        optimizer.update(model, gradients)

    @jax.jit
    def optax_step(params, state, opt_state):
        def loss(params):
            logits, new_state = run(MODEL, params, state, IMAGES, train=True)
            return loss_of(logits), new_state

        gradients, state = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state

    start = params
    for _ in range(3):
        nnx_step(model, optimizer)
        params, state, opt_state = optax_step(params, state, opt_state)
    assert jnp.abs(params["head"]["kernel"] - start["head"]["kernel"]).max() > 0.01
    assert_close(model.to_jaxcnn(), (params, state))


def test_nnx_mode_follows_train_eval_view_and_the_argument(trained):
    model = filled_nnx(trained)
    model.eval()
    assert_close(model(IMAGES, train=True), trained["logits"])
    assert_close(nnx.view(model, deterministic=False, use_running_average=False)(IMAGES), model(IMAGES, train=True))
    model.train()
    assert_close(model(IMAGES), trained["logits"])
    nnx.update(model, {"state": trained["state"]})
    assert_close(model(IMAGES, train=False), trained["evaluated"])


def test_nnx_refuses_half_a_mode(trained):
    model = filled_nnx(trained)
    model.set_attributes(deterministic=True)
    with pytest.raises(ValueError, match="to be equal, got True and False; call train\\(\\) or eval\\(\\)"):
        model(IMAGES)


def test_nnx_dropout_draws_from_its_stream():
    ones = jnp.ones((4, 2, 2, 3))
    model = to_nnx(DROPPING, nnx.Rngs(params=0, dropout=7))
    first, second = model(ones), model(ones)
    assert (first != second).any()
    stream = nnx.Rngs(dropout=7).dropout.fork()
    expected, _ = run(DROPPING, *DROPPING.init(jax.random.key(0)), ones, train=True, key=stream())
    np.testing.assert_array_equal(first, expected)
    assert (to_nnx(DROPPING, nnx.Rngs(params=0, dropout=8))(ones) != first).any()
    model.eval()
    np.testing.assert_array_equal(model(ones), jnp.ones((4, 12)))


def test_nnx_needs_a_dropout_stream_only_where_a_layer_draws():
    assert to_nnx(Conv(3, 2), nnx.Rngs(params=0))(IMAGES).shape == (4, 6, 6, 2)
    with pytest.raises(ValueError, match="expects a key, got None") as caught:
        to_nnx(DROPPING, nnx.Rngs(params=0))(IMAGES)
    assert any("give to_nnx an nnx.Rngs with 'dropout'" in note for note in caught.value.__notes__)


def test_nnx_module_works_inside_another():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.body = to_nnx(Sequential(conv=Conv(3, 3), norm=BatchNorm(3), pool=GlobalAvgPool()), rngs)
            self.head = nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, images):
            return self.head(self.body(images))

    model = Model(nnx.Rngs(0))
    gradients = nnx.jit(nnx.grad(lambda model: loss_of(model(IMAGES))))(model)
    assert jnp.abs(gradients["body"]["params"]["conv"]["kernel"][...]).max() > 0
    model.eval()
    mean = model.body.state["norm"]["mean"][...]
    assert jnp.abs(mean).max() > 0
    assert model(IMAGES).shape == (4, 3)
    np.testing.assert_array_equal(model.body.state["norm"]["mean"][...], mean)


def test_nnx_refuses_a_key_for_rngs(key):
    with pytest.raises(TypeError, match="to_nnx expects rngs to be a flax"):
        to_nnx(MODEL, key)


# From linen to jaxcnn


class CNN(nn.Module):
    """Written for batches, as flax's examples are: its flattening needs the batch axis."""

    axis_name: str | None = "batch"

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(4, (3, 3), strides=(2, 2))(images)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, momentum=0.9)(x)
        x = nn.max_pool(nn.relu(x), (2, 2))
        return nn.Dense(5)(x.reshape((x.shape[0], -1)))


def cnn_layer(axis_name="batch"):
    return from_linen(CNN(axis_name), (6, 6, 3), train_argument="train")


def test_linen_cnn_in_a_sequential_equals_flax_on_the_batch(key):
    model = Sequential(features=cnn_layer(), relu=RELU, head=Dense(5, 3))
    params, state = model.init(key)
    state = jax.tree.map(lambda s: s + jax.random.uniform(jax.random.key(3), s.shape), state)
    assert set(state["features"]) == {"batch_stats"}

    def loss(params):
        logits, new_state = batched(model)(params, state, IMAGES, train=True)
        return loss_of(logits), (logits, new_state)

    def native_loss(params):
        features, updates = CNN(None).apply(
            {"params": params["features"], **state["features"]}, IMAGES, train=True, mutable=["batch_stats"]
        )
        logits = nn.relu(features) @ params["head"]["kernel"] + params["head"]["bias"]
        return loss_of(logits), (logits, {**state, "features": updates})

    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    (_, native_outputs), native_gradients = jax.jit(jax.value_and_grad(native_loss, has_aux=True))(params)
    assert_close(outputs, native_outputs)
    assert_close(gradients, native_gradients)
    assert jnp.abs(outputs[1]["features"]["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0

    features, same_state = batched(model["features"])(params["features"], state["features"], IMAGES, train=False)
    native = CNN().apply({"params": params["features"], **state["features"]}, IMAGES, train=False)
    assert_close(features, native)
    assert_close(same_state, state["features"], rtol=0, atol=0)


def test_from_linen_returns_the_modules_own_variables(key):
    layer = cnn_layer()
    params, state = jax.jit(layer.init)(key)
    native = jax.eval_shape(lambda: CNN().init(key, IMAGES, train=False))
    assert jax.tree.map(jnp.shape, {"params": params, **state}) == jax.tree.map(jnp.shape, native)
    assert jnp.std(params["Dense_0"]["kernel"]) > 0


def test_round_trip_through_a_layer_equals_the_module(key):
    module = to_linen(cnn_layer())
    variables = module.init(key, IMAGES, train=False)
    native = {"params": variables["params"], **variables["batch_stats"]}
    assert_close(module.apply(variables, IMAGES, train=False), CNN().apply(native, IMAGES, train=False))
    outputs, updates = jax.jit(lambda v: module.apply(v, IMAGES, train=True, mutable=["batch_stats"]))(variables)
    native_outputs, native_updates = CNN(None).apply(native, IMAGES, train=True, mutable=["batch_stats"])
    assert_close(outputs, native_outputs)
    assert_close(updates["batch_stats"], native_updates)


def test_round_trip_through_flax_equals_the_layer(key):
    # Without a batch norm: the module of the layer takes the batch of one that it is given for the whole batch.
    model = Sequential(conv=Conv(3, 3), pool=GlobalAvgPool(), dropout=Dropout(0.5))
    layer = from_linen(to_linen(model), (6, 6, 3), train_argument="train")
    params, state = layer.init(key)
    expected, _ = run(model, params, model.init(key)[1], IMAGES, train=False)
    assert_close(batched(layer)(params, state, IMAGES, train=False)[0], expected)
    dropped, _ = batched(layer)(params, state, IMAGES, train=True, key=key)
    np.testing.assert_allclose(dropped, jnp.where(dropped == 0, 0.0, 2 * expected), rtol=1e-5)
    assert 0 < (dropped == 0).sum() < dropped.size


@pytest.mark.parametrize("module", [nn.Dropout(0.5), nn.Dropout(0.5, rng_collection="noise")])
def test_from_linen_dropout_uses_the_key(module, key):
    layer = from_linen(module, (20,), train_argument="deterministic", rng_collection=module.rng_collection)
    apply = lambda key, train: layer.apply({}, {}, jnp.ones(20), train=train, key=key)[0]  # noqa: E731
    assert set(np.unique(apply(key, True))) == {0.0, 2.0}
    np.testing.assert_array_equal(apply(key, True), apply(key, True))
    assert (apply(key, True) != apply(jax.random.key(1), True)).any()
    np.testing.assert_array_equal(apply(None, False), jnp.ones(20))
    rows, _ = batched(layer)({}, {}, jnp.ones((2, 20)), train=True, key=key)
    assert (rows[0] != rows[1]).any()


def test_from_linen_says_that_a_key_is_missing():
    layer = from_linen(nn.Dropout(0.5), (20,), train_argument="deterministic")
    with pytest.raises(ValueError, match="expects a key under the name 'dropout', got None; pass key="):
        layer.apply({}, {}, jnp.ones(20), train=True)


def test_from_linen_says_that_the_key_has_another_name(key):
    layer = from_linen(nn.Dropout(0.5, rng_collection="noise"), (20,), train_argument="deterministic")
    with pytest.raises(ValueError, match="or the name it asks for as rng_collection") as caught:
        layer.apply({}, {}, jnp.ones(20), train=True, key=key)
    assert '"noise"' in str(caught.value.__cause__)


def test_use_running_average_is_the_inverse_of_train(key):
    layer = from_linen(nn.BatchNorm(axis_name="batch"), (6, 6, 3), train_argument="use_running_average")
    params, state = layer.init(key)
    trained, new_state = batched(layer)(params, state, IMAGES, train=True)
    np.testing.assert_allclose(trained.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    assert jnp.abs(new_state["batch_stats"]["mean"]).max() > 0
    evaluated, same_state = batched(layer)(params, state, IMAGES, train=False)
    np.testing.assert_allclose(evaluated, IMAGES / np.sqrt(1 + 1e-5), rtol=1e-5)
    assert same_state is not new_state
    assert_close(same_state, state, rtol=0, atol=0)


class Counter(nn.Module):
    """Counts its training steps in a collection of its own, for one image."""

    @nn.compact
    def __call__(self, image, training=False):
        steps = self.variable("counts", "steps", lambda: jnp.zeros((), jnp.int32))
        if training:
            steps.value += 1
        return image.mean(axis=(0, 1))


def test_other_collections_are_state_and_one_image_is_one_image(key):
    layer = from_linen(Counter(), (6, 6, 3), train_argument="training", takes_batch=False)
    params, state = layer.init(key)
    assert params == {}
    outputs, new_state = batched(layer)(params, state, IMAGES, train=True)
    np.testing.assert_allclose(outputs, IMAGES.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert new_state == {"counts": {"steps": 1}}
    assert batched(layer)(params, state, IMAGES, train=False)[1] == {"counts": {"steps": 0}}


def test_from_linen_takes_off_partitioning_metadata(key):
    kernel_init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    params, _ = from_linen(nn.Dense(2, kernel_init=kernel_init), (3,)).init(key)
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 2), "bias": (2,)}


def test_from_linen_makes_values_that_are_not_traced_again(key):
    traces = 0

    def forward(layer, params, state):
        nonlocal traces
        traces += 1
        return batched(layer)(params, state, IMAGES, train=False)[0]

    forward = jax.jit(forward, static_argnums=0)
    params, state = cnn_layer().init(key)
    assert cnn_layer() == cnn_layer()
    forward(cnn_layer(), params, state)
    forward(cnn_layer(), params, state)
    assert traces == 1
    assert cnn_layer() != cnn_layer("other")
    assert repr(from_linen(nn.Dropout(0.5, deterministic=True), (3,))).startswith("Linen(Dropout(")


def test_layers_of_linen_can_be_initialised_as_an_ensemble(key):
    layer = from_linen(nn.Dense(5), (3,))
    params, state = jax.vmap(layer.init)(jax.random.split(key, 2))
    outputs, _ = jax.vmap(lambda p, s: batched(layer)(p, s, IMAGES[:, 0, 0], train=True))(params, state)
    assert outputs.shape == (2, 4, 5)
    assert jnp.abs(outputs[0] - outputs[1]).max() > 0.01


def test_a_batch_norm_without_the_axis_is_refused_by_name(key):
    layer = cnn_layer(axis_name=None)
    params, state = layer.init(key)
    batched(layer)(params, state, IMAGES, train=False)
    with pytest.raises(ValueError, match="got axis_name=None for 'BatchNorm_0'; pass axis_name='batch'"):
        batched(layer)(params, state, IMAGES, train=True)


def test_a_batch_norm_without_a_batch_is_refused(key):
    layer = cnn_layer()
    params, state = layer.init(key)
    with pytest.raises(
        ValueError, match=r"'BatchNorm_0' expects a batch in training: a jax\.vmap with axis_name='batch'"
    ):
        layer.apply(params, state, IMAGES[0], train=True)


class Frozen(nn.Module):
    """Batch norms that use their running moments also in training, said in each of the three ways."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.BatchNorm()(nn.BatchNorm()(x, True), use_running_average=True)


def test_a_frozen_batch_norm_needs_no_axis(key):
    layer = from_linen(Frozen(), (6, 6, 3))
    params, state = layer.init(key)
    _, new_state = batched(layer)(params, state, IMAGES, train=True)
    assert_close(new_state, state, rtol=0, atol=0)


def test_a_batch_is_refused_where_one_image_is_expected(key):
    layer = cnn_layer()
    params, state = layer.init(key)
    with pytest.raises(ValueError, match=r"one image with as many axes as \(6, 6, 3\), got \(4, 6, 6, 3\); map it"):
        layer.apply(params, state, IMAGES, train=False)


class Unsized(nn.Module):
    sizes: list | dict

    def __call__(self, x):
        return x


@pytest.mark.parametrize("sizes", [[1, 2], {"a": 1}, jnp.ones(2)])
def test_unhashable_modules_are_refused(sizes):
    with pytest.raises(
        TypeError, match="a module that can be hashed, got Unsized with a field that cannot be; use a tuple"
    ):
        from_linen(Unsized(sizes), (6, 6, 3))


@pytest.mark.parametrize("wrong", [nn.Dense, Dense(3, 2), nnx.Linear(3, 2, rngs=nnx.Rngs(0))])
def test_other_things_than_linen_modules_are_refused(wrong):
    with pytest.raises(TypeError, match=r"Linen expects an instance of flax\.linen\.Module"):
        from_linen(wrong, (3,))


@pytest.mark.parametrize("shape", [[6, 6, 3], (6, 6, 0), (6.0, 6, 3), (), 3])
def test_wrong_image_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="Linen expects image_shape to be a tuple of positive ints"):
        from_linen(nn.Dense(3), shape)


def test_an_unknown_train_argument_is_refused():
    with pytest.raises(ValueError, match=r"among the arguments \('images', 'train'\) of CNN, got 'training'"):
        from_linen(CNN(), (6, 6, 3), train_argument="training")


@pytest.mark.parametrize(
    ("module", "name"), [(Counter(), "training"), (nn.Dropout(0.5), "deterministic"), (CNN(), "train")]
)
def test_a_train_argument_left_out_is_refused(module, name):
    with pytest.raises(ValueError, match=f"got None; pass train_argument='{name}'"):
        from_linen(module, (6, 6, 3))


class Returns(nn.Module):
    what: str

    def __call__(self, x):
        return {"flat": x.ravel(), "pair": (x, x)}[self.what]


def test_modules_with_other_results_than_a_batch_of_one_are_refused():
    apply = lambda what: from_linen(Returns(what), (3,)).apply({}, {}, jnp.ones(3), train=False)  # noqa: E731
    with pytest.raises(ValueError, match=r"a batch of one result, got shape \(3,\); pass takes_batch=False"):
        apply("flat")
    with pytest.raises(TypeError, match="Returns to return one array, got tuple"):
        apply("pair")


# Without flax


def test_a_missing_flax_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxcnn.interop.flax")
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxcnn\[flax\]'"):
        importlib.import_module("jaxcnn.interop.flax")


def test_importing_jaxcnn_does_not_import_flax():
    code = "import sys, jaxcnn, jaxcnn.interop; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
