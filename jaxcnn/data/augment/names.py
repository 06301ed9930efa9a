"""Augmentations by name, and from a text such as "random_crop(padding=4), flip(), cutout(8)"."""

import ast
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.data.augment import colour, erasing, policies, scenes, spatial
from jaxcnn.data.augment.steps import Composition, Step, compose, option_names
from jaxcnn.text import nearest

FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    function.__name__: function
    for function in (
        spatial.affine,
        spatial.alternating_flip,
        policies.aug_mix,
        colour.autocontrast,
        colour.blur,
        colour.brightness,
        colour.color_jitter,
        colour.contrast,
        erasing.cutout,
        spatial.elastic,
        colour.equalize,
        spatial.flip,
        colour.grayscale,
        colour.hue,
        colour.invert,
        colour.jpeg,
        colour.noise,
        spatial.perspective,
        colour.posterize,
        policies.rand_augment,
        spatial.random_crop,
        erasing.random_erasing,
        scenes.random_iou_crop,
        spatial.random_resized_crop,
        spatial.rotate,
        colour.saturation,
        scenes.scale_jitter,
        colour.sharpness,
        spatial.shift,
        colour.solarize,
        policies.trivial_augment,
        scenes.zoom_out,
    )
}
"""The augmentations that a text may call, by name."""

AUGMENTATIONS: dict[str, Composition | None] = {
    "affine": compose(Step(spatial.affine, max_degrees=12, max_scale=0.12, max_shear=8, max_shift=4)),
    "crop-flip": compose(Step(spatial.random_crop, padding=4), Step(spatial.flip)),
    "crop-flip-cutout": compose(Step(spatial.random_crop, padding=4), Step(spatial.flip), Step(erasing.cutout, size=8)),
    "standard": compose(Step(spatial.random_resized_crop), Step(spatial.flip)),
    "color-jitter": compose(
        Step(spatial.random_resized_crop),
        Step(spatial.flip),
        Step(colour.color_jitter, brightness=0.4, contrast=0.4, saturation=0.4),
    ),
    "randaugment": compose(Step(spatial.random_resized_crop), Step(spatial.flip), Step(policies.rand_augment)),
    "trivial": compose(Step(spatial.random_resized_crop), Step(spatial.flip), Step(policies.trivial_augment)),
    "augmix": compose(Step(spatial.random_resized_crop), Step(spatial.flip), Step(policies.aug_mix)),
    "ssd": compose(
        Step(colour.color_jitter, brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05),
        Step(scenes.zoom_out, fill=0.5),
        Step(scenes.random_iou_crop),
        Step(spatial.flip),
    ),
    "large-scale-jitter": compose(Step(scenes.scale_jitter, fill=0.5), Step(spatial.flip)),
    "none": None,
}
"""Augmentations by name. crop-flip and crop-flip-cutout are those of CIFAR, standard to augmix of ImageNet, ssd and
large-scale-jitter of images with objects; ssd needs boxes."""


def parse_augment(text: str) -> Composition | None:
    """Builds an augmentation from its text: a name, or several calls and names, separated by commas.

        parse_augment("random_crop(padding=4), flip(), cutout(8)")
        parse_augment("standard, random_erasing(probability=0.25)")

    The text may come from anywhere: it can call only the augmentations of this package, with numbers, strings and
    tuples. The key and the image are not written.

    Args:
      text: one of `AUGMENTATIONS`, or a list of their names and of calls of augmentations.

    Returns:
      The augmentation; None for "none".

    Raises:
      ValueError: the text is no such list, a name is unknown, or a function does not take the options.
    """
    if not isinstance(text, str):
        raise ValueError(_expected(text))
    text = " ".join(text.split())
    if text in AUGMENTATIONS:
        return AUGMENTATIONS[text]
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(_expected(text)) from None
    nodes = body.elts if isinstance(body, ast.Tuple) else [body]
    return compose(*[step for node in nodes for step in _steps(text, node)])


def _steps(text: str, node: ast.expr) -> tuple[Step | Composition, ...]:
    # Not `ast.unparse`: it would write "crop-flip", a difference for Python, with spaces.
    source = ast.get_source_segment(text, node) or ""
    if source in AUGMENTATIONS:
        found = AUGMENTATIONS[source]
        if found is None:
            raise ValueError("expects none alone, got it in a list; omit it")
        return found.steps
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            return (_step(source, FUNCTIONS[name], node),)
        case ast.Call(func=ast.Name(id=name)):
            raise ValueError(
                f"expects augmentations among {', '.join(FUNCTIONS)}, got {name!r}{nearest(name, FUNCTIONS)}"
            )
        case ast.Name(id=name) if name in FUNCTIONS:
            raise ValueError(f"expects an augmentation with its options, got {name!r}; write {name}()")
    raise ValueError(_expected(source))


def _step(source: str, function: Callable[..., jax.Array], call: ast.Call) -> Step:
    names = option_names(function)
    values = [_value(argument) for argument in call.args]
    if len(values) > len(names):
        raise ValueError(f"expects at most the options {', '.join(names)} in {source!r}, got {len(values)} values")
    options = dict(zip(names, values, strict=False))
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in options:
            raise ValueError(f"expects each option once, by its name, got {source!r}")
        options[keyword.arg] = _value(keyword.value)
    try:
        return Step(function, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expects other options in {source!r}: {error}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.BinOp(op=ast.Div(), left=ast.Constant(value=int() as one), right=ast.Constant(value=int() as other)):
            return one / other if other else math.nan
        case ast.Tuple() | ast.List():
            return tuple(map(_value, node.elts))
    raise ValueError(f"expects numbers, strings and tuples as options, got {ast.unparse(node)!r}")


def _expected(given: object) -> str:
    return (
        f"expects one of {', '.join(AUGMENTATIONS)} or a list such as 'random_crop(padding=4), flip(), cutout(8)', got "
        f"{given!r}{nearest(str(given), AUGMENTATIONS)}"
    )
