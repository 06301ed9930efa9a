"""Sources of examples, splits, augmentation of one example, and batches."""

from jaxcnn.data.augment import (
    AUGMENTATIONS,
    Composition,
    Step,
    affine,
    alternating_flip,
    aug_mix,
    autocontrast,
    blur,
    brightness,
    color_jitter,
    compose,
    contrast,
    crop_views,
    cutout,
    elastic,
    equalize,
    flip,
    geometric,
    grayscale,
    hue,
    invert,
    jpeg,
    mean_over_views,
    mirror_views,
    noise,
    parse_augment,
    perspective,
    photometric,
    posterize,
    rand_augment,
    random_crop,
    random_erasing,
    random_iou_crop,
    random_resized_crop,
    rotate,
    saturation,
    scale_jitter,
    sharpness,
    shift,
    shift_views,
    solarize,
    trivial_augment,
    zoom_out,
)
from jaxcnn.data.batches import Batches, eval_batches
from jaxcnn.data.crops import RandomResizedCrop
from jaxcnn.data.named import load
from jaxcnn.data.pictures import FitPicture
from jaxcnn.data.pixels import unit_pixels
from jaxcnn.data.places import Place, Where, choose_place, put
from jaxcnn.data.reading import Prepare
from jaxcnn.data.resizing import Resized, resized
from jaxcnn.data.sources.archives import cifar10, cifar100, emnist_digits, fashion_mnist, mnist, prepare, svhn
from jaxcnn.data.sources.arrays import Arrays, arrays
from jaxcnn.data.sources.coco import coco
from jaxcnn.data.sources.digit_scenes import DigitScenes, digit_scenes
from jaxcnn.data.sources.digits import digits
from jaxcnn.data.sources.hugging_face import HuggingFace, hugging_face
from jaxcnn.data.sources.image_folder import image_folder
from jaxcnn.data.sources.manifest import manifest
from jaxcnn.data.sources.mask_folder import MaskFolder, mask_folder
from jaxcnn.data.sources.npy_folder import npy_folder
from jaxcnn.data.sources.npz import load_npz
from jaxcnn.data.sources.object_files import ObjectFiles
from jaxcnn.data.sources.on_device import OnDevice
from jaxcnn.data.sources.picture_files import PictureFiles
from jaxcnn.data.sources.shapes import shapes
from jaxcnn.data.sources.source import IGNORED, ArraySpec, Gathers, Source, Splits, Subset, gather
from jaxcnn.data.sources.tfds import Tfds, tfds
from jaxcnn.data.sources.voc import voc
from jaxcnn.data.sources.web_dataset import WebDataset, web_dataset
from jaxcnn.data.sources.yolo import yolo
from jaxcnn.data.splits import choose_classes, few, in_memory, match_classes, split
from jaxcnn.data.surveying import survey

__all__ = [
    "AUGMENTATIONS",
    "IGNORED",
    "ArraySpec",
    "Arrays",
    "Batches",
    "Composition",
    "DigitScenes",
    "FitPicture",
    "Gathers",
    "HuggingFace",
    "MaskFolder",
    "ObjectFiles",
    "OnDevice",
    "PictureFiles",
    "Place",
    "Prepare",
    "RandomResizedCrop",
    "Resized",
    "Source",
    "Splits",
    "Step",
    "Subset",
    "Tfds",
    "WebDataset",
    "Where",
    "affine",
    "alternating_flip",
    "arrays",
    "aug_mix",
    "autocontrast",
    "blur",
    "brightness",
    "choose_classes",
    "choose_place",
    "cifar10",
    "cifar100",
    "coco",
    "color_jitter",
    "compose",
    "contrast",
    "crop_views",
    "cutout",
    "digit_scenes",
    "digits",
    "elastic",
    "emnist_digits",
    "equalize",
    "eval_batches",
    "fashion_mnist",
    "few",
    "flip",
    "gather",
    "geometric",
    "grayscale",
    "hue",
    "hugging_face",
    "image_folder",
    "in_memory",
    "invert",
    "jpeg",
    "load",
    "load_npz",
    "manifest",
    "mask_folder",
    "match_classes",
    "mean_over_views",
    "mirror_views",
    "mnist",
    "noise",
    "npy_folder",
    "parse_augment",
    "perspective",
    "photometric",
    "posterize",
    "prepare",
    "put",
    "rand_augment",
    "random_crop",
    "random_erasing",
    "random_iou_crop",
    "random_resized_crop",
    "resized",
    "rotate",
    "saturation",
    "scale_jitter",
    "shapes",
    "sharpness",
    "shift",
    "shift_views",
    "solarize",
    "split",
    "survey",
    "svhn",
    "tfds",
    "trivial_augment",
    "unit_pixels",
    "voc",
    "web_dataset",
    "yolo",
    "zoom_out",
]
