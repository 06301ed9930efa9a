import re

import pytest

from jaxcnn.models.catalog import CATALOG


def table(text):
    """The rows of a printed table, each a list of its cells."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines() if line.strip()]


def test_lenet5_layer_by_layer(jaxcnn):
    done = jaxcnn("summary", "lenet5")
    assert done.status == 0
    rows = table(done.out)
    assert rows[0] == ["lenet5 on 32x32x1"]
    assert rows[1] == ["path", "kind", "output shape", "parameters", "multiply-adds", "receptive field"]
    body = [row for row in rows[2:] if not set(row[0]) <= {"─"}]
    # Worked out by hand: (5 * 5 * 1 + 1) * 6 parameters, 28 * 28 * 6 * 25 multiply-adds, and so on.
    assert body == [
        ["conv1", "Conv", "28x28x6", "156", "117,600", "5x5"],
        ["relu1", "relu", "28x28x6", "5x5"],
        ["pool1", "MaxPool", "14x14x6", "6x6"],
        ["conv2", "Conv", "10x10x16", "2,416", "240,000", "14x14"],
        ["relu2", "relu", "10x10x16", "14x14"],
        ["pool2", "MaxPool", "5x5x16", "16x16"],
        ["flatten", "Flatten", "400", "all"],
        ["dense1", "Dense", "120", "48,120", "48,000", "all"],
        ["relu3", "relu", "120", "all"],
        ["dense2", "Dense", "84", "10,164", "10,080", "all"],
        ["relu4", "relu", "84", "all"],
        ["head", "Dense", "10", "850", "840", "all"],
        ["total", "10", "61,706", "416,520"],
    ]


def test_without_a_model_all_are_listed(jaxcnn):
    done = jaxcnn("summary")
    assert done.status == 0
    rows = {row[0]: row[1:] for row in table(done.out)}
    assert rows["name"] == ["image", "classes", "parameters", "multiply-adds"]
    assert set(rows) >= set(CATALOG)
    assert rows["lenet5"] == ["32x32x1", "10", "61,706", "416,520"]
    assert rows["mlp"] == ["32x32x1", "10", "296,586", "296,192"]
    # The published numbers of torchvision's models.
    published = {"resnet18": "11,689,512", "resnet34": "21,797,672", "resnet50": "25,557,032"}
    published |= {"resnet101": "44,549,160", "resnet152": "60,192,808"}
    assert {name: rows[name][2] for name in published} == published


def test_other_images_and_classes(jaxcnn):
    done = jaxcnn("summary", "mlp", "--image-shape", 8, 6, 3, "--num-classes", 5)
    rows = {row[0]: row for row in table(done.out)}
    assert "mlp on 8x6x3" in rows
    weights = 8 * 6 * 3 * 256 + 256 * 128 + 128 * 5
    assert rows["total"] == ["total", "5", f"{weights + 256 + 128 + 5:,}", f"{weights:,}"]


def test_a_deep_model_is_not_cut_where_output_is_no_terminal(jaxcnn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    done = jaxcnn("summary", "resnet20")
    assert "…" not in done.out
    assert ["total", "10", "269,722", "40,551,040"] in table(done.out)


@pytest.mark.parametrize(
    "words", [["--num-classes", 0], ["--num-classes", -3], ["--image-shape", 32, 0, 1], ["--image-shape", 32, -32, 1]]
)
def test_sizes_that_make_no_sense_are_refused(jaxcnn, words):
    done = jaxcnn("summary", "lenet5", *words)
    assert done.status == 2
    assert re.match(
        r"error: expected a positive image shape and number of classes, got \(32, -?\d+, 1\) and -?\d+\n", done.err
    )


def test_images_that_the_model_cannot_take_are_refused(jaxcnn):
    done = jaxcnn("summary", "lenet5", "--image-shape", 32, 15, 1)
    assert done.status == 2
    assert done.err == (
        "error: lenet5 expects images of at least 16x16 pixels, got 32x15; enlarge them or take another model\n"
    )
    done = jaxcnn("summary", "lenet5_1998", "--image-shape", 28, 28, 1)
    assert done.err == "error: lenet5_1998 expects images of shape (32, 32, 1), got (28, 28, 1)\n"


def test_an_unknown_model_is_refused_with_the_nearest(jaxcnn):
    done = jaxcnn("summary", "resnet19")
    assert done.status == 2
    assert re.match(r"error: unknown model 'resnet19'; did you mean resnet1\d+\?\nknown: mlp, lenet5, ", done.err)
