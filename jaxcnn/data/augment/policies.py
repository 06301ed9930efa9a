"""Policies: random sequences of operations out of one set, as torchvision's transforms of the same names draw them.

Under `jax.vmap` a choice between functions computes all of them for every image. So the fourteen operations are written
as one: an affine map of the pixels (the identity for changes of colour), a stretch about another image (by nothing for
all but brightness, colour, contrast and sharpness), and four changes of single values of which one is taken.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augment import operations
from jaxcnn.data.augment.checks import check, check_colours
from jaxcnn.data.augment.spatial import about
from jaxcnn.data.augment.steps import geometric
from jaxcnn.data.geometry import Chain, Resampling, projective
from jaxcnn.ops.check import is_int, is_number

Interpolation: TypeAlias = Literal["nearest", "bilinear"]

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
"""The operations, in torchvision's order."""

_SIGNED = slice(1, 10)
"""Those whose magnitude has a random sign."""

_STRETCHES = slice(6, 10)

_AUG_MIX_BINS, _AUG_MIX_DEPTH = 10, 3


class Operation(NamedTuple):
    """One operation.

    Attributes:
      kind: place in `OPERATIONS`, int32, shape ().
      magnitude: tangent of a shear, pixels of a translation, degrees of a rotation, a factor minus 1, a number of bits
        or a threshold; float32, shape ().
    """

    kind: jax.Array
    magnitude: jax.Array

    def geometry(self, height: int, width: int, interpolation: Interpolation) -> Resampling:
        """Returns how it moves the pixels of an image of this size."""

        def when(name: str, value: jax.Array) -> jax.Array:
            return jnp.where(self.kind == OPERATIONS.index(name), value, 0)

        pixels = jnp.trunc(self.magnitude)
        angle = jnp.deg2rad(when("rotate", self.magnitude))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        linear = jnp.stack(
            [
                jnp.stack([cos, sin + when("shear_y", self.magnitude)]),
                jnp.stack([when("shear_x", self.magnitude) - sin, cos]),
            ]
        )
        # Images turn about their centre, and lean about their first corner.
        turns = self.kind == OPERATIONS.index("rotate")
        centre = jnp.where(turns, jnp.array([height / 2, width / 2], jnp.float32), 0)
        shift = jnp.stack([when("translate_y", pixels), when("translate_x", pixels)])
        return projective(about(linear, centre, shift), height, width, interpolation)

    def recolour(self, image: jax.Array) -> jax.Array:
        """Changes the values of an image, shape (height, width, 1 or 3)."""
        luma = operations.grey(image)
        brightness, color, contrast, sharpness = range(_STRETCHES.start, _STRETCHES.stop)
        towards = jnp.select(
            [self.kind == brightness, self.kind == color, self.kind == contrast],
            [jnp.zeros_like(image), jnp.broadcast_to(luma, image.shape), jnp.full_like(image, jnp.mean(luma))],
            operations.smoothed(image),
        )
        stretches = (self.kind >= brightness) & (self.kind <= sharpness)
        image = operations.blended(image, towards, jnp.where(stretches, self.magnitude, 0))
        changes: dict[str, Callable[[jax.Array], jax.Array]] = {
            "posterize": lambda image: operations.posterized(image, self.magnitude.astype(jnp.int32)),
            "solarize": lambda image: operations.solarized(image, self.magnitude),
            "autocontrast": operations.autocontrasted,
            "equalize": operations.equalized,
        }
        chosen = [self.kind == OPERATIONS.index(name) for name in changes]
        return jnp.select(chosen, [change(image) for change in changes.values()], image)


def _magnitudes(
    bins: int, shear: float, shift_x: float, shift_y: float, degrees: float, factor: float, bits: tuple[int, int]
) -> np.ndarray:
    """Tabulates the magnitudes of each operation, shape (operations, bins), from the weakest to the strongest."""
    share = np.linspace(0, 1, bins) if bins > 1 else np.zeros(1)
    most = [0, shear, shear, shift_x, shift_y, degrees, factor, factor, factor, factor]
    first, lost = bits
    # torch rounds halves to the even number, as NumPy does.
    posterize = np.round(first - share * lost)
    return np.stack([*np.multiply.outer(most, share), posterize, 1 - share, 0 * share, 0 * share]).astype(np.float32)


def _draw(key: jax.Array, table: np.ndarray, first_bin: int, bins: int, first_kind: int = 0) -> Operation:
    """Draws an operation from the first kind on, and its magnitude from `bins` columns of the table."""
    kind_key, sign_key, bin_key = jax.random.split(key, 3)
    kind = jax.random.randint(kind_key, (), first_kind, len(OPERATIONS), jnp.int32)
    column = jax.random.randint(bin_key, (), first_bin, first_bin + bins, jnp.int32)
    magnitude = jnp.asarray(table)[kind, column]
    signed = (kind >= _SIGNED.start) & (kind < _SIGNED.stop)
    return Operation(kind, jnp.where(signed & jax.random.bernoulli(sign_key), -magnitude, magnitude))


def _rand_augment(key: jax.Array, height: int, width: int, num_ops: int, magnitude: int, bins: int) -> list[Operation]:
    check("rand_augment", "num_ops", num_ops, is_int(num_ops) and num_ops >= 0, "a whole number of at least 0")
    _check_bins("rand_augment", bins)
    valid = is_int(magnitude) and 0 <= magnitude < bins
    check("rand_augment", "magnitude", magnitude, valid, f"a whole number from 0 to {bins - 1}, one of the bins")
    table = _magnitudes(bins, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))
    return [_draw(one, table, magnitude, 1) for one in jax.random.split(key, num_ops)]


def _trivial_augment(key: jax.Array, bins: int) -> Operation:
    _check_bins("trivial_augment", bins)
    return _draw(key, _magnitudes(bins, 0.99, 32, 32, 135, 0.99, (8, 6)), 0, bins)


def _draw_rand_augment(
    key: jax.Array,
    height: int,
    width: int,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    bins: int = 31,
    interpolation: Interpolation = "nearest",
) -> Chain:
    drawn = _rand_augment(key, height, width, num_ops, magnitude, bins)
    return Chain(tuple(operation.geometry(height, width, interpolation) for operation in drawn))


def _draw_trivial_augment(
    key: jax.Array, height: int, width: int, *, bins: int = 31, interpolation: Interpolation = "nearest"
) -> Resampling:
    return _trivial_augment(key, bins).geometry(height, width, interpolation)


def _no_geometry(key: jax.Array, height: int, width: int, **options: object) -> Resampling:
    raise ValueError(
        "aug_mix expects an example without mask and boxes, since it mixes images that moved in several ways; use "
        "rand_augment or trivial_augment"
    )


@geometric(_draw_rand_augment)
def rand_augment(
    key: jax.Array,
    image: jax.Array,
    num_ops: int = 2,
    magnitude: int = 9,
    *,
    bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: float = 0.0,
) -> jax.Array:
    """Applies operations of one magnitude, drawn from fourteen (Cubuk et al. 2020, "RandAugment").

    The operations, their magnitudes and the interpolation are those of torchvision's `RandAugment`.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      num_ops: number of operations, at least 0; each of the fourteen is equally likely, and so are both signs.
      magnitude: strength of all of them, from 0 to `bins` - 1.
      bins: number of strengths.
      interpolation: "nearest" or "bilinear".
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or an option is out of range or unknown.
      TypeError: `image` is not floating point.
    """
    check_colours("rand_augment", image)
    _check_interpolation("rand_augment", interpolation)
    height, width, _ = image.shape
    for operation in _rand_augment(key, height, width, num_ops, magnitude, bins):
        image = operation.recolour(operation.geometry(height, width, interpolation).image(image, fill))
    return image


@geometric(_draw_trivial_augment)
def trivial_augment(
    key: jax.Array,
    image: jax.Array,
    *,
    bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: float = 0.0,
) -> jax.Array:
    """Applies one operation of random magnitude, drawn from fourteen (Müller and Hutter 2021, "TrivialAugment").

    The operations, their magnitudes and the interpolation are those of torchvision's `TrivialAugmentWide`.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      bins: number of strengths; each is equally likely.
      interpolation: "nearest" or "bilinear".
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or an option is out of range or unknown.
      TypeError: `image` is not floating point.
    """
    check_colours("trivial_augment", image)
    _check_interpolation("trivial_augment", interpolation)
    height, width, _ = image.shape
    operation = _trivial_augment(key, bins)
    return operation.recolour(operation.geometry(height, width, interpolation).image(image, fill))


@geometric(_no_geometry)
def aug_mix(
    key: jax.Array,
    image: jax.Array,
    severity: int = 3,
    *,
    width: int = 3,
    depth: int | None = None,
    alpha: float = 1.0,
    interpolation: Interpolation = "bilinear",
    fill: float = 0.0,
) -> jax.Array:
    """Mixes the image with several augmented ones (Hendrycks et al. 2020, "AugMix").

    Each is the image after a chain of operations. The operations, their magnitudes, the distributions of the shares and
    the interpolation are those of torchvision's `AugMix`. An example with a mask or boxes is refused: the chains move
    the image in several ways.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      severity: greatest strength of the operations, from 1 to 10.
      width: number of chains, at least 1.
      depth: number of operations of each chain, at least 1. Default: 1, 2 or 3, drawn for each chain.
      alpha: parameter of the distributions of the shares, above 0: Beta(alpha, alpha) for the image itself, and
        Dirichlet(alpha, ...) for the chains.
      interpolation: "nearest" or "bilinear".
      fill: value of the pixels beyond the border.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or an option is out of range or unknown.
      TypeError: `image` is not floating point.
    """
    check_colours("aug_mix", image)
    _check_interpolation("aug_mix", interpolation)
    valid = is_int(severity) and 1 <= severity <= _AUG_MIX_BINS
    check("aug_mix", "severity", severity, valid, f"a whole number from 1 to {_AUG_MIX_BINS}")
    check("aug_mix", "width", width, is_int(width) and width >= 1, "a whole number of at least 1")
    check("aug_mix", "depth", depth, depth is None or (is_int(depth) and depth >= 1), "a whole number of at least 1")
    check("aug_mix", "alpha", alpha, is_number(alpha) and 0 < alpha < math.inf, "finite and above 0")
    rows, columns, _ = image.shape
    table = _magnitudes(_AUG_MIX_BINS, 0.3, columns / 3, rows / 3, 30, 0.9, (4, 4))
    share_key, depth_key, chain_key = jax.random.split(key, 3)
    # Gamma variates, divided by their sum, have the Dirichlet distribution; of two, that is the Beta distribution.
    logarithms = jax.random.loggamma(share_key, alpha, (2 + width,), jnp.float32)
    kept, lost = jax.nn.softmax(logarithms[:2])
    shares = lost * jax.nn.softmax(logarithms[2:])
    depths = jax.random.randint(depth_key, (width,), 1, _AUG_MIX_DEPTH + 1, jnp.int32)
    # With a depth that is drawn, the operations after the end of a chain become the identity.
    longest, depths = (_AUG_MIX_DEPTH, depths) if depth is None else (depth, jnp.full_like(depths, depth))

    def change(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        result, left = carry
        operation = _draw(key, table, 0, severity, first_kind=1)
        operation = operation._replace(kind=jnp.where(left > 0, operation.kind, 0))
        moved = operation.geometry(rows, columns, interpolation).image(result, fill)
        return (operation.recolour(moved), left - 1), None

    def chain(key: jax.Array, depth: jax.Array) -> jax.Array:
        return jax.lax.scan(change, (image, depth), jax.random.split(key, longest))[0][0]

    chains = jax.vmap(chain)(jax.random.split(chain_key, width), depths)
    mixed = jnp.tensordot(shares.astype(image.dtype), chains, axes=1, precision="highest")
    return jnp.clip(kept.astype(image.dtype) * image + mixed, 0, 1)


def _check_bins(function: str, bins: int) -> None:
    check(function, "bins", bins, is_int(bins) and bins >= 1, "a whole number of at least 1")


def _check_interpolation(function: str, interpolation: Interpolation) -> None:
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"{function} expects interpolation 'nearest' or 'bilinear', got {interpolation!r}")
