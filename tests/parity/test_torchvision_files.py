"""The table of published files against torchvision's metadata: every file of a model that is here, none forgotten."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision_peer import torchvision

from jaxcnn.interop import weights
from jaxcnn.interop.records import RECORDS
from jaxcnn.interop.records.torchvision_files import PREPROCESSING, architecture_of
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


def test_the_names_of_the_files_tell_their_models():
    assert {file: architecture_of(file, MODELS) for file in PREPROCESSING} == {
        file: name for file, _, name in published_files() if file in PREPROCESSING
    }
    assert architecture_of("resnet50-00000000.pth", MODELS) is None


def test_no_file_is_listed_that_torchvision_does_not_publish():
    every = set()
    segmentation = torchvision.models.list_models(module=torchvision.models.segmentation)
    for name in [*torchvision.models.list_models(module=torchvision.models), *segmentation]:
        every |= {weights.url.rsplit("/", 1)[1] for weights in torchvision.models.get_model_weights(name)}
    assert set(PREPROCESSING) <= every
