"""Test-time augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import crop_views, mean_over_views, mirror_views, shift_views


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(6, 9, 2)), jnp.float32)


def test_views_of_a_mirror(image):
    np.testing.assert_array_equal(mirror_views(image), [image, image[:, ::-1]])


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_views_of_shifts_count_the_image_half(distance, image):
    views = np.asarray(shift_views(image, distance))
    mirrored = np.pad(image, ((distance, distance), (distance, distance), (0, 0)), mode="reflect")
    for view, start in zip(views, (distance, distance, 2 * distance, 0), strict=True):
        np.testing.assert_array_equal(view, mirrored[start : start + 6, start : start + 9])


@pytest.mark.parametrize(("size", "centre"), [((4, 6), (1, 2)), (5, (0, 2)), ((6, 9), (0, 0)), ((3, 4), (2, 2))])
def test_views_of_crops_are_corners_and_centre(size, centre, image):
    height, width = size if isinstance(size, tuple) else (size, size)
    views = np.asarray(crop_views(image, size))
    corners = [(0, 0), (0, 9 - width), (6 - height, 0), (6 - height, 9 - width), centre]
    for view, (top, left) in zip(views, corners, strict=True):
        np.testing.assert_array_equal(view, image[top : top + height, left : left + width])


def test_the_mean_is_that_of_a_loop_over_all_views(image):
    images = jnp.stack([image, 2 * image, 1 - image])
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(6, 9, 2, 4)), jnp.float32)

    def predict(batch):
        logits = jnp.tanh(jnp.einsum("nhwc,hwco->no", batch, kernel))
        return {"main": logits, "half": logits.astype(jnp.bfloat16)}

    result = jax.jit(mean_over_views(predict, mirror_views, shift_views))(images)
    expected = [
        np.mean([predict(view[None])["main"][0] for one in mirror_views(image) for view in shift_views(one)], axis=0)
        for image in images
    ]
    np.testing.assert_allclose(result["main"], expected, atol=1e-5)
    assert result["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(mean_over_views(predict)(images)["main"], predict(images)["main"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda image: mirror_views(image[None]), "mirror_views expects one image of shape"),
        (lambda image: shift_views(image[None]), "shift_views expects one image of shape"),
        (lambda image: crop_views(image[None], 4), "crop_views expects one image of shape"),
        (lambda image: shift_views(image, 6), "shift_views expects distance a whole number of pixels from 0 to 5"),
        (lambda image: crop_views(image, 7), r"expects a size of at most that of the image, \(6, 9\), got \(7, 7\)"),
        (
            lambda image: crop_views(image, 0),
            r"crop_views: size expects an int or a pair of ints, .*, got 0",
        ),
    ],
)
def test_nonsense_is_refused(call, message, image):
    with pytest.raises(ValueError, match=message):
        call(image)
