import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import data
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Function, GroupNorm, Sequential, freeze
from jaxcnn.tasks import Classification
from jaxcnn.training import (
    el2n_scores,
    fit,
    gradient_norms,
    grand_scores,
    init_train_state,
    make_per_example_step,
    make_train_step,
    per_example_gradients,
)


def model(norm=None):
    norm = GroupNorm(4, 2) if norm is None else norm
    return Sequential(conv=Conv(1, 4), norm=norm, relu=Function(jax.nn.relu), flatten=Flatten(), head=Dense(80, 3))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.random((6, 5, 4, 1), np.float32)
    return {"image": jnp.asarray(images), "label": jnp.asarray([0, 2, 1, 1, 0, 2])}


@pytest.fixture(scope="module")
def weights():
    return model().init(jax.random.key(0))


def private_sgd(learning_rate, clip_norm, noise_multiplier):
    aggregate = optax.contrib.differentially_private_aggregate(clip_norm, noise_multiplier, jax.random.key(7))
    return optax.chain(aggregate, optax.sgd(learning_rate))


def one_by_one(layer, params, state, batch):
    """The gradient of each example, by a loop."""

    def loss(params, image, label):
        logits, _ = layer.apply(params, state, image, train=False)
        return -jax.nn.log_softmax(logits)[label]

    gradient = jax.jit(jax.grad(loss))
    return [gradient(params, image, label) for image, label in zip(batch["image"], batch["label"], strict=True)]


def test_gradients_are_those_of_a_loop_over_the_examples(batch, weights):
    found, sums = jax.jit(lambda p, s, b: per_example_gradients(model(), p, s, b))(*weights, batch)
    expected = one_by_one(model(), *weights, batch)
    for place, gradient in enumerate(expected):
        jax.tree.map(
            lambda mine, theirs, place=place: np.testing.assert_allclose(mine[place], theirs, rtol=1e-4, atol=1e-6),
            found,
            gradient,
        )
    norms = [np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))) for gradient in expected]
    np.testing.assert_allclose(gradient_norms(found), norms, rtol=1e-4)
    assert sums["loss"].total.shape == sums["accuracy"].weight.shape == (6,)


def test_an_example_of_weight_0_has_no_gradient_and_other_weights_do_not_scale(batch, weights):
    plain, _ = per_example_gradients(model(), *weights, batch)
    weighted, _ = per_example_gradients(model(), *weights, batch | {"weight": jnp.array([1.0, 0, 1, 1, 1, 1])})
    np.testing.assert_allclose(gradient_norms(weighted), gradient_norms(plain) * jnp.array([1.0, 0, 1, 1, 1, 1]))


def test_without_clipping_and_noise_a_step_is_that_of_the_batch(batch):
    private = private_sgd(0.1, 1e6, 0.0)
    states = []
    for optimizer, make in ((private, make_per_example_step), (optax.sgd(0.1), make_train_step)):
        state, step = init_train_state(model(), optimizer, jax.random.key(0)), make(model(), optimizer)
        for _ in range(2):
            state, metrics = step(state, batch, jax.random.key(1))
        states.append((state.params, metrics.sums))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *states)


def test_a_step_of_private_sgd_clips_each_gradient_and_adds_noise_once(batch, weights):
    """Abadi et al. 2016, algorithm 1, by a loop."""
    clip, sigma, rate = 0.5, 2.0, 0.1
    params, _ = weights

    def step_with(noise):
        optimizer = private_sgd(rate, clip, noise)
        state = init_train_state(model(), optimizer, jax.random.key(0))
        return make_per_example_step(model(), optimizer)(state, batch, jax.random.key(1))

    gradients = one_by_one(model(), *weights, batch)
    norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
    assert max(norms) > clip
    clipped = [
        jax.tree.map(lambda leaf, n=n: leaf * min(1, clip / n), g) for g, n in zip(gradients, norms, strict=True)
    ]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *clipped)
    expected = jax.tree.map(lambda leaf, move: leaf - rate * move, params, mean)
    quiet, metrics = step_with(0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), quiet.params, expected)
    assert float(metrics.gradient_norm) == pytest.approx(max(norms), rel=1e-4)
    loud, _ = step_with(sigma)
    noise = np.concatenate(
        [np.ravel(a - b) for a, b in zip(jax.tree.leaves(loud.params), jax.tree.leaves(expected), strict=True)]
    )
    assert noise.std() == pytest.approx(rate * sigma * clip / 6, rel=0.15)
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)


def test_the_step_trains_with_fit_and_frozen_batch_norm(batch):
    frozen = freeze(model(BatchNorm(4)), "norm")
    optimizer = private_sgd(0.5, 10.0, 0.01)
    state = init_train_state(frozen, optimizer, jax.random.key(0))
    before = jax.tree.map(np.asarray, state.params["norm"])
    step = make_per_example_step(frozen, optimizer)
    fitted = fit(state, step, [batch], jax.random.key(1), epochs=15, prefetch=0)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"] / 2
    jax.tree.map(np.testing.assert_array_equal, fitted.train_state.params["norm"], before)


def test_each_example_draws_its_own_random_numbers(batch):
    dropped = Sequential(flatten=Flatten(), drop=Dropout(0.5), head=Dense(20, 3))
    params, state = dropped.init(jax.random.key(0))
    same = {name: jnp.repeat(array[:1], 6, axis=0) for name, array in batch.items()}
    found, _ = per_example_gradients(dropped, params, state, same, train=True, key=jax.random.key(1))
    masks = np.any(np.asarray(found["head"]["kernel"]) != 0, axis=2)
    assert len({mask.tobytes() for mask in masks}) == 6


def test_batch_norm_in_training_is_refused(batch):
    params, state = model(BatchNorm(4)).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"changes norm/mean, norm/var: batch norm mixes .* use GroupNorm"):
        per_example_gradients(model(BatchNorm(4)), params, state, batch, train=True)
    # In evaluation it mixes nothing.
    per_example_gradients(model(BatchNorm(4)), params, state, batch)


def test_an_optimizer_that_keeps_the_examples_apart_is_refused(batch):
    optimizer = optax.sgd(0.1)
    step = make_per_example_step(model(), optimizer)
    with pytest.raises(ValueError, match=r"combines the gradients of the examples, got one that keeps them apart"):
        step(init_train_state(model(), optimizer, jax.random.key(0)), batch, jax.random.key(1))
    with pytest.raises(TypeError, match=r"expected an optimizer of Optax"):
        make_per_example_step(model(), 0.1)


def test_el2n_is_the_norm_of_the_error():
    chances = np.random.default_rng(0).dirichlet(np.ones(4), (3, 5))
    labels = np.array([0, 3, 2, 1, 1])
    expected = [
        np.mean([np.sqrt(sum((p - (k == label)) ** 2 for k, p in enumerate(chances[m, i]))) for m in range(3)])
        for i, label in enumerate(labels)
    ]
    np.testing.assert_allclose(el2n_scores(chances, labels), expected)
    np.testing.assert_allclose(el2n_scores([[1.0, 0.0], [1.0, 0.0]], [0, 1]), [0, np.sqrt(2)])
    with pytest.raises(ValueError, match=r"got \(3, 5, 4\) and \(4,\)"):
        el2n_scores(chances, labels[:4])
    with pytest.raises(ValueError, match=r"labels in \[0, 4\), got 0 to 4"):
        el2n_scores(chances, [0, 4, 2, 1, 1])
    with pytest.raises(ValueError, match=r"probabilities in .* take the softmax"):
        el2n_scores(10 * chances, labels)
    with pytest.raises(TypeError, match="labels that are integers, got float64"):
        el2n_scores(chances, np.asarray(labels, float))


def test_grand_is_the_mean_norm_over_the_models_and_leaves_padding_out(batch):
    source = data.arrays(image=np.asarray(batch["image"]), label=np.asarray(batch["label"]))
    members = [model().init(jax.random.key(seed)) for seed in range(2)]
    found = grand_scores(model(), members, lambda: data.eval_batches(source, 4), Classification())
    norms = [[float(optax.tree.norm(g)) for g in one_by_one(model(), *member, batch)] for member in members]
    np.testing.assert_allclose(found, np.mean(norms, axis=0), rtol=1e-4)
    with pytest.raises(ValueError, match="at least one model and one example, got none"):
        grand_scores(model(), [], lambda: data.eval_batches(source, 4))
