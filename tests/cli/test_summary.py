import re
import sys

import pytest

from jaxcnn import layers, tables
from jaxcnn.cli import summary
from jaxcnn.models import catalog
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
    body = [row for row in rows[2:] if not set(row[0]) <= {"-"}]
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
    published |= {"resnet101": "44,549,160", "resnet152": "60,192,808", "googlenet": "6,624,904"}
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
    ("words", "message"),
    [
        (["--num-classes", 0], "--num-classes expects a number at least 1, got 0"),
        (["--num-classes", -3], "--num-classes expects a number at least 1, got -3"),
        (["--image-shape", 32, 0, 1], "--image-shape expects numbers at least 1, got 32 0 1"),
        (["--image-shape", 32, -32, 1], "--image-shape expects numbers at least 1, got 32 -32 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(jaxcnn, words, message):
    done = jaxcnn("summary", "lenet5", *words)
    assert (done.status, done.err) == (2, f"error: {message}\n")


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


def test_auxiliary_heads_are_told_apart(jaxcnn):
    rows = {row[0]: row[1:] for row in table(jaxcnn("summary", "googlenet").out)}
    # torchvision counts 6,624,904 parameters and 1.498 GMAC without the heads, 13,004,888 parameters with them.
    assert rows["total"] == ["1000", "6,624,904", "1,498,376,192"]
    assert rows["auxiliary heads, in training only"][0] == f"{13_004_888 - 6_624_904:,}"


@pytest.fixture
def terminal(jaxcnn, monkeypatch):
    """Runs `summary` on a terminal of some columns."""

    def run(columns, *words):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
        return jaxcnn("summary", *words).out.splitlines()

    return run


def names_in(lines):
    """The names of a table's first column, each put together from its lines."""
    start = next(i for i, line in enumerate(lines) if set(line) == {"-"})
    names = []
    for line in lines[start + 1 :]:
        if set(line) == {"-"} or not line or line.startswith("columns hidden"):
            break
        if line.startswith("  "):
            names[-1] += line.strip()
        else:
            names.append(line.split(" ")[0])
    return names


@pytest.mark.parametrize("model", ["resnet18", "googlenet", "mobilenet_v3_small", "lenet5"])
@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_every_path_is_there_in_a_terminal_of_any_width(terminal, model, columns):
    lines = terminal(columns, model)
    notes = [line for line in lines if re.match("(total|auxiliary heads, in training only): |columns hidden", line)]
    entry = CATALOG[model]
    built = catalog.build(model, entry.num_classes, entry.image_shape)
    rows = layers.arithmetic(built, entry.image_shape)
    assert names_in(lines) == [row.path for row in rows]
    assert max(len(line) for line in lines if line not in notes) <= columns
    counted = layers.summary(built, entry.image_shape)
    exact = f"{counted.parameters:,}"
    assert any(exact in line for line in lines)
    heading = " ".join(lines[2:4])
    assert "receptive" in heading or columns < 80
    left_out = [word for word in ("kind", "receptive field") if word.split()[0] not in heading]
    assert lines[-1].startswith("columns hidden (narrow terminal): ") == bool(left_out)
    assert all(word in lines[-1] for word in left_out)


def test_numbers_are_exact_where_there_is_room_and_rounded_where_not(terminal):
    rows = {
        columns: {line.split(" ")[0]: line.split() for line in terminal(columns, "resnet18")} for columns in (80, 99)
    }
    assert rows[99]["stem/conv"] == ["stem/conv", "Conv", "112x112x64", "9,408", "118,013,952", "7x7"]
    assert rows[80]["stem/conv"] == ["stem/conv", "Conv", "112x112x64", "9.41k", "118M", "7x7"]
    assert terminal(80, "resnet18")[-1] == "total: 11,689,512 parameters, 1,814,073,344 multiply-adds"


@pytest.mark.parametrize(
    ("number", "expected"),
    [("", ""), ("7", "7"), ("999", "999"), ("1,000", "1k"), ("9,996", "10k"), ("999,499", "999k"), ("999,500", "1M")],
)
def test_numbers_are_rounded_to_three_digits(number, expected):
    assert tables._rounded(number) == expected


def test_the_list_of_models_fits_a_narrow_terminal(terminal, monkeypatch):
    few = {name: CATALOG[name] for name in ("lenet5", "mobilenet_v3_large", "shufflenet_v2_x0_5")}
    monkeypatch.setattr(summary, "CATALOG", few)
    lines = terminal(60)
    assert names_in(lines) == list(few)
    assert max(map(len, lines[:-2])) <= 60
