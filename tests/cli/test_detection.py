import csv
import dataclasses
import json
import re
import shutil
import sys
from itertools import product
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from object_folders import coco_content, write_coco
from PIL import Image, ImageOps

from jaxcnn import data, load, plots, trees
from jaxcnn.cli import detected as detected_set
from jaxcnn.cli import predict, predictions, terminal
from jaxcnn.cli.coco_file import CocoFile
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Predict
from jaxcnn.data import named
from jaxcnn.data.pictures import FitPicture
from jaxcnn.data.sources import picture_index
from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.evaluation import coco_annotations, voc_figures
from jaxcnn.interop.export import export_stablehlo
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.weights import save_torch
from jaxcnn.layers import Backbone, Conv, Sequential
from jaxcnn.models import small_maskrcnn, yolox_nano
from jaxcnn.models.catalog import CATALOG, Entry
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.retinanet import RetinaNet, retinanet_head
from jaxcnn.models.normalized import Normalization, normalized
from jaxcnn.plots.figures import class_colour
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.trained_model import ModelInfo, TrainedModel


def detector(num_classes=10, *, in_channels=3):
    """A small detector with one level."""
    body = Sequential(conv1=Conv(in_channels, 8, 7, 4, 3), conv2=Conv(8, 8, 3, 4, 1))
    head = retinanet_head(num_classes, 8, anchors=2, depth=1)
    return RetinaNet(Backbone(body, ["conv2"]), feature_pyramid((8,), 8), head, ((20.0, 36.0),), (1.0,))


ENTRY = Entry(detector, (64, 64, 3), 10, ("in_channels",), 0, 0, task="detection")


def few_scenes():
    return {name: data.Subset(part, np.arange(24)) for name, part in digit_scenes(64).items()}


@pytest.fixture(scope="session")
def detected(finish):
    """A finished run of a detector, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOG, "detector", ENTRY)
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
    share = r"\d+\.\d\d%"
    found = f"test AP {share}, AP50 {share}, AP75 {share} \\(COCO\\)"
    assert re.search(f"best epoch \\d: validation AP50 {share}\n{found}\npictures", output)


@pytest.mark.heavy
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


@pytest.fixture(scope="session")
def lively(detected, tmp_path_factory):
    """The same run with larger scores, so that it finds much, right and wrong."""
    folder = tmp_path_factory.mktemp("lively") / "run"
    shutil.copytree(detected, folder)
    network = load(folder)
    head = network.params["head"]
    logits = {**head["class_logits"], "bias": head["class_logits"]["bias"] + 3.5}
    run = RunFolder(folder)
    with run.writing():
        run.save_best({**network.params, "head": {**head, "class_logits": logits}}, network.state, 1)
    return folder


@pytest.fixture(scope="session")
def truth_and_results(lively):
    """The test scenes and what the run finds in them, in COCO's format, written by hand."""
    test = few_scenes()["test"]
    content = {
        "images": [{"id": k} for k in range(24)],
        "categories": [{"id": k, "name": str(k)} for k in range(10)],
        "annotations": [],
    }
    results = []

    def entry(k, box, number):
        left, top, right, bottom = (float(edge) for edge in box)
        return {"image_id": k, "category_id": int(number), "bbox": [left, top, right - left, bottom - top]}

    examples = [test[k] for k in range(24)]
    for k, (example, found) in enumerate(
        zip(examples, load(lively).predict(*(one["image"] for one in examples)), strict=True)
    ):
        for box, number in zip(example["boxes"][example["valid"]], example["classes"], strict=False):
            one = entry(k, box, number)
            area = one["bbox"][2] * one["bbox"][3]
            content["annotations"].append(one | {"id": len(content["annotations"]) + 1, "area": area, "iscrowd": 0})
        for box, number, score in zip(found["boxes"], found["classes"], found["scores"], strict=True):
            results += [entry(k, box, number) | {"score": float(score)}] if score > 0 else []
    return content, results


def evaluated(jaxcnn, run, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named.NAMES, "digit_scenes", few_scenes)
        done = jaxcnn("evaluate", run, *words)
    assert (done.status, done.err) == (0, "")
    return done.out


def test_evaluate_gives_the_figures_of_coco_and_voc(jaxcnn, lively, truth_and_results):
    tools = pytest.importorskip("faster_coco_eval")
    record = json.loads(evaluated(jaxcnn, lively, "--batch-size", 7, "--json", "--voc", 2007))
    content, results = truth_and_results
    truth = tools.COCO(content)
    evaluation = tools.COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.run()
    assert evaluation.stats[1] > 0
    stats = [None if value == -1 else value for value in evaluation.stats[:12]]
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100"]
    assert list(record["coco"]["box"]) == [*names, "AR_small", "AR_medium", "AR_large"]
    for got, expected in zip(record["coco"]["box"].values(), stats, strict=True):
        assert got == pytest.approx(expected, abs=1e-6)
    counts = np.bincount([one["category_id"] for one in content["annotations"]], minlength=10)
    assert [(one["class"], one["objects"]) for one in record["classes"]] == [(str(k), n) for k, n in enumerate(counts)]
    voc = voc_figures(content, results, rule="2007")
    assert record["voc"] == pytest.approx(voc.mean, abs=1e-6)
    assert [one["voc_AP"] for one in record["classes"]] == pytest.approx(list(voc.classes.values()), abs=1e-6)
    assert record["examples"] == 24


@pytest.mark.slow
@pytest.mark.heavy
def test_evaluate_prints_tables_and_draws_pictures(jaxcnn, detected, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(terminal, "columns", lambda: 80)
    folder = tmp_path / "new" / "pictures"
    lines = evaluated(jaxcnn, detected, "--voc", 2010, "--pictures", folder).splitlines()
    assert re.fullmatch(r"epoch \d, test: 24 images, box loss .*, class loss .*, loss .*", lines[0])
    headings = [line.split() for line in lines if line.startswith(("COCO", "class", "boxes"))]
    assert headings[0] == ["COCO", "AP", "AP", "AP50", "AP75", "small", "medium", "large"]
    assert headings[2] == ["COCO", "AR", "AR1", "AR10", "AR100", "small", "medium", "large"]
    assert headings[4] == ["class", "AP", "AP50", "AP75", "AR", "VOC", "2010", "objects"]
    assert [len(headings[k]) for k in (1, 3)] == [7, 7]
    assert any(re.fullmatch(r"VOC 2010 AP \d+\.\d\d%, at an overlap of 0.5", line) for line in lines)
    assert lines[-1] == f"pictures: {folder}"
    assert max(map(len, lines[:-1])) <= 80
    expected = ["boxes.png", "confusion.png", "mistakes.png", "precision_recall.png"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert f", loss {RunFolder(detected).result()['test_loss']:.4f}" in lines[0]
    assert {path.name for path in detected.glob("*.png")} == {*expected, "curves.png"}


def test_classes_that_are_not_in_the_order_of_their_ids_keep_their_names(tmp_path, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: tmp_path / "cache")
    content = coco_content()
    source = data.match_classes(data.coco(write_coco(tmp_path, "train", content)), ("bird", "cat", "dog"))
    annotations = coco_annotations(source)
    # Birds are found, other animals are missed.
    results = [one | {"score": 0.9} for one in annotations["annotations"] if one["category_id"] == 90]
    found = detected_set.Detected(source, annotations, results, False)
    calls = {}
    kinds = ("detections", "detection_confusion", "detection_mistakes", "precision_recall")
    fakes = {name: lambda *given, name=name, **options: calls.update({name: (given, options)}) for name in kinds}
    monkeypatch.setattr(detected_set, "plots", SimpleNamespace(**fakes))
    detected_set.draw(found, found.figures(), "")
    assert {given[-1] for given, _ in calls.values()} == {("cat", "dog", "bird")}
    numbers = [("cat", "dog", "bird")[number] for number in calls["detections"][0][1][0]["classes"]]
    assert set(numbers) <= {"bird"}
    truth = calls["detections"][1]["objects"]
    assert [len(one["boxes"]) for one in truth] == [3, 0, 5, 1]
    names = {2: 0, 7: 1, 90: 2}
    expected = [names[one["category_id"]] for one in content["annotations"]]
    assert [number for one in truth for number in one["classes"]] == expected
    precisions, averages, _ = calls["precision_recall"][0]
    assert (averages[2], averages[0]) == (1, 0)
    assert precisions[2].min() == 1
    mistakes = calls["detection_mistakes"][0][1]
    assert not any((one.picture.classes[one.missed] == 2).any() for one in mistakes)


def test_masks_of_a_set_are_drawn_over_the_photographs(tmp_path, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(detected_set, "_LONGEST", 30)
    source = data.coco(write_coco(tmp_path, "train", coco_content()), instances=True)
    annotations = coco_annotations(source, masks=True)
    # The last object of each photograph has too low a score.
    last = {one["image_id"]: one["id"] for one in annotations["annotations"]}
    results = [one | {"score": 0.2 + 0.1 * (last[one["image_id"]] != one["id"])} for one in annotations["annotations"]]
    drawn = []
    monkeypatch.setattr(plots, "detections", lambda *given, **options: drawn.append((given, options)))
    detected_set.draw(detected_set.Detected(source, annotations, results, True), {}, "")
    [((images, found, _), options)] = drawn
    for index, (image, truth, one) in enumerate(zip(images, options["objects"], found, strict=True)):
        example = source[index]
        shape = example["image"].shape
        rows, columns = (((np.arange(image.shape[i]) + 0.5) * shape[i] / image.shape[i]).astype(int) for i in (0, 1))
        expected = example["masks"][example["valid"]][:, rows[:, None], columns]
        np.testing.assert_array_equal(truth["masks"], expected)
        np.testing.assert_array_equal(one["masks"], expected[:-1])
    assert sum(one["masks"].any((1, 2)).sum() for one in found) > 3


def test_masks_without_the_tools_of_coco_are_left_out_or_refused(tmp_path, monkeypatch):
    for name in ("faster_coco_eval", "faster_coco_eval.core"):
        monkeypatch.setitem(sys.modules, name, None)
    output = {
        "boxes": np.float32([[0, 0, 9, 9]]),
        "classes": np.array([0]),
        "scores": np.float32([0.9]),
        "valid": np.array([True]),
        "box_masks": np.ones((1, 28, 28), np.float32),
    }
    scenes = data.Subset(digit_scenes(64, labels="instances")["test"], np.arange(1))
    info = ModelInfo((64, 64, 3), scenes.class_names, detector().task((64, 64)), "float32", 1, ())
    batch = {name: array[None] for name, array in output.items()}
    monkeypatch.setattr(detected_set, "predict", lambda *_, **__: dict(batch))
    found = detected_set.detect(TrainedModel(detector(), {}, {}, info), scenes, 1)
    assert not found.has_masks
    assert [one["score"] for one in found.results] == [pytest.approx(0.9)]
    placement = FitPicture((64, 64, 3)).placement(64, 64)
    one = predictions.Prediction(tmp_path / "a.png", None, np.zeros((64, 64, 3)), output, placement, output)
    options = Predict(tmp_path, (), coco=tmp_path / "found.json")
    with (
        predictions.make_writer(options, info) as write,
        pytest.raises(CommandError, match=r"masks of objects .* written by faster-coco-eval; pip install"),
    ):
        write([one])


def test_a_finished_run_says_its_figures_again(jaxcnn, detected):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named.NAMES, "digit_scenes", few_scenes)
        done = jaxcnn("train", "--run-dir", detected, "--resume")
    record = json.loads((detected / "coco.json").read_text())["coco"]["box"]
    words = ", ".join(f"{name} {record[name]:.2%}" for name in ("AP", "AP50", "AP75"))
    assert f"\ntest {words} (COCO)\n" in done.out


@pytest.mark.slow
@pytest.mark.heavy
def test_without_the_tools_of_coco_a_run_ends_and_evaluate_says_what_is_missing(
    jaxcnn, detected, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(detected, run)
    for name in ("coco.json", "confusion.png"):
        (run / name).unlink()
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setitem(named.NAMES, "digit_scenes", few_scenes)
    monkeypatch.setitem(CATALOG, "detector", ENTRY)
    done = jaxcnn("train", "--run-dir", run, "--resume")
    assert (done.status, done.err) == (0, "")
    assert ((run / "confusion.png").exists(), (run / "coco.json").exists()) == (True, False)
    assert re.search(r"\ntest AP50 \d+\.\d\d%\n", done.out)
    done = jaxcnn("evaluate", run)
    assert done.status == 2
    assert done.err == ("error: COCO's figures are computed by faster-coco-eval; pip install 'jaxcnn[detection]'\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--voc", 2007], "--voc expects a run of a detector, got Classification; omit it"),
        (["--boundary-iou"], "--boundary-iou expects a run of segmentation, got Classification; omit it"),
    ],
)
def test_figures_of_other_tasks_are_refused(jaxcnn, finished, given, message):
    done = jaxcnn("evaluate", finished, *given)
    assert (done.status, done.err) == (2, f"error: {message}\n")


def test_evaluate_draws_the_pictures_of_a_classifier(jaxcnn, finished, tmp_path):
    done = jaxcnn("evaluate", finished, "--pictures", tmp_path / "drawn")
    assert (done.status, done.out.splitlines()[-1]) == (0, f"pictures: {tmp_path / 'drawn'}")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["confusion.png", "mistakes.png"]


def test_a_run_draws_the_boxes_of_some_examples(detected):
    with Image.open(detected / "boxes.png") as picture:
        assert np.asarray(picture.convert("L"), float).std() > 5


@pytest.fixture(scope="session")
def certain(detected, tmp_path_factory):
    """A run whose detector finds a 7 of 20 x 20 pixels around each place of its map, and nothing else.

    The places are at 0, 16, 32 and 48 in both directions, and the images have 64 x 64 pixels.
    """
    return constant(detected, tmp_path_factory.mktemp("certain") / "run", {7: 3})


def constant(run, folder, logits):
    """Copies a run, with a detector that finds objects of these classes at all places, whatever the image."""
    shutil.copytree(run, folder)
    network = load(folder)
    head = {name: tree for name, tree in network.params["head"].items() if name not in ("class_logits", "box_deltas")}
    bias = np.full((2, 10), -20, np.float32)
    for number, logit in logits.items():
        bias[0, number] = logit
    for name, values in (("class_logits", bias.ravel()), ("box_deltas", np.zeros(8, np.float32))):
        kernel = np.zeros_like(network.params["head"][name]["kernel"])
        head[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(values)}
    changed = RunFolder(folder)
    with changed.writing():
        changed.save_best({**network.params, "head": head}, network.state, 1)
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


def test_results_of_coco_have_the_ids_of_names_or_annotations(jaxcnn, certain, photographs, tmp_path):
    wide, tall = photographs
    for name, number in ((wide, "000139.png"), (tall, "000007.jpg")):
        shutil.copy(name, tmp_path / number)
    file, ids = tmp_path / "out" / "results.json", tmp_path / "ids.json"
    file.parent.mkdir()
    words = ["predict", certain, tmp_path / "000139.png", tmp_path / "000007.jpg", "--coco", file, "--top", 1]

    def results(*more):
        done = jaxcnn(*words, *more)
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines()[-1] == f"results of COCO: {file}"
        return json.loads(file.read_text())

    found = results()
    assert [one["image_id"] for one in found] == 12 * [139] + 12 * [7]
    assert {one["category_id"] for one in found} == {8}
    assert {(one["image_id"], one["file_name"]) for one in found} == {(139, "000139.png"), (7, "000007.jpg")}
    corners = [(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in found[:12])]
    np.testing.assert_allclose(edges(corners), photographs[wide], atol=1e-3)
    np.testing.assert_allclose([one["score"] for one in found], 1 / (1 + np.exp(-3)), rtol=1e-4)
    images = [{"id": "a", "file_name": "train/000007.jpg"}, {"id": "b", "file_name": "000139.png"}]
    categories = [{"id": 90 - k, "name": str(k)} for k in range(10)]
    ids.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    found = results("--coco-ids", ids)
    assert [(one["image_id"], one["category_id"]) for one in found] == 12 * [("b", 83)] + 12 * [("a", 83)]
    assert results("--min-score", 0.96) == []
    # A name that is no number.
    done = jaxcnn("predict", certain, tmp_path / "000007.jpg", wide, "--coco", file)
    assert [one["image_id"] for one in json.loads(file.read_text())] == 12 * [1] + 12 * [2]
    assert done.status == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expects annotations of COCO with images and categories, got"),
        ('{"images": [{"id": 1}], "categories": []}', "KeyError: 'file_name'"),
        ('{"images": [], "categories": [{"id": 1, "name": "0"}]}', "got none for '1', '2', '3', '4', '5', '6', '7'"),
        (
            json.dumps({"images": [], "categories": [{"id": k, "name": str(k)} for k in range(10)]}),
            "which is none; leave it out, or omit --coco-ids",
        ),
    ],
)
def test_ids_that_do_not_fit_are_refused(jaxcnn, certain, photographs, tmp_path, content, message):
    (tmp_path / "ids.json").write_text(content)
    words = ["predict", certain, next(iter(photographs)), "--coco", tmp_path / "results.json"]
    done = jaxcnn(*words, "--coco-ids", tmp_path / "ids.json")
    assert (done.status, message in done.err) == (2, True), done.err
    assert not (tmp_path / "results.json").exists()


def test_classes_without_names_are_categories_from_1(tmp_path):
    file = CocoFile(tmp_path / "found.json", None, ())
    found = {"boxes": np.float32([[1, 2, 4, 6]]), "scores": np.float32([0.5]), "classes": np.array([3])}
    file.add(tmp_path / "7.png", None, found)
    file.write()
    [one] = json.loads((tmp_path / "found.json").read_text())
    assert (one["image_id"], one["category_id"], one["bbox"]) == (7, 4, [1, 2, 3, 4])


def test_the_other_options_of_results_of_coco_are_checked(jaxcnn, finished, certain, tmp_path):
    done = jaxcnn("predict", certain, "image.png", "--coco-ids", tmp_path / "ids.json")
    assert done.err == "error: --coco-ids has an effect only with --coco; give both, or omit it\n"
    done = jaxcnn("predict", finished, "image.png", "--coco", tmp_path / "out.json")
    assert done.err == "error: --coco expects a run of a detector, got Classification; omit it\n"


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


def test_an_agnostic_prediction_finds_an_object_once(jaxcnn, detected, certain, photographs, tmp_path):
    both = constant(detected, tmp_path / "run", {7: 3, 2: 2})
    wide = next(iter(photographs))
    expected = json.loads(jaxcnn("predict", certain, wide, "--json").out)[0]["objects"]
    found = json.loads(jaxcnn("predict", both, wide, "--json").out)[0]["objects"]
    assert [one["class"] for one in found] == 12 * ["7"] + 12 * ["2"]
    done = jaxcnn("predict", both, wide, "--json", "--agnostic")
    assert json.loads(done.out)[0]["objects"] == expected


def test_an_agnostic_prediction_changes_a_model_that_chooses_the_detections_itself():
    model = normalized(small_maskrcnn(10), Normalization((0.5,) * 3, (0.2,) * 3))
    run = TrainedModel(model, {}, {}, ModelInfo((64, 64, 3), (), model.body.task((64, 64)), "float32", 1, ()))
    changed = predict._agnostic(run)
    assert changed.info.task == changed.layer.body.task((64, 64)) != run.info.task
    assert dataclasses.replace(changed.layer.body, agnostic=False) == model.body


def test_masks_of_objects_are_drawn_over_the_picture_of_the_file(tmp_path, monkeypatch):
    file = tmp_path / "wide.png"
    Image.new("RGB", (2560, 640), "grey").save(file)
    task = small_maskrcnn(10).task((64, 64))
    fit = FitPicture((64, 64, 3), "fit")
    placement = fit.placement(640, 2560)
    # In the image, the picture has the rows 24 to 39. The first object fills the left half of its box, which leaves the
    # picture; the second has too low a score.
    left = np.repeat(np.arange(28) < 14, 28).reshape(28, 28).T
    output = {
        "boxes": np.array([[8, 16, 40, 32], [0, 24, 64, 40], [0, 0, 0, 0]], np.float32),
        "classes": np.array([2, 1, 0]),
        "scores": np.array([0.9, 0.2, 0], np.float32),
        "valid": np.array([True, True, False]),
        "box_masks": np.stack([left, np.ones_like(left), np.ones_like(left)]).astype(np.float32),
    }
    drawn = []

    def detections(images, found, names, **options):
        drawn.append(found[0])
        return plots.detections(images, found, names, **options)

    monkeypatch.setattr(predictions, "plots", SimpleNamespace(detections=detections, save=plots.save))
    info = ModelInfo((64, 64, 3), tuple("abcdefghij"), task, "float32", 1, ())
    moved = placement.original_detections(output)
    prediction = predictions.Prediction(file, None, fit(fit.read(file)), moved, placement, output)
    with predictions.make_writer(Predict(tmp_path, (file,), overlays=tmp_path / "out"), info) as write:
        write([prediction])
    [found] = drawn
    expected = np.zeros((1, 250, 1000), bool)
    expected[:, :125, 125:375] = True
    # A pixel of the image has 16 of the picture.
    assert found["masks"].shape == expected.shape
    assert (found["masks"] ^ expected).mean() < 0.01
    with Image.open(tmp_path / "out" / "wide_overlay.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), float)
    colour = np.round(255 * (0.6 * 128 / 255 + 0.4 * np.array(class_colour(2))))
    assert 0.02 < (np.abs(pixels - colour).max(-1) <= 2).mean() < 0.2


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
        (["--agnostic"], "--agnostic expects a run of a detector, got Classification; omit it"),
        (["--min-score", 0], "--min-score expects a run of a detector, got Classification; omit it"),
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


def test_the_exported_program_gives_the_boxes_of_predict(jaxcnn, lively, tmp_path):
    program = tmp_path / "model.stablehlo"
    done = jaxcnn("export", lively, "--output", program, "--platforms", "cpu")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[1] == "it takes images of 64x64 pixels"
    description = json.loads((tmp_path / "model.stablehlo.json").read_text())
    task: Any = load(lively).task
    slots = task.max_detections
    assert description["output"] == {
        "boxes": {"shape": ["b", slots, 4], "dtype": "float32"},
        "classes": {"shape": ["b", slots], "dtype": "int32"},
        "scores": {"shape": ["b", slots], "dtype": "float32"},
        "valid": {"shape": ["b", slots], "dtype": "bool"},
    }
    test = few_scenes()["test"]
    images = [test[k]["image"] for k in range(5)]
    scope = {"images": np.stack(images).astype(np.float32) / 255}
    exec("\n".join(description["load"]).replace('"model.stablehlo"', repr(str(program))), scope)
    predictions: Any = scope["predictions"]
    for k, expected in enumerate(load(lively).predict(*images)):
        found = {name: np.asarray(array[k]) for name, array in predictions.items()}
        assert found["valid"].sum() == expected["valid"].sum() > 0
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        # Scores that are equal to rounding may change places.
        for array in (found, expected):
            order = np.lexsort((*array["boxes"].T.round(1), array["classes"]))
            array |= {name: values[order] for name, values in array.items()}
        np.testing.assert_array_equal(found["classes"], expected["classes"])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)


@pytest.mark.parametrize("given", [["--image-size", "any"], ["--gradients"]])
def test_an_exported_detector_has_one_image_size_and_no_gradients(jaxcnn, detected, tmp_path, given):
    done = jaxcnn("export", detected, *given, "--output", tmp_path / "model")
    assert done.err == (
        f"error: {' '.join(given)} expects another run than that of a detector, whose boxes are decoded for one image "
        "size and have no gradients; omit it\n"
    )
    model = detector()
    options: Any = {"symbolic_size": True} if "any" in given else {"gradients": True}
    with pytest.raises(ValueError, match=f"{next(iter(options))}=True expects .* a detector"):
        export_stablehlo(model, {}, {}, (64, 64, 3), task=model.task((64, 64)), **options)


def test_a_detector_is_not_exported_as_onnx(jaxcnn, detected, tmp_path):
    done = jaxcnn("export", detected, "--format", "onnx", "--output", tmp_path / "model.onnx")
    assert (done.status, done.err) == (
        2,
        "error: --format onnx expects another run than that of a detector, whose suppression of overlapping boxes "
        "jax2onnx cannot convert; use --format stablehlo, or in Python export_onnx, which writes the outputs before "
        "decoding\n",
    )
    assert not list(tmp_path.iterdir())
