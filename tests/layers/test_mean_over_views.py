"""Test-time augmentation as a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import Conv, Dense, Flatten, MeanOverViews, Sequential, batched, freeze
from jaxcnn.models.text import parse_value

MODEL = Sequential(conv=Conv(2, 3), flatten=Flatten(), head=Dense(6 * 7 * 3, 4))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(3, 6, 7, 2)), jnp.float32)


def shifted(image, down, right):
    """The image, moved down and to the right, with its mirror image in the border."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    return padded[1 - down : 7 - down, 1 - right : 8 - right]


@pytest.mark.parametrize(
    ("views", "moves"), [("mirror", [(0, 0)]), ("mirror-shift", [(0, 0), (0, 0), (1, 1), (-1, -1)])]
)
def test_evaluation_is_the_mean_over_a_loop_and_training_the_model_itself(views, moves, key, images):
    model = MeanOverViews(MODEL, views)
    params, state = MODEL.init(key)
    assert jax.tree.structure(model.init(key)) == jax.tree.structure((params, state))
    run = jax.jit(batched(model), static_argnames="train")
    for image, result in zip(np.asarray(images), run(params, state, images, train=False)[0], strict=True):
        several = np.stack([shifted(one, *move) for one in (image, image[:, ::-1]) for move in moves])
        expected = batched(MODEL)(params, state, jnp.asarray(several), train=False)[0].mean(0)
        np.testing.assert_allclose(result, expected, atol=1e-5)
    trained = run(params, state, images, train=True, key=key)[0]
    np.testing.assert_allclose(trained, batched(MODEL)(params, state, images, train=True)[0], atol=1e-6)


def test_its_layers_are_those_of_the_model():
    model = MeanOverViews(MODEL)
    assert model["head"] == MODEL["head"]
    assert freeze(model, "conv") == MeanOverViews(freeze(MODEL, "conv"))
    assert parse_value(repr(model)) == model


def test_unknown_views_are_refused():
    with pytest.raises(ValueError, match="MeanOverViews expects views among mirror, mirror-shift, got 'crops'"):
        MeanOverViews(MODEL, "crops")
