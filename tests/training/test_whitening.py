"""The whitening of patches, by what the convolution makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.layers import Conv, Dense, Sequential, batched
from jaxcnn.training import whitened

IMAGES = (
    np.random.default_rng(0).normal(size=(40, 9, 8, 3)).cumsum(1).cumsum(2) * np.array([1, 2, 4]) % 97 + [0, 40, 100]
).astype(np.uint8)
MODEL = Sequential(stem=Sequential(whiten=Conv(3, 26, 2, padding="VALID")), head=Dense(26, 2))
SOURCE = data.arrays(image=IMAGES, label=np.arange(40) % 2)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0))[0]


def responses(params, images):
    y, _ = batched(MODEL["stem"])(params["stem"], {"whiten": {}}, jnp.asarray(images, jnp.float32) / 255, train=False)
    return np.float64(y).reshape(-1, 26)


def test_patches_become_uncorrelated_with_mean_zero_and_variance_one(params):
    new = whitened(params, SOURCE, "stem/whiten", epsilon=1e-9)
    y = responses(new, IMAGES)[:, :24]
    np.testing.assert_allclose(y.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(np.cov(y[:, :12].T), np.eye(12), atol=2e-3)
    np.testing.assert_allclose(y[:, :12], -y[:, 12:], atol=1e-3)
    for name, part in (("kernel", np.s_[..., 24:]), ("bias", np.s_[24:])):
        leaf, old = (tree["stem"]["whiten"][name] for tree in (new, params))
        np.testing.assert_array_equal(leaf[part], old[part])
        assert (leaf.dtype, leaf.shape) == (old.dtype, old.shape)
    assert new["head"] is not None
    np.testing.assert_array_equal(new["head"]["kernel"], params["head"]["kernel"])


def test_epsilon_holds_back_the_weak_directions_of_normalised_patches(params):
    # The variance of a direction becomes its eigenvalue / (eigenvalue + epsilon), computed here from single patches.
    pixels = IMAGES / 255
    pixels = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    patches = [image[r : r + 2, c : c + 2].ravel() for image in pixels for r in range(8) for c in range(7)]
    eigenvalues = np.linalg.eigvalsh(np.cov(np.array(patches).T, bias=True))
    variances = responses(whitened(params, SOURCE, "stem/whiten", epsilon=0.1), IMAGES)[:, :12].var(0)
    np.testing.assert_allclose(variances, eigenvalues / (eigenvalues + 0.1), rtol=1e-3)


def test_images_of_one_colour_stay_finite(params):
    flat = data.arrays(image=np.full((4, 5, 5, 3), 30, np.uint8), label=np.arange(4) % 2)
    y = responses(whitened(params, flat, "stem/whiten"), np.full((1, 5, 5, 3), 30))
    np.testing.assert_allclose(y[:, :24], 0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "stem"}, "whitened expects the path of a convolution with a bias, got 'stem'; see jaxcnn summary"),
        ({"path": "head"}, "whitened expects the path of a convolution with a bias, got 'head'"),
        ({"epsilon": 0.0}, r"whitened expects an epsilon above 0, got 0\.0"),
        (
            {"source": data.arrays(image=IMAGES[..., :1], label=np.arange(40) % 2)},
            "whitened expects images of 3 channels and at least 2x2 pixels for 'stem/whiten', got 9x8x1",
        ),
        (
            {"source": data.arrays(image=IMAGES[:, :1], label=np.arange(40) % 2)},
            "at least 2x2 pixels for 'stem/whiten', got 1x8x3",
        ),
    ],
)
def test_what_cannot_be_whitened_is_refused(params, options, message):
    options = {"source": SOURCE, "path": "stem/whiten", **options}
    with pytest.raises(ValueError, match=message):
        whitened(params, **options)


def test_too_few_filters_are_refused():
    params, _ = Sequential(whiten=Conv(3, 16, 2)).init(jax.random.key(0))
    with pytest.raises(ValueError, match="at least 24 filters in 'whiten', two for each value of a patch, got 16"):
        whitened(params, SOURCE)
