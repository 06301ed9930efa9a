"""Sources of examples, splits, augmentation of one example, and batches."""

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
    geometric,
    noise,
    photometric,
    random_crop,
    rotate,
    shift,
)
from jaxcnn.data.batches import Batches, eval_batches
from jaxcnn.data.named import load
from jaxcnn.data.pictures import FitPicture
from jaxcnn.data.resizing import Resized, resized
from jaxcnn.data.sources.archives import cifar10, cifar100, emnist_digits, fashion_mnist, mnist, prepare, svhn
from jaxcnn.data.sources.arrays import Arrays, arrays
from jaxcnn.data.sources.digits import digits
from jaxcnn.data.sources.hugging_face import HuggingFace, hugging_face
from jaxcnn.data.sources.image_folder import image_folder
from jaxcnn.data.sources.manifest import manifest
from jaxcnn.data.sources.mask_folder import MaskFolder, mask_folder
from jaxcnn.data.sources.npz import load_npz
from jaxcnn.data.sources.picture_files import PictureFiles
from jaxcnn.data.sources.shapes import shapes
from jaxcnn.data.sources.source import IGNORED, ArraySpec, Gathers, Source, Splits, Subset, gather
from jaxcnn.data.sources.tfds import Tfds, tfds
from jaxcnn.data.sources.web_dataset import WebDataset, web_dataset
from jaxcnn.data.splits import choose_classes, few, in_memory, match_classes, split
from jaxcnn.data.surveying import survey

__all__ = [
    "IGNORED",
    "ArraySpec",
    "Arrays",
    "Batches",
    "Composition",
    "FitPicture",
    "Gathers",
    "HuggingFace",
    "MaskFolder",
    "PictureFiles",
    "Resized",
    "Source",
    "Splits",
    "Step",
    "Subset",
    "Tfds",
    "WebDataset",
    "affine",
    "arrays",
    "brightness",
    "choose_classes",
    "cifar10",
    "cifar100",
    "compose",
    "contrast",
    "cutout",
    "digits",
    "elastic",
    "emnist_digits",
    "eval_batches",
    "fashion_mnist",
    "few",
    "flip",
    "gather",
    "geometric",
    "hugging_face",
    "image_folder",
    "in_memory",
    "load",
    "load_npz",
    "manifest",
    "mask_folder",
    "match_classes",
    "mnist",
    "noise",
    "photometric",
    "prepare",
    "random_crop",
    "resized",
    "rotate",
    "shapes",
    "shift",
    "split",
    "survey",
    "svhn",
    "tfds",
    "web_dataset",
]
