"""The table of published files against torchvision's metadata: every file of a model that is here, none forgotten."""

from torchvision_peer import torchvision

from jaxcnn.interop.records import RECORDS
from jaxcnn.interop.records.torchvision_files import PREPROCESSING

HALF = (0.5, 0.5, 0.5)


def published():
    """Lists (file name, transform, model) of all weights of the classifiers that have a record."""
    for name in sorted({record.architecture for record in RECORDS if record.origin == "torchvision"}):
        for weights in torchvision.models.get_model_weights(name):
            # Weights without a classifier, for a detector.
            if weights.name != "IMAGENET1K_FEATURES":
                yield weights.url.rsplit("/", 1)[1], weights.transforms(), name


def test_the_preprocessing_of_every_published_file_is_that_of_torchvision():
    for file, transform, name in published():
        ours = PREPROCESSING[file]
        assert ours.resize_size == transform.resize_size[0], file
        assert ours.crop_size == (transform.crop_size[0], transform.crop_size[0]), file
        assert ours.interpolation == transform.interpolation.value, file
        # These two models normalise once more by themselves, from torchvision's moments to 0.5.
        changes_its_input = name in ("googlenet", "inception_v3")
        assert ours.mean == (HALF if changes_its_input else tuple(transform.mean)), file
        assert ours.std == (HALF if changes_its_input else tuple(transform.std)), file


def test_no_file_is_listed_that_torchvision_does_not_publish():
    every = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        every |= {weights.url.rsplit("/", 1)[1] for weights in torchvision.models.get_model_weights(name)}
    assert set(PREPROCESSING) <= every
