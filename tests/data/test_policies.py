"""RandAugment, TrivialAugment and AugMix by their laws; tests/parity compares them with torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import Step, aug_mix, rand_augment, trivial_augment
from jaxcnn.data.augment import operations
from jaxcnn.data.augment.policies import OPERATIONS, Operation

POLICIES = [Step(rand_augment), Step(trivial_augment, interpolation="bilinear"), Step(aug_mix)]


@pytest.fixture(scope="module")
def image():
    rows, columns = np.mgrid[:17, :22]
    waves = [0.5 + 0.4 * np.sin(rows / 3 + k) * np.cos(columns / (4 + k)) for k in range(3)]
    return jnp.asarray(np.round(255 * np.stack(waves, axis=-1)) / 255, jnp.float32)


def drawn(step, example, count=100, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    images = jax.jit(jax.vmap(lambda key: step(key, example)))(keys)
    return {name: np.asarray(array) for name, array in images.items()}


@pytest.fixture(scope="module")
def change():
    """Applies one operation, by name."""

    @jax.jit
    def apply(kind, magnitude, image):
        operation = Operation(kind, magnitude)
        return operation.recolour(operation.geometry(*image.shape[:2], "nearest").image(image, 0))

    return lambda name, magnitude, image: np.asarray(
        apply(jnp.int32(OPERATIONS.index(name)), jnp.float32(magnitude), image)
    )


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("step", POLICIES, ids=repr)
def test_policies_draw_many_images_in_range(step, image):
    images = drawn(step, {"image": image})["image"]
    assert images.shape == (100, *image.shape)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6
    assert len({one.tobytes() for one in images}) > 20


@pytest.mark.parametrize("step", POLICIES, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_shape_and_dtype_are_kept(step, dtype):
    for channels in (1, 3):
        example = {"image": jax.ShapeDtypeStruct((7, 9, channels), dtype)}
        result = jax.eval_shape(step, jax.random.key(0), example)["image"]
        assert (result.shape, result.dtype) == ((7, 9, channels), dtype)


@pytest.mark.parametrize("step", POLICIES, ids=repr)
def test_double_precision_is_kept(step, float64):
    result = jax.eval_shape(step, jax.random.key(0), {"image": jax.ShapeDtypeStruct((7, 9, 3), jnp.float64)})["image"]
    assert result.dtype == jnp.float64


def test_no_operation_is_the_identity(image):
    images = drawn(Step(rand_augment, num_ops=0), {"image": image}, 3)["image"]
    np.testing.assert_array_equal(images, np.stack([image] * 3))


def test_a_policy_gives_the_image_of_one_of_the_operations(image, change):
    candidates = {}
    for name in OPERATIONS:
        magnitudes = {"posterize": [7], "solarize": [0.7]}.get(name, [0])
        strength = {"shear": 0.09, "rotate": 9}.get(name.partition("_")[0], 0.27)
        strength *= {"translate_x": 150 / 331 * 22 / 0.9, "translate_y": 150 / 331 * 17 / 0.9}.get(name, 1)
        if OPERATIONS.index(name) in range(1, 10):
            magnitudes = [strength, -strength]
        for magnitude in magnitudes:
            candidates[name, magnitude] = change(name, magnitude, image)
    images = drawn(Step(rand_augment, num_ops=1), {"image": image}, 400)["image"]
    counts = dict.fromkeys(candidates, 0)
    for one in images:
        near = {which: np.mean(np.abs(one - candidate) > 1e-5) for which, candidate in candidates.items()}
        best = min(near, key=near.get)
        assert near[best] < 0.01, (best, near[best])
        counts[best] += 1
    kinds = {name: sum(count for (one, _), count in counts.items() if one == name) for name in OPERATIONS}
    assert min(kinds.values()) > 10  # 29 expected
    assert max(kinds.values()) < 60
    assert min(counts.values()) >= 4


def test_operations_without_strength_are_the_identity(image, change):
    for name in OPERATIONS[:10]:
        np.testing.assert_array_equal(change(name, 0, image), image)
    np.testing.assert_array_equal(change("posterize", 8, image), image)
    np.testing.assert_array_equal(change("solarize", 1, image), image)


def test_operations_that_only_change_colours_are_those_of_their_names(image, change):
    luma = np.asarray(image) @ np.array([0.2989, 0.587, 0.114], np.float32)
    expected = {
        ("brightness", 0.3): np.clip(1.3 * image, 0, 1),
        ("color", -0.9): luma[..., None] + 0.1 * (image - luma[..., None]),
        ("contrast", -0.9): luma.mean() + 0.1 * (image - luma.mean()),
        ("sharpness", -0.5): (operations.smoothed(image) + image) / 2,
        ("posterize", 3): operations.posterized(image, 3),
        ("solarize", 0.4): jnp.where(image >= 0.4, 1 - image, image),
        ("autocontrast", 0): operations.autocontrasted(image),
        ("equalize", 0): operations.equalized(image),
    }
    for (name, magnitude), result in expected.items():
        np.testing.assert_allclose(change(name, magnitude, image), result, atol=1e-5)


def test_quarter_turns_and_translations_are_exact(image, change):
    square = image[:, :17]
    np.testing.assert_array_equal(change("rotate", 90, square), np.rot90(square))
    moved = np.zeros_like(image)
    moved[:, 5:] = image[:, :-5]
    np.testing.assert_array_equal(change("translate_x", 5.9, image), moved)
    moved = np.zeros_like(image)
    moved[:-3] = image[3:]
    np.testing.assert_array_equal(change("translate_y", -3.9, image), moved)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("step", [Step(rand_augment, magnitude=20), Step(trivial_augment)], ids=repr)
def test_masks_and_boxes_move_along(step):
    """A white square on black: what changes colours leaves it brighter than the rest, or inverts both."""
    height, width = 40, 40
    mask = np.zeros((height, width), np.int32)
    mask[12:26, 10:22] = 1
    image = jnp.asarray(np.repeat(0.2 + 0.6 * mask[..., None], 3, axis=2), jnp.float32)
    boxes = jnp.array([[10.0, 12.0, 22.0, 26.0]])
    moved = drawn(step, {"image": image, "mask": jnp.asarray(mask), "boxes": boxes, "valid": jnp.array([True])}, 60)
    assert len({one.tobytes() for one in moved["mask"]}) > 10
    compared = 0
    for image, mask, box, valid in zip(*(moved[name] for name in ("image", "mask", "boxes", "valid")), strict=True):
        inside, background = mask == 1, mask == 0
        assert valid[0] == inside.any()
        if inside.sum() < 20:
            continue
        light, dark = np.median(image[inside]), np.median(image[background])
        if abs(light - dark) > 0.1:  # not where a change of colour made all alike
            nearer_light = np.abs(image[..., 0] - light) < np.abs(image[..., 0] - dark)
            assert (nearer_light == inside)[inside | background].mean() > 0.97
            compared += 1
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (box[0][:2] <= found[:2] + 1).all()
        assert (box[0][2:] >= found[2:] - 1).all()
    assert compared > 30


def test_aug_mix_keeps_the_share_of_the_image(image):
    """With chains of one operation each, images differ less from the original than the operations do."""
    images = drawn(Step(aug_mix, severity=10, width=1, depth=1, alpha=1e-3), {"image": image}, 60)["image"]
    kept = [np.abs(one - image).max() < 1e-4 for one in images]
    assert 15 < sum(kept) < 55  # an extreme alpha gives the image alone or the chain alone


@pytest.mark.slow
@pytest.mark.heavy
def test_aug_mix_refuses_what_it_cannot_move(image, key):
    with pytest.raises(ValueError, match=r"aug_mix expects an example without mask and boxes, .*; use rand_augment or"):
        Step(aug_mix)(key, {"image": image, "mask": jnp.zeros(image.shape[:2], int)})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(rand_augment, num_ops=-1), "rand_augment expects num_ops a whole number of at least 0, got -1"),
        (Step(rand_augment, magnitude=31), r"rand_augment expects magnitude a whole number from 0 to 30, .*, got 31"),
        (Step(rand_augment, bins=0), "rand_augment expects bins a whole number of at least 1, got 0"),
        (Step(rand_augment, interpolation="bicubic"), r"rand_augment expects interpolation 'nearest' or .* 'bicubic'"),
        (Step(trivial_augment, bins=1.5), r"trivial_augment expects bins a whole number of at least 1, got 1\.5"),
        (
            Step(trivial_augment, interpolation=0),
            "trivial_augment expects interpolation 'nearest' or 'bilinear', got 0",
        ),
        (Step(aug_mix, severity=11), "aug_mix expects severity a whole number from 1 to 10, got 11"),
        (Step(aug_mix, width=0), "aug_mix expects width a whole number of at least 1, got 0"),
        (Step(aug_mix, depth=0), "aug_mix expects depth a whole number of at least 1, got 0"),
        (Step(aug_mix, alpha=0), "aug_mix expects alpha finite and above 0, got 0"),
        (Step(aug_mix, interpolation="box"), "aug_mix expects interpolation 'nearest' or 'bilinear', got 'box'"),
    ],
    ids=repr,
)
def test_nonsense_is_refused(step, message, key):
    with pytest.raises(ValueError, match=message):
        step(key, {"image": jnp.zeros((7, 9, 3))})
    name = step.function.__name__
    with pytest.raises(ValueError, match=rf"{name} expects a grey or RGB image, .* got shape \(7, 9, 4\)"):
        step(key, {"image": jnp.zeros((7, 9, 4))})
