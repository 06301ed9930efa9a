"""Readers, augmentation of one image, and batches."""

from jaxcnn.data.arrays import Dataset, Splits, choose_classes, dataset, few, load_npz, split
from jaxcnn.data.augment import (
    Composition,
    Step,
    affine,
    brightness,
    compose,
    contrast,
    cutout,
    elastic,
    flip,
    noise,
    random_crop,
    rotate,
    shift,
)
from jaxcnn.data.batches import Batches, eval_batches
from jaxcnn.data.digits import digits

__all__ = [
    "Batches",
    "Composition",
    "Dataset",
    "Splits",
    "Step",
    "affine",
    "brightness",
    "choose_classes",
    "compose",
    "contrast",
    "cutout",
    "dataset",
    "digits",
    "elastic",
    "eval_batches",
    "few",
    "flip",
    "load_npz",
    "noise",
    "random_crop",
    "rotate",
    "shift",
    "split",
]
