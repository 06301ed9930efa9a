import sys

import numpy as np
import pytest

from jaxcnn.data import digits


@pytest.fixture(scope="module")
def stored():
    return pytest.importorskip("sklearn.datasets").load_digits()


def interpolated(images, size):
    """Bilinear resizing of (n, 8, 8) by np.interp along each axis, pixel centres at half-integers."""
    places = (np.arange(size) + 0.5) * 8 / size - 0.5

    def along_a_line(line):
        return np.interp(places, np.arange(8), line)

    return np.apply_along_axis(along_a_line, 2, np.apply_along_axis(along_a_line, 1, images))


def test_digits_are_1797_labelled_images(stored):
    data = digits()
    images, labels = data.entries["image"], data.entries["label"]
    assert images.shape == (1797, 32, 32, 1)
    assert isinstance(images, np.ndarray)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert (images.min(), images.max()) == (0, 1)
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(labels, stored.target)
    np.testing.assert_array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_eight_pixels_are_the_stored_images(stored):
    np.testing.assert_array_equal(digits(8).entries["image"][..., 0] * 16, stored.images)


@pytest.mark.parametrize("size", [1, 5, 20, 32])
def test_other_sizes_are_bilinear(stored, size):
    expected = interpolated(stored.images[:40] / 16, size)
    np.testing.assert_allclose(digits(size).entries["image"][:40, :, :, 0], expected, atol=3e-7)


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        digits(0)


def test_a_missing_scikit_learn_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxcnn\[cli\]'"):
        digits()
