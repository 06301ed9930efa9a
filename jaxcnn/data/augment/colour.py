"""Augmentations that move no pixel: brightness, colours, noise, blur, compression.

Each result is that of torchvision's transform of the same name for images of floating point. It is less than two of 255
grey levels from torchvision's result for uint8, which is cut off to whole levels after each change. `posterize` and
`equalize` count grey levels, and give exactly torchvision's result for uint8. `brightness` and `contrast` differ: one
adds a number, the other stretches about the mean of all channels. `color_jitter` changes both as torchvision does.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.augment.checks import (
    check,
    check_colours,
    check_interval,
    check_probability,
    uniform,
)
from jaxcnn.data.augment.operations import (
    autocontrasted,
    blended,
    blurred,
    compressed,
    equalized,
    grey,
    hue_shifted,
    posterized,
    sharpened,
    solarized,
)
from jaxcnn.data.augment.steps import photometric
from jaxcnn.ops.check import check_image, is_int, is_number


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
    check("brightness", "max_delta", max_delta, 0 <= max_delta <= 1, "in [0, 1]")
    return jnp.clip(image + uniform(key, max_delta).astype(image.dtype), 0, 1)


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
    check("contrast", "max_factor", max_factor, 0 <= max_factor <= 1, "in [0, 1]")
    # As a difference from the image, since mean + (image - mean) is not exactly the image.
    stretch = uniform(key, max_factor).astype(image.dtype) * (image - jnp.mean(image))
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
    check("noise", "std", std, 0 <= std < math.inf, "finite and at least 0")
    # Drawn in one row: XLA for the CPU takes seconds to compile random numbers of several axes.
    added = std * jax.random.normal(key, (image.size,), jnp.float32).reshape(image.shape)
    return jnp.clip(image + added.astype(image.dtype), 0, 1)


@photometric
def saturation(key: jax.Array, image: jax.Array, max_factor: float) -> jax.Array:
    """Stretches the colours by one random factor about grey, and clips to [0, 1]. A grey image stays as it is.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      max_factor: the factor is uniform in [1 - max_factor, 1 + max_factor]; in [0, 1]. At factor 0 the image is grey.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or `max_factor` is out of range.
      TypeError: `image` is not floating point.
    """
    check_colours("saturation", image)
    check("saturation", "max_factor", max_factor, 0 <= max_factor <= 1, "in [0, 1]")
    return blended(image, grey(image), uniform(key, max_factor))


@photometric
def hue(key: jax.Array, image: jax.Array, max_shift: float) -> jax.Array:
    """Turns the hue of all pixels by one random angle. A grey image stays as it is.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      max_shift: the angle is uniform in [-max_shift, max_shift], in whole turns; in [0, 0.5].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or `max_shift` is out of range.
      TypeError: `image` is not floating point.
    """
    check_colours("hue", image)
    check("hue", "max_shift", max_shift, 0 <= max_shift <= 0.5, "in [0, 0.5]")
    return hue_shifted(image, uniform(key, max_shift))


@photometric
def color_jitter(
    key: jax.Array,
    image: jax.Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue at random and in random order, as torchvision's `ColorJitter`.

    Brightness multiplies all pixels by a factor; contrast and saturation stretch them by a factor about the mean of the
    grey image and about the grey image. After each change the pixels are clipped to [0, 1]. A factor is uniform in
    [max(0, 1 - amount), 1 + amount].

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      brightness: amount, at least 0.
      contrast: amount, at least 0.
      saturation: amount, at least 0.
      hue: greatest turn of the hue either way, in whole turns; in [0, 0.5].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or an amount is out of range.
      TypeError: `image` is not floating point.
    """
    check_colours("color_jitter", image)
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, amount in amounts.items():
        check("color_jitter", name, amount, is_number(amount) and 0 <= amount < math.inf, "finite and at least 0")
    check("color_jitter", "hue", hue, is_number(hue) and 0 <= hue <= 0.5, "in [0, 0.5]")
    factor_key, order_key, hue_key = jax.random.split(key, 3)
    greatest = jnp.array(list(amounts.values()), jnp.float32)
    lowest = jnp.maximum(1 - greatest, 0)
    factors = lowest + jax.random.uniform(factor_key, (3,), jnp.float32) * (1 + greatest - lowest)
    used = [place for place, amount in enumerate(amounts.values()) if amount > 0]
    # Which of the blends comes first, second and third; and how many of them come before the hue turns.
    order = jax.random.permutation(order_key, np.array([*used, 3]))
    before = jnp.argmax(order == 3)
    order = order[jnp.argsort(order == 3, stable=True)]

    def blend(image: jax.Array, turn: int, applied: jax.Array | bool) -> jax.Array:
        luma = grey(image)
        kinds = [jnp.zeros_like(luma), jnp.mean(luma, keepdims=True), luma]
        towards = kinds[used[0]]
        for place in used[1:]:
            towards = jnp.where(order[turn] == place, kinds[place], towards)
        return blended(image, towards, jnp.where(applied, factors[order[turn]] - 1, 0))

    # The hue costs more than all else, so that it is turned once: the blends before it, and then those after it.
    turns = range(len(used))
    if not hue:
        for turn in turns:
            image = blend(image, turn, True)
        return image
    for turn in turns:
        image = blend(image, turn, turn < before)
    image = hue_shifted(image, uniform(hue_key, hue))
    for turn in turns:
        image = blend(image, turn, turn >= before)
    return image


@photometric
def grayscale(key: jax.Array, image: jax.Array, *, probability: float = 0.1) -> jax.Array:
    """Removes the colours with the given probability; the image keeps its channels.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or `probability` is out of range.
      TypeError: `image` is not floating point.
    """
    check_colours("grayscale", image)
    return jnp.where(_happens("grayscale", key, probability), grey(image), image)


@photometric
def invert(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Swaps light and dark with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `probability` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("invert", image)
    return jnp.where(_happens("invert", key, probability), 1 - image, image)


@photometric
def solarize(key: jax.Array, image: jax.Array, threshold: float, *, probability: float = 0.5) -> jax.Array:
    """Inverts the values from a threshold up, with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      threshold: in [0, 1]; torchvision's 128 for uint8 is 128 / 255.
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("solarize", image)
    check("solarize", "threshold", threshold, is_number(threshold) and 0 <= threshold <= 1, "in [0, 1]")
    return jnp.where(_happens("solarize", key, probability), solarized(image, threshold), image)


@photometric
def posterize(key: jax.Array, image: jax.Array, bits: int, *, probability: float = 0.5) -> jax.Array:
    """Keeps the first bits of the 8 of each value, with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1]; values are rounded to 256 levels.
      bits: number of bits to keep, from 0 to 8.
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("posterize", image)
    check("posterize", "bits", bits, is_int(bits) and 0 <= bits <= 8, "a whole number from 0 to 8")
    return jnp.where(_happens("posterize", key, probability), posterized(image, bits), image)


@photometric
def autocontrast(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Stretches each channel to the whole range [0, 1], with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1]; a channel of one value stays as it is.
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `probability` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("autocontrast", image)
    return jnp.where(_happens("autocontrast", key, probability), autocontrasted(image), image)


@photometric
def equalize(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Makes all of 256 levels about equally frequent in each channel, with the given probability.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1]; values are rounded to 256 levels.
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `probability` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("equalize", image)
    return jnp.where(_happens("equalize", key, probability), equalized(image), image)


@photometric
def sharpness(key: jax.Array, image: jax.Array, max_factor: float) -> jax.Array:
    """Sharpens or smooths: stretches the pixels by one random factor about the smoothed image, and clips to [0, 1].

    The smoothed image is that of Pillow's filter SMOOTH, 3 x 3 pixels; the outermost pixels stay as they are.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point in [0, 1].
      max_factor: the factor is uniform in [1 - max_factor, 1 + max_factor]; in [0, 1]. At factor 0 the image is smooth.

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or `max_factor` is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("sharpness", image)
    check("sharpness", "max_factor", max_factor, 0 <= max_factor <= 1, "in [0, 1]")
    return sharpened(image, uniform(key, max_factor))


@photometric
def blur(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float = 1.0,
) -> jax.Array:
    """Blurs with a Gaussian of random width, with the given probability, as torchvision's `GaussianBlur`.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, channels), floating point; it is continued by its mirror image without the edge.
      size: of the kernel in pixels, odd, at most 2 * side - 1 for the shorter side of the image.
      sigma: least and greatest standard deviation in pixels, above 0; uniform.
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_image("blur", image)
    most = 2 * min(image.shape[:2]) - 1
    valid = is_int(size) and size % 2 == 1 and 1 <= size <= most
    check("blur", "size", size, valid, f"an odd number of pixels from 1 to {most} for this image")
    check_interval("blur", "sigma", sigma, 0, math.inf, above=True)
    sigma_key, chance_key = jax.random.split(key)
    width = jax.random.uniform(sigma_key, (), jnp.float32, *sigma)
    return jnp.where(_happens("blur", chance_key, probability), blurred(image, size, width), image)


@photometric
def jpeg(key: jax.Array, image: jax.Array, quality: tuple[int, int], *, probability: float = 1.0) -> jax.Array:
    """Compresses to a JPEG of random quality and decodes it, with the given probability.

    The losses are those of JPEG as Pillow and torchvision write it: colours at half the resolution, and the
    coefficients of blocks of 8 x 8 pixels rounded by the tables of ITU-T T.81, annex K. The arithmetic is in floating
    point, where theirs is in integers, so that single pixels differ by a few grey levels.

    Args:
      key: typed random key, consumed.
      image: shape (height, width, 1 or 3), floating point in [0, 1].
      quality: least and greatest quality, whole numbers from 1 to 100; uniform.
      probability: in [0, 1].

    Returns:
      Same shape and dtype as `image`.

    Raises:
      ValueError: `image` is not one image of 1 or 3 channels, or an option is out of range.
      TypeError: `image` is not floating point.
    """
    check_colours("jpeg", image)
    check_interval("jpeg", "quality", quality, 1, 100, whole=True)
    quality_key, chance_key = jax.random.split(key)
    chosen = jax.random.randint(quality_key, (), quality[0], quality[1] + 1, jnp.int32)
    return jnp.where(_happens("jpeg", chance_key, probability), compressed(image, chosen), image)


def _happens(function: str, key: jax.Array, probability: float) -> jax.Array:
    check_probability(function, probability)
    return jax.random.bernoulli(key, float(probability))
