"""The table of published files against torchvision's metadata: every file of a model that is here, none forgotten."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision_peer import torchvision

from jaxcnn.interop import weights
from jaxcnn.interop.records import RECORDS
from jaxcnn.interop.records.torchvision_files import DETECTION, DETECTION_320, PREPROCESSING, architecture_of
from jaxcnn.layers import Conv, Sequential

HALF = (0.5, 0.5, 0.5)
# These two models normalise once more by themselves, from torchvision's moments to 0.5.
CHANGES_ITS_INPUT = ("googlenet", "inception_v3")
MODELS = {record.architecture: record for record in RECORDS if record.origin == "torchvision"}
PHOTOGRAPH = load_sample_images().images[0]


def published_files():
    """Lists (file name, transform, model) of all weights of the models that have a record."""
    for name in MODELS:
        for published in torchvision.models.get_model_weights(name):
            yield published.url.rsplit("/", 1)[1], published.transforms(), name


def test_all_98_published_weights_of_torchvision_are_preprocessed_as_there():
    model, files, seen = Sequential(conv=Conv(3, 8)), set(), set()
    for file, transform, name in published_files():
        if type(transform).__name__ == "ObjectDetection":
            continue  # a detector prepares its images itself: see the next test
        files.add(file)
        ours = weights._preprocessing(MODELS[name], model, weights._Source(Path(file), {}, ("torchvision",)))
        moments = (HALF, HALF) if name in CHANGES_ITS_INPUT else (tuple(transform.mean), tuple(transform.std))
        assert (ours.mean, ours.std) == moments, file
        if (repr(transform), ours) in seen:
            continue
        seen.add((repr(transform), ours))
        expected = np.moveaxis(transform(Image.fromarray(PHOTOGRAPH)).numpy(), 0, -1)
        if name in CHANGES_ITS_INPUT:
            expected = (expected * transform.std + transform.mean - HALF) / HALF
        actual = ours(PHOTOGRAPH)
        assert actual.shape == expected.shape, file
        # In grey levels.
        assert 255 * np.abs((actual - expected) * ours.std).max() <= 1e-3, file
    assert len(files) == 98


@pytest.mark.parametrize(
    ("ours", "shorter", "longer", "turned"),
    [(DETECTION, 800, 1333, False), (DETECTION, 800, 1333, True), (DETECTION_320, 320, 640, False)],
)
def test_photographs_for_detectors_are_prepared_as_in_torchvision(ours, shorter, longer, turned):
    theirs = torchvision.models.detection.transform.GeneralizedRCNNTransform(
        shorter, longer, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    photograph = np.swapaxes(PHOTOGRAPH, 0, 1) if turned else PHOTOGRAPH
    for pixels in (photograph, photograph[:120, :300]):
        x = torchvision.transforms.functional.to_tensor(pixels.copy())
        expected = np.moveaxis(theirs([x])[0].tensors[0].numpy(), 0, -1)
        actual = ours(pixels)
        assert actual.shape == expected.shape
        # In grey levels; rounding to whole ones would give up to 0.5.
        assert 255 * np.abs((actual - expected) * ours.std).max() < 0.05


@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"])
def test_photographs_for_ssd_are_prepared_as_in_torchvision(name):
    theirs = torchvision.models.detection.__dict__[name](weights=None, weights_backbone=None, num_classes=2).transform
    ours = MODELS[name].preprocessing
    x = torchvision.transforms.functional.to_tensor(PHOTOGRAPH.copy())
    expected = np.moveaxis(theirs([x])[0].tensors[0].numpy(), 0, -1)
    assert ours(PHOTOGRAPH).shape == expected.shape
    assert 255 * np.abs((ours(PHOTOGRAPH) - expected) * ours.std).max() < 0.05


def test_the_names_of_the_files_tell_their_models():
    assert {file: architecture_of(file, MODELS) for file in PREPROCESSING} == {
        file: name for file, _, name in published_files() if file in PREPROCESSING
    }
    assert architecture_of("resnet50-00000000.pth", MODELS) is None


def test_no_file_is_listed_that_torchvision_does_not_publish():
    every = set()
    parts = (torchvision.models, torchvision.models.segmentation, torchvision.models.detection)
    for name in (name for part in parts for name in torchvision.models.list_models(module=part)):
        every |= {weights.url.rsplit("/", 1)[1] for weights in torchvision.models.get_model_weights(name)}
    assert set(PREPROCESSING) <= every
