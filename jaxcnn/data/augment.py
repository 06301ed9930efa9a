"""Random changes of one training example: pure, keyed, of unchanged shapes and dtypes.

Each function changes one image. A `Step` applies it to an example, and `compose` chains steps:

    augment = compose(Step(shift, max_shift=2), Step(cutout, size=8))
    batch = jax.vmap(augment)(jax.random.split(key, batch_size), batch)

Geometric functions move pixels (`shift`, `random_crop`, `flip`, `affine`, `rotate`, `elastic`): their steps move "mask"
along. The others change only "image". All other entries stay as they are.

At zero strength, each of them is the identity.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.geometry import Border, Geometry, Mirror, Resampling, Window
from jaxcnn.data.sources.source import IGNORED
from jaxcnn.ops.check import check_image, is_int
from jaxcnn.types import Example
from jaxcnn.values import Partial

Draw = Callable[..., Geometry]
"""draw(key, height, width, **options): the geometry of an image of this size; the options are those of the step."""

_DRAWS: dict[Callable[..., jax.Array], Draw | None] = {}
"""The function that draws the geometry of an augmentation; None for an augmentation that moves no pixel."""

_F = TypeVar("_F", bound=Callable[..., jax.Array])


def geometric(draw: Draw) -> Callable[[_F], _F]:
    """Marks an augmentation that moves pixels, so that its `Step` moves the mask of an example along.

        @geometric(draw_zoom)
        def zoom(key, image, *, factor, fill=0.0):
            return draw_zoom(key, *image.shape[:2], factor=factor).image(image, fill)

    Args:
      draw: draws the geometry that the function applies to its image, from the same key, the height and the width, and
        the options of the function except `fill`.

    Returns:
      A decorator that returns the function itself.
    """

    def mark(function: _F) -> _F:
        _DRAWS[function] = draw
        return function

    return mark


def photometric(function: _F) -> _F:
    """Marks an augmentation that moves no pixel, so that its `Step` leaves the mask of an example as it is.

    Args:
      function: function(key, image, **options).

    Returns:
      The function itself.
    """
    _DRAWS[function] = None
    return function


def _draw_shift(key: jax.Array, height: int, width: int, *, max_shift: int) -> Window:
    _check_pixels("shift", "max_shift", max_shift, min(height, width) - 1)
    return Window(max_shift, _corner(key, max_shift))


def _draw_crop(key: jax.Array, height: int, width: int, *, padding: int, border: Border = "zeros") -> Window:
    _check_pixels("random_crop", "padding", padding, min(height, width) - 1)
    if border not in ("zeros", "edge", "reflect"):
        raise ValueError(f"random_crop expects border 'zeros', 'edge' or 'reflect', got {border!r}")
    return Window(padding, _corner(key, padding), border)


def _corner(key: jax.Array, padding: int) -> jax.Array:
    """Draws the place of a window; every place is equally likely."""
    return jax.random.randint(key, (2,), 0, 2 * padding + 1)


def _draw_flip(
    key: jax.Array,
    height: int,
    width: int,
    *,
    axis: Literal["horizontal", "vertical"] = "horizontal",
    probability: float = 0.5,
) -> Mirror:
    axes = {"horizontal": 1, "vertical": 0}
    if axis not in axes:
        raise ValueError(f"flip expects axis 'horizontal' or 'vertical', got {axis!r}")
    _check("flip", "probability", probability, 0 <= probability <= 1, "in [0, 1]")
    return Mirror(jax.random.bernoulli(key, float(probability)), axes[axis])


def _draw_affine(
    key: jax.Array,
    height: int,
    width: int,
    *,
    max_degrees: float = 0.0,
    max_scale: float = 0.0,
    max_shear: float = 0.0,
    max_shift: float = 0.0,
) -> Resampling:
    side = min(height, width)
    _check("affine", "max_degrees", max_degrees, 0 <= max_degrees <= 180, "in [0, 180]")
    _check("affine", "max_scale", max_scale, 0 <= max_scale < 1, "in [0, 1)")
    _check("affine", "max_shear", max_shear, 0 <= max_shear < 90, "in [0, 90)")
    _check("affine", "max_shift", max_shift, 0 <= max_shift < side, f"in [0, {side}), less than the image")
    # Always four draws: an option at zero does not change the other amounts.
    rotation, scale, shear, motion = jax.random.split(key, 4)
    return _affine_coordinates(
        height,
        width,
        degrees=_uniform(rotation, max_degrees),
        scale=1 + _uniform(scale, max_scale),
        shear=_uniform(shear, max_shear),
        shift=_uniform(motion, max_shift, (2,)),
    )


def _draw_rotation(key: jax.Array, height: int, width: int, *, max_degrees: float) -> Resampling:
    _check("rotate", "max_degrees", max_degrees, 0 <= max_degrees <= 180, "in [0, 180]")
    return _draw_affine(key, height, width, max_degrees=max_degrees)


def _draw_elastic(key: jax.Array, height: int, width: int, *, alpha: float, sigma: float) -> Resampling:
    side = max(height, width)
    _check("elastic", "alpha", alpha, 0 <= alpha < math.inf, "finite and at least 0")
    _check("elastic", "sigma", sigma, 0 < sigma <= side, f"above 0 and at most {side}, the longer side of the image")
    # Drawn in one row, as in `noise`.
    field = jax.random.uniform(key, (2 * height * width,), jnp.float32, -1, 1).reshape(2, height, width)
    down, right = alpha * _smooth(field, sigma)
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    return Resampling(rows[:, None] + down, columns[None, :] + right)


@geometric(_draw_shift)
def shift(key: jax.Array, image: jax.Array, max_shift: int, *, fill: float = 0.0) -> jax.Array:
    """Moves the image by a random whole number of pixels in each direction; nothing wraps around.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_shift: greatest distance in pixels, from 0 to less than the image; every distance is equally likely.
      fill: value of the pixels that come into view.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_shift` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("shift", image)
    return _draw_shift(key, *image.shape[:2], max_shift=max_shift).image(image, fill)


@geometric(_draw_crop)
def random_crop(key: jax.Array, image: jax.Array, padding: int, *, border: Border = "zeros") -> jax.Array:
    """Pads the image on all sides, and cuts out a random window of the image's size.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      padding: width of the border in pixels, from 0 to less than the image; every window is equally likely.
      border: values of the padded pixels: "zeros"; "edge", the nearest pixel; or "reflect", the mirror image without
        the edge itself.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, `padding` is out of range, or `border` is unknown.
      TypeError: `image` is not floating point.
    """
    check_image("random_crop", image)
    return _draw_crop(key, *image.shape[:2], padding=padding, border=border).image(image, 0)


@geometric(_draw_flip)
def flip(
    key: jax.Array,
    image: jax.Array,
    *,
    axis: Literal["horizontal", "vertical"] = "horizontal",
    probability: float = 0.5,
) -> jax.Array:
    """Mirrors the image with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      axis: "horizontal" swaps left and right, "vertical" top and bottom.
      probability: of mirroring, in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, `axis` is unknown, or `probability` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("flip", image)
    return _draw_flip(key, *image.shape[:2], axis=axis, probability=probability).image(image, 0)


@geometric(_draw_affine)
def affine(
    key: jax.Array,
    image: jax.Array,
    *,
    max_degrees: float = 0.0,
    max_scale: float = 0.0,
    max_shear: float = 0.0,
    max_shift: float = 0.0,
    fill: float = 0.0,
) -> jax.Array:
    """Shears, scales, rotates and moves the image about its centre, in one bilinear resampling.

    Each amount is uniform in its interval, and the shifts down and right are drawn separately. Beyond
    the border all pixels hold `fill`, into which the outermost pixels of a rotated image fade.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_degrees: greatest angle of rotation either way, in [0, 180].
      max_scale: the image grows by a factor in [1 - max_scale, 1 + max_scale]; in [0, 1).
      max_shear: greatest angle by which columns lean either way, in degrees, in [0, 90).
      max_shift: greatest distance in each direction, in pixels and fractions of them, at least 0.
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or a greatest amount is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("affine", image)
    geometry = _draw_affine(
        key,
        *image.shape[:2],
        max_degrees=max_degrees,
        max_scale=max_scale,
        max_shear=max_shear,
        max_shift=max_shift,
    )
    return geometry.image(image, fill)


@geometric(_draw_rotation)
def rotate(key: jax.Array, image: jax.Array, max_degrees: float, *, fill: float = 0.0) -> jax.Array:
    """Rotates the image about its centre by a random angle: `affine` with `max_degrees` alone.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      max_degrees: greatest angle either way, in [0, 180].
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_degrees` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("rotate", image)
    return _draw_rotation(key, *image.shape[:2], max_degrees=max_degrees).image(image, fill)


@photometric
def brightness(key: jax.Array, image: jax.Array, max_delta: float) -> jax.Array:
    """Adds one random number to all pixels, and clips to [0, 1].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      max_delta: the number is uniform in [-max_delta, max_delta]; in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_delta` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("brightness", image)
    _check("brightness", "max_delta", max_delta, 0 <= max_delta <= 1, "in [0, 1]")
    return jnp.clip(image + _uniform(key, max_delta).astype(image.dtype), 0, 1)


@photometric
def contrast(key: jax.Array, image: jax.Array, max_factor: float) -> jax.Array:
    """Stretches the pixels by one random factor about their mean, and clips to [0, 1].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      max_factor: the factor is uniform in [1 - max_factor, 1 + max_factor]; in [0, 1]. At factor 0 every
        value is the mean over all pixels and channels.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_factor` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("contrast", image)
    _check("contrast", "max_factor", max_factor, 0 <= max_factor <= 1, "in [0, 1]")
    # As a difference from the image, since mean + (image - mean) is not exactly the image.
    stretch = _uniform(key, max_factor).astype(image.dtype) * (image - jnp.mean(image))
    return jnp.clip(image + stretch, 0, 1)


@photometric
def noise(key: jax.Array, image: jax.Array, std: float) -> jax.Array:
    """Adds independent Gaussian noise to every value, and clips to [0, 1].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      std: standard deviation before clipping, at least 0.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `std` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("noise", image)
    _check("noise", "std", std, 0 <= std < math.inf, "finite and at least 0")
    # Drawn in one row: XLA for the CPU takes seconds to compile random numbers of several axes.
    added = std * jax.random.normal(key, (image.size,), jnp.float32).reshape(image.shape)
    return jnp.clip(image + added.astype(image.dtype), 0, 1)


@photometric
def cutout(key: jax.Array, image: jax.Array, size: int, *, fill: float = 0.0) -> jax.Array:
    """Fills a square whose centre is any pixel of the image, all equally likely.

    The part of the square beyond the border is lost, so that as little as a quarter of it may remain
    (DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
    section 3). The pixel (size // 2, size // 2) of the square is its centre.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      size: side of the square in pixels, from 0 to the shorter side of the image.
      fill: value inside the square, in all channels.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `size` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("cutout", image)
    _check_pixels("cutout", "size", size, min(image.shape[:2]))
    height, width, _ = image.shape
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height, width])) - size // 2
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside, jnp.asarray(fill, image.dtype), image)


@geometric(_draw_elastic)
def elastic(key: jax.Array, image: jax.Array, *, alpha: float, sigma: float, fill: float = 0.0) -> jax.Array:
    """Moves every pixel along a smooth random field, by bilinear resampling.

    The field is uniform in [-1, 1] at each pixel and in each direction, smoothed by a Gaussian, times
    alpha (Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks Applied
    to Visual Document Analysis", section 2). Away from the border, and with sigma above 1, the distance
    in one direction has standard deviation 0.163 alpha / sigma pixels.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point.
      alpha: factor on the smoothed field, in pixels, at least 0.
      sigma: standard deviation of the Gaussian in pixels, above 0 and at most the longer side of the
        image; it is cut off at 4 sigma, and beyond the border the field is zero.
      fill: value of the pixels beyond the border of the image.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `alpha` or `sigma` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("elastic", image)
    return _draw_elastic(key, *image.shape[:2], alpha=alpha, sigma=sigma).image(image, fill)


class Step(Partial):
    """One augmentation with its options: a hashable value that is called as `step(key, example)`.

        Step(random_crop, padding=4, border="reflect")

    A geometric function moves "mask" along with "image", by the same random geometry and to the nearest pixel. Where
    `fill` comes into view, the mask becomes `mask_fill`. If pixels of the image pad it, those of the mask pad the mask.

    Args:
      function: called as function(key, image, **options); defined at the top of a module, since each new lambda or
        nested function differs from all others and would be compiled again. For examples with a mask, mark it with
        `geometric` or `photometric`.
      **options: keyword arguments of the function, hashable. A geometric function takes `mask_fill` too, a class index;
        by default `IGNORED`.

    Raises:
      ValueError: `function` is not defined at the top of a module, or `mask_fill` is not an int of at least 0.
      TypeError: the function does not take these options, or one cannot be hashed.
    """

    def __init__(self, function: Callable[..., jax.Array], /, **options: Any):
        if "<" in getattr(function, "__qualname__", "<"):
            raise ValueError(f"Step expects a function defined at the top of a module, got {function!r}")
        signature = inspect.signature(function)
        known = list(signature.parameters)[2:]
        others = dict(options)
        if _DRAWS.get(function) is not None:
            known.append("mask_fill")
            fill = others.pop("mask_fill", IGNORED)
            if not is_int(fill) or fill < 0:
                raise ValueError(f"Step expects mask_fill, a class index of at least 0, got {fill!r}")
        try:
            signature.bind("key", "image", **others)
        except TypeError as error:
            raise TypeError(f"{function.__name__} takes the options {known}, got {list(options)}: {error}") from None
        super().__init__(function, **options)

    def __call__(self, key: jax.Array, example: Example) -> dict[str, Any]:
        """Changes one example.

        Args:
          key: typed random key, consumed.
          example: "image", shape (height, width, channels), floating point; optionally "mask", shape (height, width),
            integers; other entries stay as they are.

        Returns:
          The example, with the same names, shapes and dtypes.

        Raises:
          ValueError: an entry is missing, has the wrong shape or cannot be moved, or an option is out of range.
          TypeError: `example` is not a mapping, or an entry has the wrong dtype.
        """
        name = self.function.__name__
        _check_example(name, example)
        options = dict(self.options)
        mask_fill = options.pop("mask_fill", IGNORED)
        image = self.function(key, example["image"], **options)
        places = sorted(example.keys() & {"mask", "boxes", "masks"})
        if not places:
            return {**example, "image": image}
        if self.function not in _DRAWS:
            raise ValueError(
                f"Step does not know whether {name} moves pixels, got an example with {places}; mark the function with "
                "jaxcnn.data.geometric or jaxcnn.data.photometric"
            )
        draw = _DRAWS[self.function]
        if draw is None:
            return {**example, "image": image}
        if places != ["mask"]:
            raise ValueError(f"{name} moves the image and 'mask', got an example with {places} too")
        options.pop("fill", None)
        geometry = draw(key, *image.shape[:2], **options)
        return {**example, "image": image, "mask": geometry.mask(example["mask"], mask_fill)}


def _check_example(name: str, example: Any) -> None:
    if not isinstance(example, Mapping):
        raise TypeError(
            f'a Step of {name} expects an example such as {{"image": image}}, got {type(example).__name__}; for an '
            f"image alone call {name} itself"
        )
    if "image" not in example:
        raise ValueError(f"a Step of {name} expects an example with 'image', got {', '.join(map(repr, example))}")
    if "mask" in example:
        image, mask = example["image"], example["mask"]
        if mask.shape != image.shape[:2]:
            raise ValueError(f"{name} expects a mask as large as the image, got {mask.shape} and {image.shape}")
        if not jnp.issubdtype(mask.dtype, jnp.integer):
            raise TypeError(f"{name} expects a mask of integers, the class of each pixel, got {mask.dtype}")


@dataclasses.dataclass(frozen=True, repr=False)
class Composition:
    """Augmentations one after the other, as `compose` builds them: a hashable value, called as a `Step` is."""

    steps: tuple["Step | Composition", ...]

    def __call__(self, key: jax.Array, example: Example) -> dict[str, Any]:
        """Applies the steps to one example, each with its own key."""
        changed = dict(example)
        for index, step in enumerate(self.steps):
            try:
                changed = step(jax.random.fold_in(key, index), changed)
            except Exception as error:
                error.add_note(f"in augmentation step {index}: {step!r}")
                raise
        return changed

    def __repr__(self) -> str:
        return f"compose({', '.join(map(repr, self.steps))})"


def compose(*steps: Step | Composition) -> Composition:
    """Chains augmentations into one, to be called as `augment(key, example)`.

    The step at place i draws from `fold_in(key, i)`: steps added at the end leave the draws of the
    earlier ones as they are. No steps at all is the identity.

    Args:
      steps: applied from left to right; a composition may stand among them.

    Returns:
      A hashable value; equal steps make equal compositions.

    Raises:
      TypeError: a step is neither a `Step` nor a `Composition`.
    """
    for step in steps:
        if not isinstance(step, Step | Composition):
            raise TypeError(f"compose expects steps, as Step(shift, max_shift=2), got {step!r}")
    return Composition(steps)


def _uniform(key: jax.Array, greatest: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -greatest, greatest)


def _affine_coordinates(
    height: int, width: int, *, degrees: jax.Array, scale: jax.Array, shear: jax.Array, shift: jax.Array
) -> Resampling:
    """Returns where in the image each pixel of the result comes from.

    The image is sheared, scaled, rotated counter-clockwise and shifted by (down, right). The inverse is
    written out term by term, since a matrix product is rounded coarsely on some accelerators.
    """
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - centre_row - shift[0]
    right = jnp.arange(width, dtype=jnp.float32)[None, :] - centre_column - shift[1]
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    down, right = cos * down + sin * right, cos * right - sin * down
    right = right - jnp.tan(jnp.deg2rad(shear)) * down
    return Resampling(down / scale + centre_row, right / scale + centre_column)


def _smooth(field: jax.Array, sigma: float) -> jax.Array:
    """Convolves the last two axes with a Gaussian of integral one, cut off at 4 sigma, over zeros beyond the border."""
    rows, columns = (jnp.asarray(_gaussian_matrix(size, sigma), field.dtype) for size in field.shape[-2:])
    return jnp.einsum("ih,jw,...hw->...ij", rows, columns, field, precision="highest")


def _gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    radius = int(4 * sigma + 0.5)
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.where(np.abs(distance) <= radius, np.exp(-0.5 * (distance / sigma) ** 2) / total, 0.0)


def _check_pixels(function: str, name: str, value: int, high: int) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high
    _check(function, name, value, valid, f"a whole number of pixels from 0 to {high} for this image")


def _check(function: str, name: str, value: float, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(f"{function} expects {name} {expected}, got {value!r}")
