"""Pictures with objects in the text format of YOLO: what is read, and what is refused."""

import sys

import numpy as np
import pytest
from object_folders import write_picture

from jaxcnn.data import load, yolo
from jaxcnn.data.sources import picture_index

pytest.importorskip("PIL")
pytest.importorskip("yaml")

LABELS = {
    "one": "0 0.5 0.25 0.5 0.5\n\n1 0.1 0.2 0.3 0.2 0.3 0.4\n",
    "two": "",
    "three": None,
    "four": "2.0 0.75 0.5 0.5 1.0\n",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


@pytest.fixture
def folder(tmp_path):
    """A folder with a training part of four pictures, 40 x 60 upright, and data.yaml."""
    for name, text in LABELS.items():
        write_picture(tmp_path / "images" / "train" / f"{name}.jpg", 40, 60)
        label = tmp_path / "labels" / "train" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    (tmp_path / "data.yaml").write_text("names: [cat, dog, bird]\nnc: 3\ntrain: images/train\n")
    return tmp_path


def test_boxes_are_in_pixels_of_the_picture(folder):
    source = yolo(folder)["train"]
    assert source.class_names == ("cat", "dog", "bird")
    assert [source.path(index).rsplit("/", 1)[1] for index in range(4)] == [
        "four.jpg",
        "one.jpg",
        "three.jpg",
        "two.jpg",
    ]
    four, one, three, two = (source[index] for index in range(4))
    np.testing.assert_allclose(four["boxes"][:1], [[30, 0, 60, 40]], rtol=1e-6)
    np.testing.assert_allclose(one["boxes"], [[15, 0, 45, 20], [6, 8, 18, 16]], rtol=1e-6)
    assert (one["classes"].tolist(), four["classes"].tolist()) == ([0, 1], [2, 0])
    assert one["valid"].all()
    assert not three["valid"].any()
    assert not two["valid"].any()
    assert source.spec.keys() == {"image", "boxes", "classes", "valid"}


def test_polygons_are_read_as_masks(folder):
    pytest.importorskip("faster_coco_eval")
    example = load(f"yolo:{folder}", instances=True)["train"][1]
    box, triangle = example["masks"]
    expected = np.zeros((40, 60), bool)
    expected[0:20, 15:45] = True
    np.testing.assert_array_equal(box, expected)
    rows, columns = np.nonzero(triangle)
    assert 6 <= columns.min() < columns.max() < 18
    assert 8 <= rows.min() < rows.max() < 16
    assert abs(triangle.sum() - 12 * 8 / 2) <= 12


def test_turned_photographs_are_measured_upright(folder):
    write_picture(folder / "images" / "train" / "four.jpg", 40, 60, orientation=6)
    example = yolo(folder)["train"][0]
    assert example["image"].shape == (60, 40, 3)
    np.testing.assert_allclose(example["boxes"][0], [20, 0, 40, 60], rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: cat, 1: dog, 2: bird}\npath: .\ntrain: images/train\nval: [images/val]\n",
        "names: [cat, dog, bird]\ntrain: ../images/train\nval: val.txt\n",
        "names: [cat, dog, bird]\npath: set\ntrain: images/train\nval: images/val/\n",
    ],
)
def test_parts_are_folders_or_lists(folder, text):
    for name in ("five", "six"):
        write_picture(folder / "images" / "val" / f"{name}.png", 10, 20)
    (folder / "labels" / "val").mkdir()
    (folder / "labels" / "val" / "five.txt").write_text("1 0.5 0.5 0.5 0.5")
    (folder / "val.txt").write_text("images/val/five.png\n\nimages/val/six.png\n")
    if "path: set" in text:
        (folder / "set").mkdir()
        for kind in ("images", "labels"):
            (folder / kind).rename(folder / "set" / kind)
    (folder / "data.yaml").write_text(text)
    parts = yolo(folder / "data.yaml")
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "validation": 2}
    np.testing.assert_allclose(parts["validation"][0]["boxes"][0], [5, 2.5, 15, 7.5])
    assert parts["validation"].spec["boxes"].shape == parts["train"].spec["boxes"].shape


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", "one.txt, line 1: class 3, but there are 3 names, and classes count from 0"),
        ("0.5 0.5 0.5 0.1 0.1", "one.txt, line 1: class 0.5, but there are 3 names"),
        ("cat 0.5 0.5 0.1 0.1", "one.txt, line 1: 'cat 0.5 0.5 0.1 0.1' are not numbers"),
        ("\n0 0.5 0.5 0.1", "one.txt, line 2: 3 numbers after the class, rather than 4, or two for each corner"),
        ("0 300 200 40 40", r"one.txt, line 1: 300 200 40 40, which are not parts of the image in \[0, 1\]"),
        ("0 nan 0.5 0.1 0.1", "one.txt, line 1: nan 0.5 0.1 0.1, which are not parts of the image"),
        ("0 0.5 0.5 0 0.1", r"one.txt, line 1: the box \(30, 18, 30, 22\), .* is empty"),
        ("0 0.9 0.5 0.4 0.1", r"one.txt, line 1: the box \(42, 18, 66, 22\), .* reaches beyond its image of 40x60"),
    ],
)
def test_faults_are_named_with_file_and_line(folder, line, message):
    (folder / "labels" / "train" / "one.txt").write_text(line)
    with pytest.raises(ValueError, match=message):
        yolo(folder)


def test_clipping_is_a_way_out(folder):
    (folder / "labels" / "train" / "one.txt").write_text("0 0.9 0.5 0.4 0.1\n0 0.5 0.5 0 0.1")
    example = yolo(folder, clip_boxes=True)["train"][1]
    np.testing.assert_allclose(example["boxes"], [[42, 18, 60, 22]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("names: [a, a]\ntrain: images", ValueError, r"a list of different names or .*, got \['a', 'a'\]"),
        ("names: {1: a, 2: b}\ntrain: images", ValueError, "a table with the numbers from 0, got"),
        ("train: images", ValueError, "expected 'names' in .*data.yaml', .*, got None"),
        ("names: [a]\nnc: 2\ntrain: images", ValueError, "expected nc: 1 in .*, one for each name, got 2"),
        ("names: [a]", ValueError, "expected 'names' and 'train' in .*, got no 'train'"),
        ("names: [a\n", ValueError, "expected YAML in .*data.yaml', got: while parsing"),
        ("names: [a]\ntrain: pictures", FileNotFoundError, "expected 'train' in .* got 'pictures': there is no"),
        ("names: [a]\ntrain: labels", ValueError, "expected pictures in 'train' of .*, got none in labels"),
    ],
)
def test_descriptions_that_cannot_be_used_are_refused(folder, text, error, message):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(error, match=message):
        yolo(folder)


def test_a_part_without_any_label_file_is_refused(folder):
    (folder / "labels").rename(folder / "annotations")
    with pytest.raises(
        ValueError, match=r"expected label files for the part 'train' of .*, such as .*labels/train/four.txt"
    ):
        yolo(folder)


def test_a_missing_description_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*data.yaml'; expected a data.yaml with names"):
        yolo(tmp_path)


def test_a_label_file_that_is_no_text_is_refused(folder):
    (folder / "labels" / "train" / "one.txt").write_bytes(b"\xff\xfe0 0.5")
    with pytest.raises(ValueError, match=r"one.txt: not a text"):
        yolo(folder)


def test_a_missing_yaml_is_named_with_the_remedy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"data.yaml is read by PyYAML; pip install 'jaxcnn\[detection\]'"):
        yolo(folder)
