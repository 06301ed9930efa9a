import csv
import dataclasses
import json
import re
import shutil
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcnn import data, load, plots, trees
from jaxcnn.cli import predict, predictions
from jaxcnn.data import named
from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.weights import save_torch
from jaxcnn.layers import Backbone, Conv, Sequential
from jaxcnn.models import yolox_nano
from jaxcnn.models.catalog import CATALOG, Entry
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.retinanet import RetinaNet, retinanet_head
from jaxcnn.plots.figures import class_colour
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


@pytest.mark.slow
def test_yolox_is_fine_tuned_from_weights_of_other_classes(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.setitem(named.NAMES, "digit_scenes", few_scenes)
    model, path, run = yolox_nano(80), tmp_path / "yolox_nano.pth", tmp_path / "run"
    params, state = model.init(jax.random.key(5))
    save_torch(path, model, params, state, architecture="yolox/yolox_nano")
    words = ["train", "--model", "yolox_nano", "--data", "digit_scenes", "--init-from", path, "--learning-rate", 1e-7]
    options = ["--batch-size", 8, "--epochs", 2, "--mosaic", 0.5, "--plain-epochs", 1, "--ema", 0.9998]
    done = jaxcnn(*words, *options, "--run-dir", run)
    assert done.status == 0, done.err
    assert "epoch 2: images are no longer mixed from now on" in done.out
    network = load(run)
    assert network.task == yolox_nano(10).task((64, 64))
    # The pixels of the data are in [0, 1], red first; those of the weights in [0, 255], blue first.
    assert dict(network.layer["normalize"].options) == {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "reverse": True}
    kept, new = network.params["stage2"], network.params["head"]["class_logits"]["p3"]
    for name, leaf in trees.named_leaves(params["stage2"]).items():
        np.testing.assert_allclose(trees.named_leaves(kept)[name], leaf, atol=1e-4)
    assert new["kernel"].shape == (1, 1, 64, 10)


def test_evaluate_shows_the_average_precision_and_the_recall_of_each_class(jaxcnn, detected):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named.NAMES, "digit_scenes", few_scenes)
        done = jaxcnn("evaluate", detected)
    result = RunFolder(detected).result()
    first, _, headings, _, *rows = done.out.splitlines()
    assert f"AP50 {result['test_ap50']:.2%}, recall {result['test_recall']:.2%}, box loss" in first
    assert headings.split() == ["class", "recall", "count"]
    assert [row.split()[0] for row in rows] == [str(digit) for digit in range(10)]


def test_a_run_draws_the_boxes_of_some_examples(detected):
    with Image.open(detected / "boxes.png") as picture:
        assert np.asarray(picture.convert("L"), float).std() > 5


@pytest.fixture(scope="session")
def certain(detected, tmp_path_factory):
    """A run whose detector finds a 7 of 20 x 20 pixels around each place of its map, and nothing else.

    The places are at 0, 16, 32 and 48 in both directions, and the images have 64 x 64 pixels.
    """
    folder = tmp_path_factory.mktemp("certain") / "run"
    shutil.copytree(detected, folder)
    network = load(folder)
    head = {name: tree for name, tree in network.params["head"].items() if name not in ("class_logits", "box_deltas")}
    bias = np.full((2, 10), -20, np.float32)
    bias[0, 7] = 3
    for name, values in (("class_logits", bias.ravel()), ("box_deltas", np.zeros(8, np.float32))):
        kernel = np.zeros_like(network.params["head"][name]["kernel"])
        head[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(values)}
    run = RunFolder(folder)
    with run.writing():
        run.save_best({**network.params, "head": head}, network.state, 1)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A wide picture, and a tall one whose file lies on its side, with the edges of their boxes (x, y)."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    # 128 x 32 become 64 x 16 pixels, at the rows 24 to 39; the boxes 0 to 10, 6 to 26, 22 to 42 and 38 to 58 are cut.
    wide = product([(0, 20), (12, 52), (44, 84), (76, 116)], [(0, 4), (0, 32), (28, 32)])
    Image.fromarray(rng.integers(0, 256, (32, 128, 3), np.uint8)).save(folder / "wide.png")
    # 48 x 96 become 32 x 64 pixels, at the columns 16 to 47.
    tall = product([(0, 15), (9, 39), (33, 48)], [(0, 15), (9, 39), (33, 63), (57, 87)])
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rng.integers(0, 256, (48, 96, 3), np.uint8)).save(folder / "tall.jpg", exif=exif)
    return {folder / "wide.png": sorted(wide), folder / "tall.jpg": sorted(tall)}


def edges(boxes):
    return sorted(((x1, x2), (y1, y2)) for x1, y1, x2, y2 in boxes)


def test_boxes_are_in_pixels_of_the_file(jaxcnn, certain, photographs):
    done = jaxcnn("predict", certain, *photographs, "--json")
    assert (done.status, done.err) == (0, "")
    for record, (file, expected) in zip(json.loads(done.out), photographs.items(), strict=True):
        assert (record["file"], record["count"], len(record["objects"])) == (str(file), 12, 12)
        assert {one["class"] for one in record["objects"]} == {"7"}
        np.testing.assert_allclose([one["score"] for one in record["objects"]], 1 / (1 + np.exp(-3)), rtol=1e-4)
        found = edges([one[edge] for edge in ("x1", "y1", "x2", "y2")] for one in record["objects"])
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_network_gives_the_same_boxes_of_files_and_arrays(certain, photographs):
    network = load(certain)
    upright = [np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB")) for file in photographs]
    for found, expected in zip(network.predict(*photographs, *upright), 2 * list(photographs.values()), strict=True):
        assert found["valid"].sum() == 12
        np.testing.assert_allclose(edges(found["boxes"][found["valid"]]), expected, atol=1e-3)
        assert not found["boxes"][~found["valid"]].any()
    # Published detectors prepare their pictures in another way.
    stretched = dataclasses.replace(network, preprocessing=Preprocessing((64, 64), None, mean=(0,) * 3, std=(1,) * 3))
    [found] = stretched.predict(next(iter(photographs)))
    places = [0, 6, 22, 38], [10, 26, 42, 58]
    expected = sorted(product(zip(*2 * np.array(places), strict=True), zip(*np.array(places) / 2, strict=True)))
    np.testing.assert_allclose(edges(found["boxes"][found["valid"]]), expected, atol=1e-3)


def test_a_line_counts_the_objects_and_names_the_best(jaxcnn, certain, photographs, monkeypatch):
    wide, _ = photographs
    line = f"{wide}  12 objects: 7 0.95 (0, 0, 20, 4); 7 0.95 (12, 0, 52, 4); 7 0.95 (44, 0, 84, 4); 9 more\n"
    assert jaxcnn("predict", certain, wide).out == line
    assert jaxcnn("predict", certain, wide, "--top", 1).out == f"{wide}  12 objects: 7 0.95 (0, 0, 20, 4); 11 more\n"
    assert jaxcnn("predict", certain, wide, "--min-score", 0.96).out == f"{wide}  no objects\n"
    monkeypatch.chdir(wide.parent)
    monkeypatch.setattr(predictions, "columns", lambda: 60)
    assert jaxcnn("predict", certain, "wide.png").out.splitlines() == [
        "wide.png  12 objects: 7 0.95 (0, 0, 20, 4);",
        "          7 0.95 (12, 0, 52, 4); 7 0.95 (44, 0, 84, 4);",
        "          9 more",
    ]


def test_a_table_has_a_row_for_each_object_and_for_each_file_without_one(jaxcnn, certain, photographs, tmp_path):
    wide, _ = photographs
    (tmp_path / "broken.png").write_text("no picture")
    done = jaxcnn("predict", certain, wide, tmp_path / "broken.png", "--csv", "--top", 2)
    assert done.status == 1
    header, *rows = csv.reader(done.out.splitlines())
    assert header == ["file", "rank", "class", "score", "x1", "y1", "x2", "y2", "error"]
    assert rows[0] == [str(wide), "1", "7", "0.952574", "0.0", "0.0", "20.0", "4.0", ""]
    assert rows[1] == [str(wide), "2", "7", "0.952574", "12.0", "0.0", "52.0", "4.0", ""]
    assert len(rows) == 3
    assert "another format or a damaged file" in rows[2][-1]
    done = jaxcnn("predict", certain, wide, "--csv", "--min-score", 0.96)
    assert done.out.splitlines()[1:] == [f"{wide},,,,,,,,"]


def test_pictures_with_boxes_are_written_where_they_are_asked_for(jaxcnn, certain, photographs, tmp_path):
    wide, _ = photographs
    out = tmp_path / "out"
    done = jaxcnn("predict", certain, wide.parent, "--overlays", out)
    assert (done.status, done.out.splitlines()[-1]) == (0, f"overlays: {out}")
    assert sorted(path.name for path in out.iterdir()) == ["tall_overlay.png", "wide_overlay.png"]
    done = jaxcnn("predict", certain, wide, "--json", "--min-score", 0.96, "--overlays", tmp_path / "none")
    assert json.loads(done.out) == [
        {"file": str(wide), "overlay": str(tmp_path / "none" / "wide_overlay.png"), "count": 0, "objects": []}
    ]
    done = jaxcnn("predict", certain, wide, "--csv", "--top", 1, "--overlays", tmp_path / "csv")
    [row] = csv.DictReader(done.out.splitlines())
    assert row["overlay"] == str(tmp_path / "csv" / "wide_overlay.png")
    colour = np.round(255 * np.array(class_colour(7)))

    def has_boxes(file):
        with Image.open(file) as picture:
            return (np.abs(np.asarray(picture.convert("RGB"), float) - colour).max(-1) <= 1).sum() > 200

    assert has_boxes(out / "wide_overlay.png")
    assert has_boxes(out / "tall_overlay.png")
    assert not has_boxes(tmp_path / "none" / "wide_overlay.png")
    assert not (certain / "masks").exists()


def test_a_large_picture_is_drawn_smaller_with_its_boxes(jaxcnn, certain, tmp_path, monkeypatch):
    Image.new("RGB", (2560, 640), "grey").save(tmp_path / "large.png")
    drawn = []

    def detections(images, found, names, **options):
        drawn.append((images[0].shape, edges(found[0]["boxes"])))
        return plots.detections(images, found, names, **options)

    monkeypatch.setattr(predictions, "plots", SimpleNamespace(detections=detections, save=plots.save))
    assert jaxcnn("predict", certain, tmp_path / "large.png", "--overlays", tmp_path / "out").status == 0
    [(shape, found)] = drawn
    assert shape == (250, 1000, 3)
    # 20 times larger than the wide picture, and then scaled by 1000 / 2560.
    small = sorted(product([(0, 20), (12, 52), (44, 84), (76, 116)], [(0, 4), (0, 32), (28, 32)]))
    np.testing.assert_allclose(found, np.array(small) * 1000 / 128, atol=1e-3)


def test_a_picture_that_vanishes_before_it_is_drawn_is_named(jaxcnn, certain, photographs, tmp_path, monkeypatch):
    file = tmp_path / "gone.png"
    shutil.copy(next(iter(photographs)), file)
    before = predict.picture_size

    def measured(path):
        size = before(path)
        file.unlink()
        return size

    monkeypatch.setattr(predict, "picture_size", measured)
    done = jaxcnn("predict", certain, file, "--overlays", tmp_path / "out")
    assert done.status == 2
    assert done.err == f"error: expected a picture, got {str(file)!r}: No such file or directory\n"


def test_classes_without_names_are_numbers(jaxcnn, certain, photographs, edit_config, tmp_path):
    shutil.copytree(certain, tmp_path / "run")
    edit_config(tmp_path / "run", lambda config: config.update(class_names=[]))
    wide, _ = photographs
    done = jaxcnn("predict", tmp_path / "run", wide, "--top", 1, "--overlays", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{wide}  12 objects: 7 0.95 (0, 0, 20, 4); 11 more\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--min-score", 1.5], "--min-score expects a number in [0, 1], got 1.5"),
        (["--min-score", 0.5], "--min-score expects a run of a detector, got Classification; omit it"),
        (
            ["--overlays", "out"],
            "--overlays expects a run of a segmentation or a detector, got Classification; omit it",
        ),
    ],
)
def test_options_of_detectors_are_refused_for_a_classifier(jaxcnn, finished, given, message):
    done = jaxcnn("predict", finished, "image.png", *given)
    assert (done.status, done.err) == (2, f"error: {message}\n")


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
