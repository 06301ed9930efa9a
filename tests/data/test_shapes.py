import functools
import sys

import numpy as np
import pytest

from jaxcnn.data import shapes
from jaxcnn.data.sources.shapes import PARTS, _example, enlarged


@pytest.fixture(scope="module")
def parts():
    pytest.importorskip("sklearn.datasets")
    pytest.importorskip("PIL")
    return shapes()


def test_shapes_are_pictures_with_masks_of_five_classes(parts):
    assert {name: len(part) for name, part in parts.items()} == {"train": 2000, "validation": 400, "test": 400}
    for part in parts.values():
        images, masks = part.entries["image"], part.entries["mask"]
        assert (images.dtype, images.shape[1:]) == (np.uint8, (48, 48, 3))
        assert (masks.dtype, masks.shape) == (np.uint8, images.shape[:3])
        assert part.class_names == ("background", *"0123")
        shares = np.bincount(masks.ravel(), minlength=5) / masks.size
        assert 0.88 < shares[0] < 0.95
        assert shares[1:].min() > 0.015


def test_the_shapes_of_seed_zero_never_change(parts):
    # Of masks alone: the decoder of JPEG may round the photographs differently elsewhere.
    places = np.arange(48)
    sums = [
        tuple(int(np.sum(mask * places[:, None] * (places + 1))) for mask in part.entries["mask"][:3].astype(np.int64))
        for part in parts.values()
    ]
    assert sums == [(606612, 327657, 359550), (286713, 128600, 203272), (39685, 62828, 96422)]


def test_an_example_depends_on_the_seed_and_its_index_alone(parts, monkeypatch):
    for name, part in list(PARTS.items()):
        monkeypatch.setitem(PARTS, name, part._replace(examples=20))
    again, other = shapes(), shapes(seed=1)
    for name, part in again.items():
        for entry, array in part.entries.items():
            np.testing.assert_array_equal(array, parts[name].entries[entry][:20])
    unique = {image.tobytes() for part in (*again.values(), *other.values()) for image in part.entries["image"]}
    assert len(unique) == 2 * 3 * 20


def test_parts_share_neither_digits_nor_columns_of_the_photographs(monkeypatch):
    seen = []

    def watched(rng, size, digits, labels, strips):
        seen.append(({digit.tobytes() for digit in digits}, [strip.tobytes() for strip in strips], len(labels)))
        return np.zeros((size, size, 3), np.uint8), np.resize(np.arange(5, dtype=np.uint8), (size, size))

    pytest.importorskip("sklearn.datasets")
    from sklearn.datasets import load_digits, load_sample_images

    monkeypatch.setattr("jaxcnn.data.sources.shapes._example", watched)
    for name, part in list(PARTS.items()):
        monkeypatch.setitem(PARTS, name, part._replace(examples=1))
    shapes()
    train, validation, test = seen
    assert sum(part[2] for part in (train, validation, test)) == np.sum(load_digits().target < 4)
    for one, other in ((train, validation), (train, test), (validation, test)):
        assert not one[0] & other[0]
    columns = {name: [] for name in ("train", "validation", "test")}
    for photograph in load_sample_images().images:
        for name, part in zip(columns, (train, validation, test), strict=True):
            for strip in part[1]:
                pixels = np.frombuffer(strip, np.uint8).reshape(427, -1, 3)
                width = pixels.shape[1]
                found = [c for c in range(640 - width + 1) if np.array_equal(photograph[:, c : c + width], pixels)]
                columns[name] += [column for c in found for column in range(c, c + width)]
    assert sorted(column for part in columns.values() for column in part) == sorted([*range(640)] * 2)


def test_a_digit_is_the_ink_mixed_into_the_photograph_under_it():
    digit = np.zeros((8, 8), np.int64)
    digit[2:6, 3:5] = 16
    strip = np.random.default_rng(3).integers(100, 140, (80, 90, 3), dtype=np.uint8)
    for seed in range(20):
        image, mask = _example(np.random.default_rng(seed), 64, digit[None], np.array([7]), [strip])
        assert set(np.unique(mask)) == {0, 8}
        # The strip has values from 100 to 139; colours are mixed, none is beyond the darkest or brightest ink.
        assert (np.abs(image[mask == 0].astype(int) - 120) <= 20).mean() > 0.9
        ink = image[mask == 8].astype(int).mean(axis=0) - 120
        assert np.abs(ink).min() > 5
        assert len(set(np.sign(ink))) == 1


@pytest.mark.parametrize("side", [8, 20, 27, 32])
def test_digits_are_enlarged_bilinearly(side):
    digit = np.random.default_rng(0).integers(0, 17, (8, 8))
    places = (np.arange(side) + 0.5) * 8 / side - 0.5
    line = functools.partial(np.interp, places, np.arange(8))
    smooth = np.apply_along_axis(line, 1, np.apply_along_axis(line, 0, digit.astype(float))) * 255 / 16
    expected = np.clip(2 * smooth - 128, 0, 255)
    found = enlarged(digit, side)
    assert found.dtype == np.int64
    assert np.abs(found - expected).max() < 2.001  # rounded down, then doubled


@pytest.mark.parametrize("size", [31, 129])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match=f"image_size must be from 32 to 128, got {size}"):
        shapes(size)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        shapes(seed=-1)


def test_a_missing_scikit_learn_is_named_with_the_remedy(monkeypatch):
    from jaxcnn.data.sources.shapes import read_material

    read_material.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxcnn\[cli\]'"):
        shapes()
