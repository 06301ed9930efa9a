"""Images of a batch that are joined with their objects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training import Mosaic, ObjectMixup

SIZE = 32


def make_batch(count=5, slots=3, seed=0):
    """Makes images of one grey level each, with objects that their masks fill; the classes tell the image."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, SIZE - 12, (count, slots, 2))
    boxes = np.concatenate([corners, corners + rng.integers(6, 12, (count, slots, 2))], axis=2)
    valid = np.arange(slots) < np.array([slots, 1, 0, 2, slots])[:count, None]
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x0, y0, x1, y1 = (boxes[..., edge, None, None] for edge in range(4))
    masks = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1) & valid[..., None, None]
    levels = np.linspace(0.1, 0.9, count, dtype=np.float32)
    return {
        "image": np.broadcast_to(levels[:, None, None, None], (count, SIZE, SIZE, 2)).copy(),
        "boxes": (boxes * valid[..., None]).astype(np.float32),
        "classes": (np.arange(count)[:, None] * valid).astype(np.int32),
        "crowd": valid & (np.arange(slots) == 1),
        "valid": valid,
        "masks": masks,
    }


@functools.cache
def compiled(mix):
    return jax.jit(lambda key, batch: mix(key, batch))


def joined(mix, batch, key=0):
    return jax.tree.map(np.asarray, compiled(mix)(jax.random.key(key), batch))


def test_what_no_image_covers_is_filled():
    batch = make_batch()
    empty, filled = (joined(Mosaic(scale=(0.5, 0.5), fill=fill), batch)["image"] for fill in (0.0, 0.75))
    # No image is darker than 0.1.
    uncovered = empty == 0
    assert 0.05 < uncovered.mean() < 0.7
    np.testing.assert_allclose(filled[uncovered], 0.75, rtol=1e-6)
    levels = batch["image"][:, 0, 0, 0]
    covered = np.abs(empty[..., None] - levels).min(-1) < 1e-6
    np.testing.assert_allclose(filled[covered], empty[covered], atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize("scale", [(1.0, 1.0), pytest.param((0.5, 1.5), marks=pytest.mark.slow)])
def test_four_images_stand_around_a_point_with_their_objects(scale):
    batch, seen = make_batch(), 0
    for key in range(4):
        found = joined(Mosaic(scale=scale, fill=0.0), batch, key)
        assert {name: array.shape[1:] for name, array in found.items()} == {
            name: (SIZE, SIZE, 2) if name == "image" else (12, *array.shape[2:]) for name, array in batch.items()
        }
        for index in range(5):
            image = found["image"][index, ..., 0]
            nearest = np.abs(image[..., None] - batch["image"][:, 0, 0, 0]).argmin(-1)
            exact = np.abs(image[..., None] - batch["image"][:, 0, 0, 0]).min(-1) < 1e-5
            tiles = set(nearest[exact].tolist())
            assert len(tiles) == 4
            assert index in tiles
            rows, columns = np.nonzero(exact & (nearest == index))
            others = exact & (nearest != index)
            # No other image lies in the quadrant above and left of the point, that of the example itself.
            assert not others[: rows.max() + 1, : columns.max() + 1].any()
            for slot in np.flatnonzero(found["valid"][index]):
                mask, box = found["masks"][index, slot], found["boxes"][index, slot]
                high, wide = np.nonzero(mask)
                np.testing.assert_allclose(box, [wide.min(), high.min(), wide.max() + 1, high.max() + 1], atol=1.01)
                # The object lies on its own image.
                own = found["classes"][index, slot]
                assert (nearest[mask & exact] == own).all()
                seen += 1
            for name in ("boxes", "classes", "crowd", "masks"):
                assert not found[name][index][~found["valid"][index]].any()
    assert seen > 40


def test_a_small_mosaic_is_filled_around():
    found = joined(Mosaic(scale=(0.25, 0.25), fill=0.0), make_batch())["image"]
    assert 0.2 < (found > 0.05).mean() < 0.35


def test_without_a_mosaic_every_example_stays():
    batch = make_batch()
    found = joined(Mosaic(probability=0.0), batch)
    np.testing.assert_allclose(found["image"], batch["image"], atol=1e-6)
    for name in ("boxes", "classes", "crowd", "valid", "masks"):
        for index, valid in enumerate(batch["valid"]):
            count = valid.sum()
            np.testing.assert_array_equal(found[name][index][:count], batch[name][index][valid])
            assert not found[name][index][count:].any()


def test_some_examples_become_mosaics():
    batch, mix = make_batch(), Mosaic(probability=0.5)
    found = np.concatenate([joined(mix, batch, key)["image"] for key in range(20)])
    expected = np.concatenate([batch["image"]] * 20)
    assert 0.3 < np.isclose(found, expected, atol=1e-5).all((1, 2, 3)).mean() < 0.7


@pytest.mark.heavy
@pytest.mark.parametrize("mix", [pytest.param(Mosaic, marks=pytest.mark.slow), ObjectMixup])
def test_empty_slots_change_nothing(mix):
    few, many = make_batch(slots=3), make_batch(slots=3)
    for name, array in many.items():
        if name != "image":
            many[name] = np.concatenate([array, np.zeros_like(array)], axis=1)
    one, other = joined(mix(max_objects=5), few), joined(mix(max_objects=5), many)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.heavy
@pytest.mark.parametrize("mix", [pytest.param(Mosaic, marks=pytest.mark.slow), ObjectMixup])
def test_too_many_objects_lose_the_smallest(mix):
    batch = make_batch()
    everything, some = joined(mix(), batch), joined(mix(max_objects=2), batch)
    assert some["boxes"].shape == (5, 2, 4)
    lost = 0
    for index, valid in enumerate(everything["valid"]):
        boxes = everything["boxes"][index][valid]
        areas = np.sort((boxes[:, 2:] - boxes[:, :2]).prod(1))[::-1]
        found = some["boxes"][index][some["valid"][index]]
        np.testing.assert_allclose(np.sort((found[:, 2:] - found[:, :2]).prod(1))[::-1], areas[:2], rtol=1e-6)
        lost += max(valid.sum() - 2, 0)
    assert lost > 0


def test_mixup_blends_two_images_and_keeps_the_objects_of_both():
    batch = make_batch()
    shares = [share_of(joined(ObjectMixup(), batch, key), batch) for key in range(2)]
    assert all(0 < share < 1 for share in shares)
    # It is drawn.
    assert abs(shares[0] - shares[1]) > 1e-3


def share_of(found, batch):
    """Returns the share of the first image in blends, after checking their objects."""
    levels, blended = batch["image"][:, 0, 0, 0], found["image"][:, 0, 0, 0]
    pairs = []
    for index in range(5):
        classes = found["classes"][index][found["valid"][index]].tolist()
        others = [other for other in range(5) if other != index]
        expected = {
            other: [index] * batch["valid"][index].sum() + [other] * batch["valid"][other].sum() for other in others
        }
        shares = {other: (blended[index] - levels[other]) / (levels[index] - levels[other]) for other in others}
        pairs.append({round(float(shares[other]), 4) for other in others if expected[other] == classes})
    [share] = set.intersection(*pairs)
    return share


@pytest.mark.parametrize("mix", [Mosaic(), ObjectMixup()])
def test_batches_that_cannot_be_joined_are_refused(mix):
    batch, key = make_batch(), jax.random.key(0)
    name = type(mix).__name__
    with pytest.raises(ValueError, match=f'{name} expects a batch without "weight"'):
        mix(key, batch | {"weight": np.ones(5)})
    with pytest.raises(ValueError, match=rf"{name} expects a batch with 'image', 'boxes' and 'valid', got \['image'\]"):
        mix(key, {"image": batch["image"]})
    with pytest.raises(ValueError, match=f"{name} cannot join 'label', 'mask'; omit them"):
        mix(key, batch | {"mask": jnp.zeros((5, SIZE, SIZE), int), "label": jnp.zeros(5, int)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mosaic(scale=(0, 1)), r"Mosaic expects scale, a pair \(least, greatest\) above 0, got \(0, 1\)"),
        (lambda: Mosaic(probability=1.5), r"Mosaic expects probability in \[0, 1\], got 1.5"),
        (lambda: Mosaic(least_visible=-1), r"Mosaic expects least_visible in \[0, 1\], got -1"),
        (lambda: Mosaic(max_objects=0), "Mosaic expects max_objects of at least 1, or None, got 0"),
        (lambda: ObjectMixup(alpha=0), "ObjectMixup expects a finite alpha above 0, got 0"),
        (lambda: ObjectMixup(max_objects=0), "ObjectMixup expects max_objects of at least 1, or None, got 0"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
