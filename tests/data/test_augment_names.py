"""Augmentations by name and from their text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.data import AUGMENTATIONS, Step, compose, parse_augment
from jaxcnn.data.augment.names import FUNCTIONS

OPTIONS = {
    "affine": "max_degrees=10",
    "blur": "3",
    "brightness": "0.2",
    "color_jitter": "0.4, 0.4, 0.4, 0.1",
    "contrast": "0.2",
    "cutout": "4",
    "elastic": "alpha=8, sigma=2",
    "hue": "0.1",
    "jpeg": "(30, 60)",
    "noise": "0.1",
    "posterize": "4",
    "random_crop": "2",
    "rotate": "10",
    "saturation": "0.2",
    "sharpness": "0.5",
    "shift": "2",
    "solarize": "128/255",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_read_and_fits_an_image(name):
    parsed = parse_augment(f"{name}({OPTIONS.get(name, '')})")
    assert [step.function for step in parsed.steps] == [getattr(data, name)]
    example = {"image": jax.ShapeDtypeStruct((20, 24, 3), jnp.float32), "index": jnp.int32(1), "epoch": jnp.int32(1)}
    example |= OBJECTS if name == "random_iou_crop" else {}
    result = jax.eval_shape(parsed, jax.random.key(0), example)["image"]
    assert (result.shape, result.dtype) == ((20, 24, 3), jnp.float32)


OBJECTS = {"boxes": jax.ShapeDtypeStruct((3, 4), jnp.float32), "valid": jax.ShapeDtypeStruct((3,), jnp.bool_)}


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_every_name_is_read_and_fits_an_image(name):
    parsed = parse_augment(f" {name} ")
    assert parsed is AUGMENTATIONS[name]
    example = {"image": jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)} | (OBJECTS if name == "ssd" else {})
    result = jax.eval_shape(parsed, jax.random.key(0), example)
    assert (result["image"].shape, result["image"].dtype) == ((32, 32, 3), jnp.float32)


def test_every_function_that_users_find_can_be_written():
    marked = {
        name
        for name in data.__all__
        if getattr(getattr(data, name), "__module__", "").startswith("jaxcnn.data.augment")
    }
    tools = {"Composition", "Step", "compose", "geometric", "parse_augment", "photometric"}
    assert marked - tools - {"crop_views", "mean_over_views", "mirror_views", "shift_views"} == set(FUNCTIONS)


def test_a_list_is_the_chain_of_its_steps():
    text = "random_crop(padding=4, border='reflect'), flip(),\ncutout(8, fill=-0.5)"
    expected = compose(
        Step(data.random_crop, padding=4, border="reflect"), Step(data.flip), Step(data.cutout, size=8, fill=-0.5)
    )
    assert parse_augment(text) == expected
    assert hash(parse_augment(text)) == hash(expected)


def test_a_list_may_hold_names_and_ratios():
    parsed = parse_augment("crop-flip, random_resized_crop((16, 24), ratio=[3/4, 4/3]), crop-flip-cutout")
    steps = AUGMENTATIONS["crop-flip"].steps
    crop = Step(data.random_resized_crop, size=(16, 24), ratio=(3 / 4, 4 / 3))
    assert parsed == compose(*steps, crop, *AUGMENTATIONS["crop-flip-cutout"].steps)


def test_none_is_nothing():
    assert parse_augment("none") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("afine", "expects one of affine, .*, none or a list such as .*, got 'afine'; did you mean affine"),
        ("", "expects one of affine, .* got ''"),
        ("flip(), ", None),
        ("flip() cutout(8)", "expects one of .* got .flip.. cutout.8.."),
        ("flip(), crop-flipp", "expects one of .*, got 'crop-flipp'; did you mean crop-flip"),
        ("flip(), none", "expects none alone, got it in a list; omit it"),
        ("flip", r"expects an augmentation with its options, got 'flip'; write flip\(\)"),
        ("flipp()", "expects augmentations among affine, .*, got 'flipp'; did you mean flip"),
        ("open('x')", "expects augmentations among affine, .*, got 'open'"),
        ("data.flip()", r"expects one of .* got 'data.flip\(\)'"),
        ("cutout(8, 1, 2)", r"expects at most the options size, fill in 'cutout\(8, 1, 2\)', got 3 values"),
        ("cutout(8, size=8)", r"expects each option once, by its name, got 'cutout\(8, size=8\)'"),
        ("cutout(**{'size': 8})", "expects each option once, by its name, got"),
        ("cutout(sise=8)", r"other options in 'cutout\(sise=8\)': cutout takes the options \['size', 'fill'\]"),
        ("cutout()", r"other options in 'cutout\(\)': cutout takes the options .*: missing a required .* 'size'"),
        ("cutout(8 + 1)", r"expects numbers, strings and tuples as options, got '8 \+ 1'"),
        ("cutout(size)", "expects numbers, strings and tuples as options, got 'size'"),
        ("shift(2, mask_fill=-1)", "Step expects mask_fill, a class index of at least 0, got -1"),
        (None, "expects one of .*, got None"),
        ("((((", r"expects one of .* got '\(\(\(\('"),
        ("flip(\0)", "expects one of .* got"),
    ],
)
def test_what_is_no_augmentation_is_refused(text, message):
    if message is None:  # a comma after the last one, as Python allows
        assert parse_augment(text) == compose(Step(data.flip))
        return
    with pytest.raises(ValueError, match=message):
        parse_augment(text)


def test_a_text_draws_as_its_steps_do(key):
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(12, 14, 3)), jnp.float32)
    parsed = parse_augment("shift(2), cutout(4)")
    expected = data.cutout(jax.random.fold_in(key, 1), data.shift(jax.random.fold_in(key, 0), image, 2), 4)
    np.testing.assert_array_equal(parsed(key, {"image": image})["image"], expected)
