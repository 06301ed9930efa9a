"""Random changes of one training example: pure, keyed, of unchanged dtypes.

Each function changes one image. A `Step` applies it to an example, and `compose` chains steps:

    augment = compose(Step(shift, max_shift=2), Step(cutout, size=8))
    batch = jax.vmap(augment)(jax.random.split(key, batch_size), batch)

Geometric functions move pixels: their steps move "mask", "boxes" and "masks" along. The others change only "image". All
other entries stay as they are. Images are in [0, 1].

At zero strength, each of them is the identity.
"""

from jaxcnn.data.augment.averaging import mean_over_views
from jaxcnn.data.augment.colour import (
    autocontrast,
    blur,
    brightness,
    color_jitter,
    contrast,
    equalize,
    grayscale,
    hue,
    invert,
    jpeg,
    noise,
    posterize,
    saturation,
    sharpness,
    solarize,
)
from jaxcnn.data.augment.erasing import cutout, random_erasing
from jaxcnn.data.augment.names import AUGMENTATIONS, parse_augment
from jaxcnn.data.augment.policies import aug_mix, rand_augment, trivial_augment
from jaxcnn.data.augment.scenes import random_iou_crop, scale_jitter, zoom_out
from jaxcnn.data.augment.spatial import (
    affine,
    alternating_flip,
    elastic,
    flip,
    perspective,
    random_crop,
    random_resized_crop,
    rotate,
    shift,
)
from jaxcnn.data.augment.steps import Composition, Step, compose, geometric, photometric
from jaxcnn.ops.views import crop_views, mirror_views, shift_views

__all__ = [
    "AUGMENTATIONS",
    "Composition",
    "Step",
    "affine",
    "alternating_flip",
    "aug_mix",
    "autocontrast",
    "blur",
    "brightness",
    "color_jitter",
    "compose",
    "contrast",
    "crop_views",
    "cutout",
    "elastic",
    "equalize",
    "flip",
    "geometric",
    "grayscale",
    "hue",
    "invert",
    "jpeg",
    "mean_over_views",
    "mirror_views",
    "noise",
    "parse_augment",
    "perspective",
    "photometric",
    "posterize",
    "rand_augment",
    "random_crop",
    "random_erasing",
    "random_iou_crop",
    "random_resized_crop",
    "rotate",
    "saturation",
    "scale_jitter",
    "sharpness",
    "shift",
    "shift_views",
    "solarize",
    "trivial_augment",
    "zoom_out",
]
