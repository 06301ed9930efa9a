import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import trees
from jaxcnn.layers import (
    AuxiliaryHeads,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    DropPath,
    Flatten,
    Function,
    Residual,
    Sequential,
    freeze,
    trainable,
)
from jaxcnn.ops import dropout
from jaxcnn.tasks import Classification, Regression, Segmentation, cross_entropy
from jaxcnn.training import (
    Precision,
    TrainState,
    evaluation_weights,
    image_batches,
    init_train_state,
    make_eval_step,
    make_predict_step,
    make_train_state,
    make_train_step,
    predict,
)
from jaxcnn.types import Mean

MODEL = Sequential(
    conv=Conv(2, 3),
    norm=BatchNorm(3),
    relu=Function(jax.nn.relu),
    drop=Dropout(0.4),
    flatten=Flatten(),
    head=Dense(4 * 4 * 3, 3),
)
LINEAR = Sequential(flatten=Flatten(), head=Dense(4 * 4 * 2, 3))


def some_batch(examples=6, seed=0):
    random = np.random.default_rng(seed)
    images = random.uniform(size=(examples, 4, 4, 2)).astype(np.float32)
    return images, (np.arange(examples) % 3).astype(np.int32)


def batch_of(images, labels, **more):
    return {"image": images, "label": labels, **more}


def add_noise(key, example):
    image = example["image"]
    return {**example, "image": image + 0.5 * jax.random.normal(key, image.shape)}


@dataclasses.dataclass(frozen=True)
class Watched(Classification):
    """Classification that tells a function what outputs it sees."""

    watch: Callable[[jax.Array], None] = print

    def loss(self, outputs, batch):
        self.watch(outputs)
        return super().loss(outputs, batch)


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


def assert_close(actual, expected, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), actual, expected)


@pytest.fixture
def standard_promotion():
    """For optimizers of Optax that mix the step count with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@jax.jit
def noisy_by_hand(key, images):
    """The augmented images of a step, one by one."""
    augment_key, _ = jax.random.split(key)
    keys = jax.random.split(augment_key, len(images))
    return jax.lax.map(lambda each: add_noise(each[0], {"image": each[1]})["image"], (keys, images))


def forward_by_hand(params, images, keys):
    """MODEL in training, written out: logits, and the moments of the batch that batch norm saw."""
    y = jax.lax.conv_general_dilated(
        images, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = y + params["conv"]["bias"]
    mean, var = jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2))
    y = (y - mean) / jnp.sqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    y = jnp.maximum(y, 0)
    y = jax.lax.map(lambda each: dropout(jax.random.split(each[0], 6)[3], each[1], 0.4), (keys, y))
    return y.reshape(len(y), -1) @ params["head"]["kernel"] + params["head"]["bias"], (mean, var)


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def gradients_by_hand(params, noisy, labels, step_key):
    _, model_key = jax.random.split(step_key)
    logits, moments = forward_by_hand(params, noisy, jax.random.split(model_key, len(noisy)))
    exponentials = jnp.exp(logits)
    probabilities = exponentials / jnp.sum(exponentials, 1, keepdims=True)
    return -jnp.mean(jnp.log(probabilities[jnp.arange(len(noisy)), labels])), (logits, moments)


def test_a_step_is_augment_forward_backward_update_written_out_by_hand():
    images, labels = some_batch()
    key, rate, momentum = jax.random.key(7), 0.1, 0.9
    optimizer = optax.sgd(rate, momentum=momentum, nesterov=True)
    train_state = init_train_state(MODEL, optimizer, jax.random.key(1))
    params, moments = copy(train_state.params), {"mean": np.zeros(3), "var": np.ones(3)}
    trace = jax.tree.map(jnp.zeros_like, params)
    train_step = make_train_step(MODEL, optimizer, augment=add_noise)

    for step in range(3):
        train_state, metrics = train_step(train_state, batch_of(images, labels), key)

        step_key = jax.random.fold_in(key, step)
        noisy = noisy_by_hand(step_key, jnp.asarray(images))
        (loss, (logits, (mean, var))), gradients = gradients_by_hand(params, noisy, labels, step_key)
        trace = jax.tree.map(lambda g, t: g + momentum * t, gradients, trace)
        params = jax.tree.map(lambda p, g, t: p - rate * (g + momentum * t), params, gradients, trace)
        count = 6 * 4 * 4
        moments = {
            "mean": 0.9 * moments["mean"] + 0.1 * np.asarray(mean),
            "var": 0.9 * moments["var"] + 0.1 * np.asarray(var) * count / (count - 1),
        }
        assert metrics.mean_loss == pytest.approx(float(loss), rel=1e-5)
        assert int(metrics.sums["accuracy"].total) == np.sum(np.argmax(logits, 1) == labels)
        assert int(metrics.sums["loss"].weight) == 6
        assert int(train_state.step) == step + 1
        assert_close(train_state.params, params, rtol=2e-5, atol=2e-6)
        assert_close(train_state.state["norm"], moments, rtol=1e-5, atol=1e-6)


def test_a_fresh_train_state_stands_at_step_0_and_shares_no_arrays():
    optimizer = optax.adamw(1e-3)
    train_state = init_train_state(MODEL, optimizer, jax.random.key(0))
    assert train_state.step.dtype == jnp.int32
    assert int(train_state.step) == 0
    params, state = MODEL.init(jax.random.key(0))
    assert_equal(train_state, TrainState(np.int32(0), params, state, optimizer.init(params)))
    addresses = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(train_state)]
    assert len(set(addresses)) == len(addresses)


def test_a_train_state_that_an_earlier_step_took_over_is_refused_with_what_to_do():
    images, labels = some_batch()
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(LINEAR, optimizer)
    first = init_train_state(LINEAR, optimizer, jax.random.key(0))
    train_step(first, batch_of(images, labels), jax.random.key(1))
    with pytest.raises(ValueError, match=r"got one that an earlier step has taken over .* jax.tree.map\(jnp.copy, tr"):
        train_step(first, batch_of(images, labels), jax.random.key(1))


def test_errors_of_other_kinds_keep_their_own_words():
    images, labels = some_batch()
    train_state = init_train_state(LINEAR, optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(ValueError, match=r"cross_entropy expects logits"):
        make_train_step(LINEAR, optax.sgd(0.1))(train_state, batch_of(images, labels[:, None]), jax.random.key(1))


@pytest.mark.usefixtures("standard_promotion")
def test_the_metrics_of_a_step_tell_the_norm_of_its_gradient_and_count_what_is_not_finite():
    images, labels = some_batch()
    rate = 0.5
    train_state = init_train_state(MODEL, optax.sgd(rate), jax.random.key(0))
    params, step_key = copy(train_state.params), jax.random.fold_in(jax.random.key(1), 0)
    train_state, metrics = make_train_step(MODEL, optax.sgd(rate))(
        train_state, batch_of(images, labels), jax.random.key(1)
    )
    _, gradients = gradients_by_hand(params, jnp.asarray(images), labels, step_key)
    expected = np.sqrt(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(gradients)))
    assert float(metrics.gradient_norm) == pytest.approx(expected, rel=1e-5)
    assert int(metrics.non_finite) == 0

    broken = train_state._replace(state={"norm": train_state.state["norm"] | {"var": jnp.array([1.0, jnp.inf, 1.0])}})
    broken = broken._replace(state=train_state.state | broken.state)
    _, metrics = make_train_step(MODEL, optax.sgd(rate))(broken, batch_of(images, labels), jax.random.key(1))
    assert int(metrics.non_finite) == 1
    assert np.isfinite(metrics.mean_loss)


def test_large_numbers_are_not_taken_for_infinity():
    images, labels = some_batch()
    optimizer = optax.set_to_zero()
    train_state = init_train_state(MODEL, optimizer, jax.random.key(0))
    huge = {"norm": {**train_state.state["norm"], "var": jnp.full(3, 3e38)}}
    _, metrics = make_train_step(MODEL, optimizer)(
        train_state._replace(state={**train_state.state, **huge}), batch_of(images, labels), jax.random.key(1)
    )
    assert int(metrics.non_finite) == 0


def test_images_of_8_bits_are_divided_by_255_to_the_bit_in_every_step():
    levels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 2), dtype=np.uint8)
    levels.ravel()[:180] = np.arange(0, 180)
    images, labels = np.divide(levels, 255, dtype=np.float32), np.arange(6) % 3
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(MODEL, optimizer, augment=add_noise)
    results = []
    for pixels in (levels, images):
        train_state = init_train_state(MODEL, optimizer, jax.random.key(0))
        batch = batch_of(pixels, labels.astype(np.int32))
        params, state = train_state.params, train_state.state
        evaluated = make_eval_step(MODEL)(params, state, batch)
        predicted = make_predict_step(MODEL)(params, state, pixels)
        results.append((evaluated, predicted, *train_step(train_state, batch, jax.random.key(1))))
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("dtype", ["int8", "int32", "bool"])
@pytest.mark.parametrize("model", ["conv", "linear"])
def test_images_that_are_not_floating_point_are_refused_by_every_step_as_by_apply(dtype, model):
    model = {"conv": MODEL, "linear": LINEAR}[model]
    train_state = init_train_state(model, optax.sgd(0.1), jax.random.key(0))
    params, state = train_state.params, train_state.state
    images, labels = np.ones((6, 4, 4, 2), dtype), np.zeros(6, np.int32)
    calls = {
        "train_step": lambda: make_train_step(model, optax.sgd(0.1), augment=add_noise)(
            train_state, batch_of(images, labels), jax.random.key(1)
        ),
        "eval_step": lambda: make_eval_step(model)(params, state, batch_of(images, labels)),
        "predict_step": lambda: make_predict_step(model)(params, state, images),
        "predict_step ": lambda: predict(make_predict_step(model), params, state, image_batches(images, 4)),
        "conv" if model is MODEL else "dense": lambda: model.apply(params, state, images[0], train=False),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=rf"{name.strip()} expects floating point values, got {dtype}; convert"):
            call()


@pytest.mark.usefixtures("float64")
def test_in_float64_a_step_is_that_written_out_by_hand_to_1e_12():
    images, labels = some_batch()
    images, key, rate = images.astype(np.float64), jax.random.key(7), 0.1

    def in_float64(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)

    train_state = init_train_state(MODEL, optax.sgd(rate), jax.random.key(1))
    train_state = train_state._replace(params=in_float64(train_state.params), state=in_float64(train_state.state))
    params = copy(train_state.params)
    train_step = make_train_step(MODEL, optax.sgd(rate), precision="float64")
    for step in range(20):
        train_state, metrics = train_step(train_state, batch_of(images, labels), key)
        step_key = jax.random.fold_in(key, step)
        (loss, _), gradients = gradients_by_hand(params, jnp.asarray(images), labels, step_key)
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradients)
        assert metrics.sums["loss"].total.dtype == metrics.gradient_norm.dtype == jnp.float64
        np.testing.assert_allclose(metrics.mean_loss, loss, rtol=1e-12)
    assert_close(train_state.params, params, rtol=1e-12, atol=1e-14)
    arguments = train_state.params, train_state.state, images
    logits = make_predict_step(MODEL, precision="float64")(*arguments)
    np.testing.assert_allclose(logits, logits_by_hand(*arguments), rtol=1e-12, atol=1e-14)
    measured = make_eval_step(MODEL, precision="float64")(*arguments[:2], batch_of(images, labels))
    losses = np.log(np.exp(logits).sum(1)) - np.asarray(logits)[np.arange(6), labels]
    np.testing.assert_allclose(measured["loss"].total, losses.sum(), rtol=1e-12)


@pytest.mark.usefixtures("standard_promotion")
def test_the_old_train_state_is_donated_and_nothing_else():
    images, labels = map(jnp.asarray, some_batch())
    key = jax.random.key(1)
    before = init_train_state(MODEL, optax.adam(1e-3), jax.random.key(0))
    after, metrics = make_train_step(MODEL, optax.adam(1e-3))(before, batch_of(images, labels), key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, metrics, images, labels, key)))


@pytest.mark.usefixtures("standard_promotion")
def test_augmentation_is_traced_into_the_step_once_and_nothing_is_traced_again():
    seen = []

    def augment(key, example):
        seen.append(("augment", example["image"]))
        return add_noise(key, example)

    task = Watched(watch=lambda outputs: seen.append(("loss", outputs)))

    images, labels = some_batch()
    before = images.copy()
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, 10))
    train_step = make_train_step(MODEL, optimizer, task, augment=augment)
    train_state, losses = init_train_state(MODEL, optimizer, jax.random.key(0)), []
    for _ in range(4):
        train_state, metrics = train_step(train_state, batch_of(images, labels), jax.random.key(1))
        losses.append(metrics.mean_loss)
        assert [name for name, _ in seen] == ["augment", "loss"]
    assert all(isinstance(value, jax.core.Tracer) for _, value in seen)
    assert seen[0][1].shape == (4, 4, 2)  # one image: the step maps it over the batch
    np.testing.assert_array_equal(images, before)
    assert len(set(losses)) == 4


@pytest.mark.parametrize("random_part", ["augmentation", "dropout"])
def test_the_same_key_draws_other_numbers_at_each_step_and_the_same_at_the_same_step(random_part):
    images, labels = some_batch()
    model = MODEL if random_part == "dropout" else LINEAR
    still = optax.sgd(0.0)
    train_step = make_train_step(model, still, augment=add_noise if random_part == "augmentation" else None)

    def losses(key, first=0, steps=3):
        train_state = init_train_state(model, still, jax.random.key(0))._replace(step=jnp.int32(first))
        result = []
        for _ in range(steps):
            train_state, metrics = train_step(train_state, batch_of(images, labels), key)
            result.append(metrics.mean_loss)
        return result

    drawn = losses(jax.random.key(1))
    assert len(set(drawn)) == 3
    assert losses(jax.random.key(1)) == drawn
    assert losses(jax.random.key(1), first=2, steps=1) == pytest.approx(drawn[2:], rel=1e-5)
    assert set(losses(jax.random.key(2))).isdisjoint(drawn)


def test_every_image_of_a_batch_is_augmented_by_its_own_numbers():
    first, _ = some_batch(1)
    images, labels = np.repeat(first, 6, axis=0), np.zeros(6, np.int32)
    still = optax.sgd(0.0)
    seen = []

    task = Watched(watch=lambda outputs: jax.debug.callback(lambda x: seen.append(np.asarray(x)), outputs))
    train_step = make_train_step(LINEAR, still, task, augment=add_noise)
    jax.block_until_ready(
        train_step(init_train_state(LINEAR, still, jax.random.key(0)), batch_of(images, labels), jax.random.key(1))
    )
    jax.effects_barrier()
    assert len(np.unique(seen[0][:, 0])) == 6


@pytest.mark.usefixtures("standard_promotion")
def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    images, labels = some_batch()
    dtypes = {}

    def record(x):
        dtypes["activations"] = x.dtype
        return x

    def augment(key, example):
        dtypes["augmented"] = example["image"].dtype
        return example

    task = Watched(watch=lambda outputs: dtypes.update(logits=outputs.dtype))

    model = MODEL.replace(relu=Function(record))
    optimizer = optax.adamw(1e-3)
    states, losses = {}, {}
    for dtype in (jnp.float32, jnp.bfloat16):
        train_step = make_train_step(model, optimizer, task, augment=augment, precision=dtype)
        train_state = init_train_state(model, optimizer, jax.random.key(0))
        states[dtype], metrics = train_step(train_state, batch_of(images, labels), jax.random.key(1))
        assert metrics.sums["loss"].total.dtype == jnp.float32
        losses[dtype] = metrics.mean_loss
        assert dtypes == {"activations": dtype, "logits": jnp.float32, "augmented": jnp.float32}
    floating = [
        leaf.dtype for leaf in jax.tree.leaves(states[jnp.bfloat16]) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert set(floating) == {jnp.dtype("float32")}
    assert losses[jnp.bfloat16] != losses[jnp.float32]
    assert losses[jnp.bfloat16] == pytest.approx(losses[jnp.float32], rel=0.05)
    assert_close(states[jnp.bfloat16].params, states[jnp.float32].params, atol=2.1e-3)


@pytest.mark.usefixtures("standard_promotion")
def test_the_loss_falls_until_a_tiny_problem_is_learned():
    images, labels = some_batch(12)
    optimizer = optax.adam(3e-2)
    train_step = make_train_step(LINEAR, optimizer)
    train_state, losses = init_train_state(LINEAR, optimizer, jax.random.key(0)), []
    for _ in range(150):
        train_state, metrics = train_step(train_state, batch_of(images, labels), jax.random.key(1))
        losses.append(metrics.mean_loss)
    assert losses[0] > 1.0
    assert losses[-1] < 0.1
    assert metrics.sums["accuracy"].value == 1.0


def test_the_loss_that_is_given_is_the_one_that_is_minimised():
    images, labels = some_batch()
    smoothed = Classification(label_smoothing=0.3)
    optimizer = optax.sgd(0.5)
    before = init_train_state(LINEAR, optimizer, jax.random.key(0))
    params = copy(before.params)
    after, metrics = make_train_step(LINEAR, optimizer, smoothed)(before, batch_of(images, labels), jax.random.key(1))
    pixels = images.reshape(6, -1)
    logits = pixels @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    target = 0.1 + 0.7 * np.eye(3)[labels]
    assert metrics.mean_loss == pytest.approx(-np.sum(target * np.log(probabilities)) / 6, rel=1e-5)
    slope = pixels.T @ (probabilities - target) / 6
    np.testing.assert_allclose(after.params["head"]["kernel"], params["head"]["kernel"] - 0.5 * slope, atol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_frozen_parameters_stay_as_they_are_byte_for_byte():
    images, labels = some_batch()
    rules = {"(conv|norm)/.*": "frozen", "head/.*": "trained"}
    optimizer = optax.partition(
        {"frozen": optax.set_to_zero(), "trained": optax.adamw(1e-2)},
        lambda params: trees.label_by_name(params, rules),
    )
    train_state = init_train_state(MODEL, optimizer, jax.random.key(0))
    before = jax.tree.map(np.array, train_state.params)
    train_step = make_train_step(MODEL, optimizer)
    for _ in range(3):
        train_state, _ = train_step(train_state, batch_of(images, labels), jax.random.key(1))
    for name, leaf in trees.named_leaves(train_state.params).items():
        same = np.asarray(leaf).tobytes() == trees.named_leaves(before)[name].tobytes()
        assert same == (not name.startswith("head/")), name
    # What is frozen needs no moments: adamw keeps them for the head alone.
    assert trees.count(train_state.opt_state) == 2 * trees.count(train_state.params["head"]) + 1


@functools.cache
def trained():
    """MODEL after a few steps, so that its running moments are not those of the start."""
    images, labels = some_batch(12)
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(MODEL, optimizer)
    train_state = init_train_state(MODEL, optimizer, jax.random.key(0))
    for _ in range(5):
        train_state, _ = train_step(train_state, batch_of(images, labels), jax.random.key(1))
    return train_state.params, train_state.state


def logits_by_hand(params, state, images):
    """MODEL in evaluation, in NumPy."""
    params, state = jax.tree.map(np.asarray, (params, state))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((len(images), 4, 4, 3)) + params["conv"]["bias"]
    for row in range(3):
        for column in range(3):
            y += padded[:, row : row + 4, column : column + 4] @ params["conv"]["kernel"][row, column]
    y = (y - state["norm"]["mean"]) / np.sqrt(state["norm"]["var"] + 1e-5)
    y = np.maximum(y * params["norm"]["scale"] + params["norm"]["bias"], 0)
    return y.reshape(len(y), -1) @ params["head"]["kernel"] + params["head"]["bias"]


def test_the_eval_step_sums_the_weighted_examples_with_running_moments_and_without_dropout():
    params, state = trained()
    images, labels = some_batch(8, seed=3)
    weight = np.array([1, 1, 0, 0.5, 0, 1, 2, 0], np.float32)
    sums = make_eval_step(MODEL)(params, state, batch_of(images, labels, weight=weight))
    logits = logits_by_hand(params, state, images)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), labels]
    np.testing.assert_allclose(sums["loss"], (np.sum(weight * losses), 5.5), rtol=1e-5)
    np.testing.assert_allclose(sums["accuracy"], (np.sum(weight * (logits.argmax(1) == labels)), 5.5), rtol=1e-5)


def test_the_eval_step_donates_nothing():
    params, state = trained()
    eval_step, batch = make_eval_step(MODEL), batch_of(*some_batch(8, seed=3))
    once = eval_step(params, state, batch)
    assert_equal(once, eval_step(params, state, batch))


def test_the_predict_step_gives_the_logits():
    params, state = trained()
    images, _ = some_batch(8, seed=3)
    logits = make_predict_step(MODEL)(params, state, images)
    np.testing.assert_allclose(logits, logits_by_hand(params, state, images), rtol=1e-4, atol=1e-5)


def test_the_predict_step_decodes_for_a_task():
    params, state = trained()
    images, _ = some_batch(8, seed=3)
    exponentials = np.exp(logits_by_hand(params, state, images))
    expected = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(make_predict_step(MODEL, Classification())(params, state, images), expected, rtol=1e-4)


@pytest.mark.parametrize("make_step", [make_eval_step, make_predict_step])
def test_bfloat16_evaluation_returns_float32(make_step):
    params, state = trained()
    batch = batch_of(*some_batch(8, seed=3))
    given = batch["image"] if make_step is make_predict_step else batch
    full, half = (make_step(MODEL, precision=precision)(params, state, given) for precision in ("float32", "bfloat16"))
    if make_step is make_eval_step:
        full, half = full["loss"].total, half["loss"].total
    assert half.dtype == jnp.float32
    assert np.any(np.asarray(half) != np.asarray(full))
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_auxiliary_heads_are_trained_and_the_main_one_is_evaluated(weight):
    model = AuxiliaryHeads("aux", flatten=Flatten(), aux=Dense(4 * 4 * 2, 3), head=Dense(4 * 4 * 2, 3))
    optimizer = optax.sgd(1.0)
    images, labels = some_batch()
    before = init_train_state(model, optimizer, jax.random.key(0))
    params = copy(before.params)
    step = make_train_step(model, optimizer, auxiliary_weight=weight)
    after, metrics = step(before, batch_of(images, labels), jax.random.key(1))

    def loss_of(head):
        logits = images.reshape(6, -1) @ head["kernel"] + head["bias"]
        return cross_entropy(logits, labels), logits

    (main, logits), (aux, _) = loss_of(params["head"]), loss_of(params["aux"])
    assert metrics.mean_loss == pytest.approx(float(np.mean(main + weight * aux)), rel=1e-5)
    assert int(metrics.sums["accuracy"].total) == np.sum(np.argmax(logits, 1) == labels)
    for name, factor in (("head", 1.0), ("aux", weight)):
        gradient = jax.grad(lambda head: jnp.mean(loss_of(head)[0]))(params[name])
        expected = jax.tree.map(lambda leaf, g, factor=factor: leaf - factor * g, params[name], gradient)
        assert_close(after.params[name], expected, rtol=1e-4, atol=1e-6)
    measured = make_eval_step(model)(params, before.state, batch_of(images, labels))
    assert measured["loss"].value == pytest.approx(float(np.mean(main)), rel=1e-5)
    assert int(measured["accuracy"].total) == int(metrics.sums["accuracy"].total)


@pytest.mark.usefixtures("standard_promotion")
def test_precision_chooses_the_dtypes_of_parameters_and_outputs():
    precision = Precision("bfloat16", params="bfloat16", outputs="bfloat16")
    optimizer, seen = optax.sgd(0.1), []
    train_state = init_train_state(MODEL, optimizer, jax.random.key(0), precision=precision)
    task = Watched(watch=lambda outputs: seen.append(outputs.dtype))
    train_step = make_train_step(MODEL, optimizer, task, precision=precision)
    train_state, _ = train_step(train_state, batch_of(*some_batch()), jax.random.key(1))
    assert seen == [jnp.bfloat16]
    assert {leaf.dtype for leaf in jax.tree.leaves(train_state.params)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(train_state.state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("given", ["int32", "float31", 3])
def test_what_is_no_precision_is_refused(given):
    with pytest.raises(ValueError, match="Precision expects compute as a floating-point dtype, such as 'float32' or"):
        make_train_step(LINEAR, optax.sgd(0.1), precision=given)


UNNORMALISED = Sequential(conv=Conv(2, 4), relu=Function(jax.nn.relu), conv2=Conv(4, 3), tanh=Function(jnp.tanh))
SEGMENTATION = Segmentation(3, class_weights=(1.0, 0.5, 2.0), dice_weight=0.5)


@pytest.mark.usefixtures("float64")
def test_micro_batches_give_what_the_large_batch_gives_in_float64_to_1e_12():
    """With a task whose micro-batches differ in weight: ignored pixels, weights of classes and of examples."""
    random = np.random.default_rng(0)
    images, mask = random.normal(size=(12, 4, 4, 2)), random.integers(0, 3, (12, 4, 4))
    mask[random.uniform(size=mask.shape) < 0.3] = 255
    batch = {"image": images, "mask": mask, "weight": random.uniform(0, 2, 12) * (np.arange(12) != 4)}
    optimizer, results = optax.sgd(0.5, momentum=0.9), {}
    for count in (1, 3, 12):
        step = make_train_step(UNNORMALISED, optimizer, SEGMENTATION, precision="float64", micro_batches=count)
        params, state = UNNORMALISED.init(jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        train_state = make_train_state(params, state, optimizer)
        for _ in range(3):
            train_state, metrics = step(train_state, batch, jax.random.key(1))
        results[count] = train_state, metrics
    for count in (3, 12):
        assert_close(results[count], results[1], rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("micro_batches", [2, 3])
def test_with_batch_norm_micro_batches_are_small_batches_one_after_the_other(micro_batches):
    model = Sequential(norm=BatchNorm(2), **dict(LINEAR.layers))
    images, labels = some_batch()
    still = optax.sgd(0.0)
    step = make_train_step(model, still, micro_batches=micro_batches)
    train_state, metrics = step(
        init_train_state(model, still, jax.random.key(0)), batch_of(images, labels), jax.random.key(1)
    )
    small, total = init_train_state(model, still, jax.random.key(0)), []
    for first in range(micro_batches):
        each = slice(first, None, micro_batches)
        small, measured = make_train_step(model, still)(small, batch_of(images[each], labels[each]), jax.random.key(1))
        total.append(measured.mean_loss)
    assert metrics.mean_loss == pytest.approx(np.mean(total), rel=1e-5)
    assert_close(train_state.state, small.state, rtol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_line_searches_see_the_loss_of_all_micro_batches():
    optimizer = optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(5))
    results = []
    for count in (1, 3):
        train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
        step = make_train_step(LINEAR, optimizer, micro_batches=count)
        for _ in range(3):
            train_state, metrics = step(train_state, batch_of(*some_batch()), jax.random.key(1))
        results.append((train_state.params, metrics.mean_loss))
    assert_close(*results, rtol=1e-4, atol=1e-5)


def test_micro_batches_draw_other_random_numbers():
    images, _ = some_batch(1)
    batch = batch_of(np.repeat(images, 2, axis=0), np.zeros(2, np.int32))
    model, seen = Sequential(flatten=Flatten(), drop=Dropout(0.5)), []
    task = Watched(watch=lambda outputs: jax.debug.callback(lambda x: seen.append(np.asarray(x)), outputs))
    step = make_train_step(model, optax.sgd(0.0), task, micro_batches=2)
    step(init_train_state(model, optax.sgd(0.0), jax.random.key(0)), batch, jax.random.key(1))
    jax.effects_barrier()
    assert np.any(seen[0] != seen[1])


def stochastic_depth(rate):
    """A model with two residual branches: one that is dropped at a rate, and one that is frozen."""
    branches = {
        name: Residual(Sequential(conv=Conv(2, 2), norm=BatchNorm(2), drop_path=DropPath(rate))) for name in ("a", "b")
    }
    return freeze(Sequential(**branches, flatten=Flatten(), head=Dense(4 * 4 * 2, 3)), "b")


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_scheduled_rate_is_that_of_the_step_in_one_program(micro_batches):
    model, traced = stochastic_depth(0.8), []
    options = {"micro_batches": micro_batches, "ema": 0.9}
    task = Watched(watch=traced.append)
    step = make_train_step(model, optax.sgd(0.1), task, drop_path_schedule=lambda step: step / 4, **options)
    fixed = make_train_step(stochastic_depth(0.6), optax.sgd(0.1), **options)
    train_state, batch = init_train_state(model, optax.sgd(0.1), jax.random.key(0), ema=True), batch_of(*some_batch(32))
    for _ in range(3):
        train_state, _ = step(train_state, batch, jax.random.key(1))
    assert len(traced) <= micro_batches
    expected, expected_metrics = fixed(copy(train_state), batch, jax.random.key(1))
    train_state, metrics = step(train_state, batch, jax.random.key(1))
    assert_close(train_state, expected, rtol=1e-5, atol=1e-6)
    assert metrics.mean_loss == pytest.approx(expected_metrics.mean_loss, rel=1e-5)


def test_a_schedule_reaches_drop_paths_anywhere_in_a_model():
    def loss(first, second, schedule=None):
        model = Sequential(wrapped=Residual(first), again=Sequential(drop=second), **dict(LINEAR.layers))
        step = make_train_step(model, optax.sgd(0.0), drop_path_schedule=schedule)
        train_state = init_train_state(model, optax.sgd(0.0), jax.random.key(0))
        return step(train_state, batch_of(*some_batch()), jax.random.key(1))[1].mean_loss

    shared = DropPath(0.9)
    assert loss(shared, shared, lambda step: jnp.zeros(())) == loss(DropPath(0), DropPath(0)) != loss(shared, shared)


@pytest.mark.parametrize("model", [LINEAR, stochastic_depth(0), freeze(stochastic_depth(0.5), "a")])
def test_a_schedule_needs_a_drop_path_that_drops(model):
    with pytest.raises(ValueError, match=r"DropPath layers of a rate above 0, not frozen, .* got one without; omit it"):
        make_train_step(model, optax.sgd(0.1), drop_path_schedule=optax.linear_schedule(0, 1, 3))


def test_a_batch_without_weight_changes_nothing():
    optimizer = optax.sgd(1.0)
    train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
    before = jax.tree.map(np.array, train_state.params)
    batch = batch_of(*some_batch(), weight=np.zeros(6, np.float32))
    train_state, metrics = make_train_step(LINEAR, optimizer)(train_state, batch, jax.random.key(1))
    assert_equal(train_state.params, before)
    assert (metrics.sums["loss"], metrics.gradient_norm) == (Mean(0, 0), 0)


def test_averages_follow_parameters_and_moments():
    optimizer, decay = optax.sgd(0.5), 0.3
    train_state = init_train_state(MODEL, optimizer, jax.random.key(0), ema=True)
    assert_equal(evaluation_weights(train_state), (train_state.params, train_state.state))
    expected = jax.tree.map(np.array, evaluation_weights(train_state))
    step = make_train_step(MODEL, optimizer, ema=decay)
    for number in range(5):
        train_state, _ = step(train_state, batch_of(*some_batch()), jax.random.key(1))
        rate = min(decay, (1 + number) / (10 + number))
        expected = jax.tree.map(
            lambda old, new, rate=rate: rate * old + (1 - rate) * np.asarray(new),
            expected,
            (train_state.params, train_state.state),
        )
        assert_close(evaluation_weights(train_state), expected, rtol=1e-5, atol=1e-6)
    assert np.any(np.asarray(train_state.ema.state["norm"]["mean"]) != np.asarray(train_state.state["norm"]["mean"]))


def test_a_slow_average_moves_by_one_minus_its_decay():
    optimizer, decay = optax.sgd(0.0), 0.99999
    first = init_train_state(MODEL, optimizer, jax.random.key(0), ema=True)
    zeros = jax.tree.map(jnp.zeros_like, first.ema.params)
    train_state = first._replace(step=jnp.asarray(10**7, jnp.int32), ema=first.ema._replace(params=zeros))
    params = jax.tree.map(np.array, train_state.params)
    train_state, _ = make_train_step(MODEL, optimizer, ema=decay)(
        train_state, batch_of(*some_batch()), jax.random.key(1)
    )
    expected = jax.tree.map(lambda leaf: (1 - decay) * leaf.astype(np.float64), params)
    assert_close(train_state.ema.params, expected, rtol=1e-6, atol=0)


def test_averages_that_are_not_there_or_not_asked_for_are_refused():
    optimizer, batch = optax.sgd(0.5), batch_of(*some_batch())
    for ema, have, message in ((0.9, False, "with moving averages, got none"), (None, True, "without moving averages")):
        train_state = init_train_state(LINEAR, optimizer, jax.random.key(0), ema=have)
        with pytest.raises(ValueError, match=f"{message}.*; make it with ema={not have}"):
            make_train_step(LINEAR, optimizer, ema=ema)(train_state, batch, jax.random.key(1))


def test_frozen_layers_stay_and_the_others_are_trained_as_if_they_were_alone():
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5, momentum=0.9))
    model, (params, state) = freeze(MODEL, "conv"), MODEL.init(jax.random.key(0))
    train_state = make_train_state(params, state, optimizer, trainable=trainable(model, params), ema=True)
    assert trees.count(train_state.opt_state) == trees.count(params["norm"]) + trees.count(params["head"])
    step = make_train_step(model, optimizer, ema=0.9)
    train_state, metrics = step(train_state, batch_of(*some_batch()), jax.random.key(1))
    for kept in (train_state.params, train_state.ema.params):
        assert_equal(kept["conv"], params["conv"])

    step_key = jax.random.fold_in(jax.random.key(1), 0)
    images, labels = some_batch()
    _, gradients = gradients_by_hand(params, jnp.asarray(images), labels, step_key)
    learning = {name: gradients[name] for name in ("norm", "head")}
    assert float(metrics.gradient_norm) == pytest.approx(float(optax.tree.norm(learning)), rel=1e-5)
    factor = 0.5 * 0.1 / float(metrics.gradient_norm)
    expected = jax.tree.map(lambda p, g: p - factor * g, {name: params[name] for name in learning}, learning)
    assert_close({name: train_state.params[name] for name in learning}, expected, rtol=1e-5, atol=1e-6)


def test_a_mask_chooses_the_parameters_to_train():
    optimizer, (params, state) = optax.sgd(0.1, momentum=0.9), MODEL.init(jax.random.key(0))
    mask = trees.mask_by_name(params, ".*/bias")
    step = make_train_step(MODEL, optimizer, trainable=mask)
    for train_state in (
        make_train_state(params, state, optimizer, trainable=mask),
        init_train_state(MODEL, optimizer, jax.random.key(0), trainable=mask),
    ):
        train_state, _ = step(train_state, batch_of(*some_batch()), jax.random.key(1))
        changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), train_state.params, params)
        # The convolution's bias has no effect before a batch norm, but rounding.
        assert changed | {"conv": None} == mask | {"conv": None}
        assert not changed["conv"]["kernel"]


def test_an_optimizer_state_that_knows_of_frozen_layers_is_refused():
    optimizer, model = optax.sgd(0.1, momentum=0.9), freeze(MODEL, "conv")
    train_state = make_train_state(*MODEL.init(jax.random.key(0)), optimizer)
    with pytest.raises(ValueError, match=r"state of the trained parameters, got another; .*trainable="):
        make_train_step(model, optimizer)(train_state, batch_of(*some_batch()), jax.random.key(1))


def test_weights_of_examples_weigh_their_gradients():
    images, labels = some_batch()
    optimizer, again = optax.sgd(1.0), np.r_[np.arange(6), 2, 2]
    weight = np.where(np.arange(6) == 2, 3, 1).astype(np.float32)
    step, results = make_train_step(LINEAR, optimizer), []
    for batch in (batch_of(images, labels, weight=weight), batch_of(images[again], labels[again])):
        train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
        results.append(step(train_state, batch, jax.random.key(1)))
    assert_close(*results, rtol=1e-5, atol=1e-6)


def test_other_tasks_are_trained_by_the_same_step():
    random = np.random.default_rng(0)
    batch = {"image": some_batch()[0], "target": random.normal(size=(6, 3)).astype(np.float32)}
    optimizer = optax.sgd(0.1)
    train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
    step, losses = make_train_step(LINEAR, optimizer, Regression()), []
    for _ in range(20):
        train_state, metrics = step(train_state, batch, jax.random.key(1))
        losses.append(metrics.mean_loss)
    assert losses == sorted(losses, reverse=True)
    assert metrics.sums["mse"].value == pytest.approx(losses[-1])


def test_augmentation_moves_labels_along():
    def relabel(key, example):
        return {**example, "label": jnp.zeros_like(example["label"])}

    still, (images, labels) = optax.sgd(0.0), some_batch()
    measured = []
    for augment, given in ((relabel, labels), (None, np.zeros_like(labels))):
        step = make_train_step(LINEAR, still, augment=augment)
        _, metrics = step(
            init_train_state(LINEAR, still, jax.random.key(0)), batch_of(images, given), jax.random.key(1)
        )
        measured.append(metrics.mean_loss)
    assert measured[0] == measured[1]


@pytest.mark.parametrize(
    ("error", "batch", "message"),
    [
        (TypeError, (np.zeros((2, 4, 4, 2), np.float32), np.zeros(2, int)), "a batch as a dict, such as .*got tuple"),
        (ValueError, {"label": np.zeros(2, int)}, r"a batch with 'image', got \['label'\]"),
        (
            ValueError,
            batch_of(np.zeros((2, 4, 4, 2), np.float32), np.zeros(3, int)),
            r"arrays of one length .*\(2,\).*\(3,\)",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused_by_train_and_eval_step(error, batch, message):
    train_state = init_train_state(LINEAR, optax.sgd(0.1), jax.random.key(0))
    for name, call in {
        "train_step": lambda: make_train_step(LINEAR, optax.sgd(0.1))(train_state, batch, jax.random.key(1)),
        "eval_step": lambda: make_eval_step(LINEAR)(train_state.params, train_state.state, batch),
    }.items():
        with pytest.raises(error, match=f"{name} expects {message}"):
            call()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"micro_batches": 0}, "micro_batches of at least 1, got 0"),
        ({"ema": 1.0}, r"ema in \[0, 1\), or None, got 1.0"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight of at least 0, and finite, got -1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, message):
    with pytest.raises(ValueError, match=f"make_train_step expects {message}"):
        make_train_step(LINEAR, optax.sgd(0.1), **option)


def test_micro_batches_that_do_not_divide_the_batch_are_refused():
    step = make_train_step(LINEAR, optax.sgd(0.1), micro_batches=4)
    with pytest.raises(ValueError, match="micro_batches=4 expects a batch size that it divides, got 6 examples"):
        step(init_train_state(LINEAR, optax.sgd(0.1), jax.random.key(0)), batch_of(*some_batch()), jax.random.key(1))


@pytest.mark.parametrize("optimizer", [None, optax.sgd, 0.1, "adam"])
def test_what_is_no_optimizer_is_refused(optimizer):
    params, state = LINEAR.init(jax.random.key(0))
    for make in (
        lambda: init_train_state(LINEAR, optimizer, jax.random.key(0)),
        lambda: make_train_state(params, state, optimizer),
        lambda: make_train_step(LINEAR, optimizer),
    ):
        with pytest.raises(TypeError, match=r"expected an optimizer of Optax, such as optax.adam\(1e-3\), got"):
            make()


@pytest.mark.parametrize("key", [0, None])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TypeError, match=rf"expects a key, such as jax.random.key\(0\), got {key}"):
        init_train_state(LINEAR, optax.sgd(0.1), key)
