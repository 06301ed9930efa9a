"""`jaxcnn data info`."""

import json

import numpy as np
import pytest
from object_folders import coco_content, write_coco
from PIL import Image

from jaxcnn.cli import info
from jaxcnn.data.sources import picture_index


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = np.random.default_rng(seed).integers(10, 30, 2)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def test_a_folder_is_described_and_drawn(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("train/Dog", "train/cat", "test/Dog", "test/cat")):
        for i in range(3 + number):
            draw(tmp_path / "set" / name / f"{i}.png", 10 * number + i)
    draw(tmp_path / "set" / "test" / "cat" / "copy.png", 1)
    (tmp_path / "set" / "train" / "cat" / "new\nline.txt").write_text("text")
    done = jaxcnn("data", "info", "set")
    assert done.status == 0, done.err
    assert "set: 19 examples of image uint8, label int32, 3 channels" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert ["Dog", "3", "5"] in lines
    assert ["cat", "4", "7"] in lines
    assert "warning: 1 file cannot be read as a picture, such as: expected a picture in" in done.out
    assert "warning: 1 picture in more than one part, so that the test is too easy" in done.out
    with Image.open("contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
    record = json.loads(jaxcnn("data", "info", "set", "--json", "--output", "other.png").out)
    assert record["parts"]["test"]["counts"] == {"Dog": 5, "cat": 7}
    assert len(record["unreadable"]) == len(record["same"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contact_sheet.png", "other.png", "set"]


def test_the_contact_sheet_shows_the_whole_of_a_class(jaxcnn, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(info.plots, "contact_sheet", lambda rows, **_: drawn.extend(rows))
    monkeypatch.setattr(info.plots, "save", lambda *_: None)
    grey = np.arange(0, 240, 10, dtype=np.uint8)
    images = np.tile(grey[:, None, None], (1, 4, 4))
    np.savez(tmp_path / "set.npz", images=images, labels=np.repeat([0, 1], [19, 5]))
    assert jaxcnn("data", "info", tmp_path / "set.npz").status == 0
    levels = [np.rint(images.mean((1, 2, 3)) * 255).astype(int).tolist() for _, images in drawn]
    assert levels == [[0, 20, 50, 70, 100, 120, 150, 180], [190, 200, 210, 220, 230]]


def test_any_data_set_is_described(jaxcnn, tmp_path, masked):
    output = tmp_path / "sheet.png"
    done = jaxcnn("data", "info", "digits", "--limit", 40, "--output", output)
    assert done.status == 0, done.err
    assert "digits: 1,797 examples of image float32, label int32, 1 channel\n" in done.out
    assert "40 images were read: sizes, mean, std and the warnings about pictures are of these" in done.out
    assert "no warnings" in done.out
    done = jaxcnn("data", "info", masked, "--output", output)
    assert done.status == 0, done.err
    assert "bright" in done.out


def test_numbers_to_predict_are_described(jaxcnn, tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    (tmp_path / "table.csv").write_text("path,target\n0.png,0.5\n1.png,1.5\n2.png,4\n")
    done = jaxcnn("data", "info", tmp_path / "table.csv", "--output", tmp_path / "sheet.png")
    assert done.status == 0, done.err
    assert "target 1 in train: 0.5 to 4, mean 2" in done.out


def test_tables_are_described_with_the_labels_that_are_named(jaxcnn, tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    table = tmp_path / "table.csv"
    table.write_text("path,kinds,note\n0.png,red|round,a\n1.png,,b\n2.png,round,c\n")
    words = ("data", "info", table, "--output", tmp_path / "sheet.png", "--json")
    assert "name it: label=, on the command line --labels" in jaxcnn(*words).err
    done = jaxcnn(*words, "--labels", "kinds", "--separator", "|")
    assert done.status == 0, done.err
    assert json.loads(done.out)["parts"]["train"]["counts"] == {"red": 1, "round": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--limit", "0"), "--limit expects a number at least 1, got 0"),
        (("digits", "--output", "sheet.jpg"), "--output expects a file with the extension .png, got sheet.jpg"),
        (("digits", "--output", "nowhere/sheet.png"), "the folder of 'nowhere/sheet.png' does not exist"),
        (("digit",), "unknown data set 'digit'; did you mean digits?"),
    ],
)
def test_what_cannot_be_done_is_refused(jaxcnn, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("data", "info", *words)
    assert done.status == 2
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.heavy
def test_objects_are_counted(jaxcnn, tmp_path):
    done = jaxcnn("data", "info", "digit_scenes", "--limit", 2, "--output", tmp_path / "sheet.png")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["9", "576", "89", "157"] in lines
    assert ["test", "1,170", "62", "2.9", "6", "16x5", "30x21", "48x42", "0", "0"] in lines


def test_annotated_objects_are_counted_and_clipped_on_request(jaxcnn, tmp_path):
    made = coco_content()
    made["annotations"][0]["bbox"] = [-9, 3, 20, 10]
    write_coco(tmp_path, "train", made)
    options = ["data", "info", f"coco:{tmp_path}", "--output", tmp_path / "sheet.png"]
    done = jaxcnn(*options)
    assert done.status == 2
    assert "annotation id 11: the box (-9, 3, 11, 13)" in done.err
    assert "--clip-boxes" in done.err
    done = jaxcnn(*options, "--clip-boxes", "--json")
    assert done.status == 0, done.err
    part = json.loads(done.out)["parts"]["train"]
    counts = part["objects"][0]
    assert counts == [1, 1, 0, 1, 0, 1]
    assert sum(part["counts"].values()) == sum(number * count for number, count in enumerate(counts)) == 9
