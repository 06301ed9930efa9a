import re

import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.data import named
from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.layers import Backbone, Conv, Sequential
from jaxcnn.models.catalog import CATALOG, Entry
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.retinanet import RetinaNet, retinanet_head
from jaxcnn.training.run_folder import RunFolder


def detector(num_classes=10, *, in_channels=3):
    """A small detector with one level."""
    body = Sequential(conv1=Conv(in_channels, 8, 7, 4, 3), conv2=Conv(8, 8, 3, 4, 1))
    head = retinanet_head(num_classes, 8, anchors=2, depth=1)
    return RetinaNet(Backbone(body, ["conv2"]), feature_pyramid((8,), 8), head, ((20.0, 36.0),), (1.0,))


def few_scenes():
    return {name: data.Subset(part, np.arange(24)) for name, part in digit_scenes(64).items()}


@pytest.fixture(scope="session")
def detected(finish):
    """A finished run of a detector, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOG, "detector", Entry(detector, (64, 64, 3), 10, ("in_channels",), 0, 0, task="detection"))
        patch.setitem(named.NAMES, "digit_scenes", few_scenes)
        words = ["train", "--model", "detector", "--data", "digit_scenes", "--batch-size", 8, "--epochs", 2]
        return finish(lambda run: [*words, "--run-dir", run], pictures=True)


def test_a_detector_is_trained_with_its_own_task(detected):
    folder, output = RunFolder(detected), detected.with_name("output").read_text()
    assert folder.config["task"] == repr(detector().task((64, 64)))
    assert folder.task == detector().task((64, 64))
    rows = folder.metrics()
    assert rows[-1]["validation_class_loss"] < rows[0]["validation_class_loss"]
    assert 0 <= rows[-1]["validation_ap50"] <= 1
    assert re.search(r"best epoch \d: validation ap50 \d+\.\d\d%\ntest ap50 \d+\.\d\d%\npictures", output)


def test_evaluate_shows_the_average_precision_and_the_recall_of_each_class(jaxcnn, detected):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named.NAMES, "digit_scenes", few_scenes)
        done = jaxcnn("evaluate", detected)
    result = RunFolder(detected).result()
    first, _, headings, _, *rows = done.out.splitlines()
    assert f"AP50 {result['test_ap50']:.2%}, recall {result['test_recall']:.2%}, box loss" in first
    assert headings.split() == ["class", "recall", "count"]
    assert [row.split()[0] for row in rows] == [str(digit) for digit in range(10)]


def test_predict_refuses_a_detector(jaxcnn, detected, tmp_path):
    done = jaxcnn("predict", detected, tmp_path / "missing.png")
    assert done.status == 2
    assert done.err == (
        "error: predict expects a classifier, a regression or a segmentation, got a detector; in Python, "
        "jaxcnn.load(run).predict(*pictures) returns boxes\n"
    )


@pytest.mark.parametrize(
    ("model", "data_name", "message"),
    [
        ("lenet5", "digit_scenes", "boxes, such as small_retinanet, got lenet5, which is for classification"),
        (
            "small_retinanet",
            "digits",
            "labels of whole images, such as mlp, got small_retinanet, which is for detection",
        ),
    ],
)
def test_a_model_for_another_task_is_refused(jaxcnn, tmp_path, model, data_name, message):
    done = jaxcnn("train", "--model", model, "--data", data_name, "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert done.err == f"error: expected a model for data with {message}\n"
    assert not (tmp_path / "run").exists()
