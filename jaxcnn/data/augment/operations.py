"""Changes of one image by given amounts, without random numbers; images are in [0, 1]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.ops.check import at_least_float32
from jaxcnn.ops.resizing import resize


def blended(image: jax.Array, towards: jax.Array, excess: jax.Array) -> jax.Array:
    """Stretches an image about another one, and clips to [0, 1].

    Args:
      image: shape (height, width, channels).
      towards: what the image becomes at factor 0, of a shape that broadcasts.
      excess: the factor minus 1; at 0 the result is the image.

    Returns:
      Same shape and dtype as `image`.
    """
    return jnp.clip(image + excess.astype(image.dtype) * (image - towards), 0, 1)


def grey(image: jax.Array) -> jax.Array:
    """Returns the luma of ITU-R BT.601 as torchvision rounds its weights; shape (height, width, 1)."""
    if image.shape[2] == 1:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[..., None]


def hue_shifted(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue (in HSV).

    Args:
      image: shape (height, width, 1 or 3).
      shift: in whole turns, in [-1, 1].

    Returns:
      Same shape and dtype as `image`; a grey image is returned as it is.
    """
    if image.shape[2] == 1:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, least = image.max(2), image.min(2)
    chroma = value - least
    divisor = jnp.where(chroma == 0, 1, chroma)
    # In sixths of a turn: 0 at red, 2 at green, 4 at blue. The largest channel is found by `>=`: XLA may compute an
    # image twice with different rounding, so that no channel equals `value`; where two are alike, both formulas agree.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = sixths + 6 * shift.astype(image.dtype)

    def channel(offset: int) -> jax.Array:
        # Written out, since the remainder of a division takes XLA for the CPU ten times as long.
        distance = turned + offset - 6 * jnp.floor((turned + offset) / 6)
        return value - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

    # No turn is the identity, which the way to hue and back is only to rounding.
    return jnp.where(shift == 0, image, jnp.stack([channel(5), channel(3), channel(1)], axis=2))


def solarized(image: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Inverts the values from a threshold up; arguments as in `solarize`."""
    return jnp.where(image >= jnp.asarray(threshold, image.dtype), 1 - image, image)


def levels(image: jax.Array) -> jax.Array:
    """Returns the nearest of 256 levels of each value, int32."""
    return jnp.round(255 * jnp.clip(image.astype(at_least_float32(image.dtype)), 0, 1)).astype(jnp.int32)


def posterized(image: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keeps the first bits of 8; arguments as in `posterize`."""
    cut = 8 - jnp.asarray(bits, jnp.int32)
    return jnp.where(cut == 0, image, from_levels((levels(image) >> cut) << cut, image.dtype))


def from_levels(level: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the values of levels from 0 to 255."""
    return (level.astype(at_least_float32(dtype)) / 255).astype(dtype)


def autocontrasted(image: jax.Array) -> jax.Array:
    """Stretches each channel to [0, 1]; a channel of one value stays as it is."""
    least, greatest = image.min((0, 1)), image.max((0, 1))
    constant = greatest == least
    divisor = jnp.where(constant, 1, greatest - least)
    return jnp.clip((image - jnp.where(constant, 0, least)) / divisor, 0, 1)


def equalized(image: jax.Array) -> jax.Array:
    """Makes 256 levels about equally frequent in each channel, by the formula of Pillow and torchvision."""
    level = levels(image)
    pixels = level.shape[0] * level.shape[1]
    counts = _histogram(level)
    # Found in the counts: a maximum over the pixels takes XLA for the CPU as long as all the rest.
    last = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1)
    brightest = jnp.take_along_axis(counts, last[:, None], axis=1)
    step = (pixels - brightest) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    # The barrier keeps XLA for the CPU from computing the table again for every pixel.
    table = jax.lax.optimization_barrier(jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255))
    changed = jnp.take_along_axis(table.T, level.reshape(pixels, -1), axis=0).reshape(level.shape)
    return jnp.where(step[:, 0] == 0, image, from_levels(changed, image.dtype))


def _histogram(level: jax.Array) -> jax.Array:
    """Counts each of 256 levels in each channel, int32, shape (channels, 256)."""
    channels = level.shape[2]
    places = level + 256 * jnp.arange(channels, dtype=jnp.int32)
    counts = jnp.zeros(256 * channels, jnp.int32).at[places.ravel()].add(1, mode="promise_in_bounds")
    return counts.reshape(channels, 256)


def sharpened(image: jax.Array, excess: jax.Array) -> jax.Array:
    """Stretches the inner pixels about the smoothed image; `excess` as in `blended`."""
    return blended(image, smoothed(image), excess)


def smoothed(image: jax.Array) -> jax.Array:
    """Smooths by Pillow's filter SMOOTH: a pixel counts 5, its 8 neighbours 1; the outermost pixels stay."""
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    inner = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image[1:-1, 1:-1]) / 13
    return image.at[1:-1, 1:-1].set(inner)


def blurred(image: jax.Array, size: int, sigma: jax.Array) -> jax.Array:
    """Blurs with a Gaussian of `size` pixels, whose weights sum to 1, over the mirrored image."""
    distance = jnp.arange(size, dtype=jnp.float32) - size // 2
    weights = jax.nn.softmax(-0.5 * (distance / sigma) ** 2)
    y = image.astype(at_least_float32(image.dtype))
    for axis in range(2):
        side = y.shape[axis]
        sides = [(size // 2, size // 2) if axis == one else (0, 0) for one in range(3)]
        # The barrier keeps XLA for the CPU from mirroring again for every tap, which takes five times as long.
        padded = jax.lax.optimization_barrier(jnp.pad(y, sides, mode="reflect"))
        taps = [jax.lax.slice_in_dim(padded, tap, tap + side, axis=axis) for tap in range(size)]
        y = functools.reduce(jnp.add, [weights[tap].astype(y.dtype) * pixels for tap, pixels in enumerate(taps)])
    return y.astype(image.dtype)


# Annex K of ITU-T T.81, for luma and for chroma.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# From RGB to luma and two differences of colours (JFIF 1.02).
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def compressed(image: jax.Array, quality: jax.Array) -> jax.Array:
    """Applies the losses of JPEG.

    Args:
      image: shape (height, width, 1 or 3).
      quality: from 1 to 100, int32, shape ().

    Returns:
      Same shape and dtype as `image`.
    """
    height, width, channels = image.shape
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    block = 8 if channels == 1 else 16
    sides = ((0, -height % block), (0, -width % block), (0, 0))
    pixels = 255 * jnp.pad(image.astype(at_least_float32(image.dtype)), sides, mode="edge")
    if channels == 1:
        changed = _requantized(jnp.round(pixels[..., 0]) - 128, _LUMA, percent)[..., None] + 128
    else:
        luma, *chroma = jnp.round(_combined(pixels, _TO_YCC))
        planes = [_requantized(luma - 128, _LUMA, percent) + 128]
        for plane in chroma:
            halved = jnp.round(_halved(plane))
            planes.append(_doubled(_requantized(halved, _CHROMA, percent)))
        changed = jnp.stack(_combined(jnp.stack(planes, axis=-1), np.linalg.inv(_TO_YCC)), axis=-1)
    return (jnp.clip(jnp.round(changed), 0, 255)[:height, :width] / 255).astype(image.dtype)


def _combined(pixels: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Returns three linear combinations of three channels, stacked in front."""
    first, second, third = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return jnp.stack([float(a) * first + float(b) * second + float(c) * third for a, b, c in matrix])


def _halved(plane: jax.Array) -> jax.Array:
    height, width = plane.shape
    return plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def _doubled(plane: jax.Array) -> jax.Array:
    # libjpeg's "fancy" upsampling is the bilinear one.
    return resize(plane[..., None], (2 * plane.shape[0], 2 * plane.shape[1]))[..., 0]


def _requantized(plane: jax.Array, table: np.ndarray, percent: jax.Array) -> jax.Array:
    """Rounds the cosine coefficients of blocks of 8 x 8 pixels to multiples of the table."""
    steps = jnp.clip((jnp.asarray(table, jnp.int32) * percent + 50) // 100, 1, 255).astype(plane.dtype)
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8)
    cosines = jnp.asarray(_cosines(), plane.dtype)
    product = functools.partial(jnp.einsum, precision="highest")
    coefficients = product("ui,aibj,vj->aubv", cosines, blocks, cosines)
    rounded = jnp.round(coefficients / steps[:, None, :]) * steps[:, None, :]
    return product("ui,aubv,vj->aibj", cosines, rounded, cosines).reshape(height, width)


def _cosines() -> np.ndarray:
    """Returns the orthonormal cosine transform of 8 values, shape (8, 8)."""
    frequency, place = np.mgrid[:8, :8]
    cosines = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    return cosines
