"""Sources and predictions in COCO's format, and back."""

import json

import numpy as np
import pytest
from object_folders import coco_content, write_coco

from jaxcnn.data import Arrays, Subset, choose_classes, coco, digit_scenes, match_classes, resized
from jaxcnn.data.sources import picture_index
from jaxcnn.evaluation import coco_annotations, coco_predictions, coco_results, original_image

pytest.importorskip("PIL")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


@pytest.fixture
def content():
    return coco_content()


@pytest.fixture
def source(tmp_path, content):
    return coco(write_coco(tmp_path, "train", content))


def close(one, other):
    assert [entry["id"] for entry in one] == list(range(1, len(other) + 1))
    for own, expected in zip(one, other, strict=True):
        np.testing.assert_allclose(own["bbox"], expected["bbox"], atol=1e-4)
        for name in ("image_id", "category_id", "iscrowd", "area"):
            assert own[name] == expected[name]


def test_annotations_are_those_of_the_file_numbered_from_1(source, content):
    written = coco_annotations(source)
    close(written["annotations"], content["annotations"])
    assert written["images"] == content["images"]
    assert written["categories"] == sorted(content["categories"], key=lambda one: one["id"])
    assert json.loads(json.dumps(written)) == written


def test_annotations_are_of_the_original_pictures(source, content):
    fitted = resized(Subset(source, np.array([2, 0])), 32, mode="fit")
    written = coco_annotations(fitted)
    assert [one["id"] for one in written["images"]] == [114, 100]
    keys = [114] * 5 + [100] * 3
    ordered = [one for key in (114, 100) for one in content["annotations"] if one["image_id"] == key]
    assert [one["image_id"] for one in written["annotations"]] == keys
    close(written["annotations"], ordered)
    other = match_classes(source, ("bird", "cat", "dog"))
    close(coco_annotations(other)["annotations"], content["annotations"])
    assert [one["id"] for one in coco_annotations(other)["categories"]] == [90, 2, 7]


def test_masks_are_written_as_run_lengths(tmp_path, content):
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    source = coco(write_coco(tmp_path, "train", content), instances=True)
    written = coco_annotations(source, masks=True)
    json.dumps(written)
    chosen = written["annotations"]
    assert len(chosen) == 9
    sizes = {one["id"]: (one["height"], one["width"]) for one in written["images"]}
    for one in chosen:
        assert tuple(one["segmentation"]["size"]) == sizes[one["image_id"]]
        index = source.keys.index(one["image_id"])
        place = [other["id"] for other in chosen if other["image_id"] == one["image_id"]].index(one["id"])
        np.testing.assert_array_equal(mask.decode(one["segmentation"]), source[index]["masks"][place])


def test_examples_without_a_file_are_numbered_and_measured():
    pytest.importorskip("faster_coco_eval")
    scenes = Subset(digit_scenes(labels="instances")["train"], np.arange(6))
    written = coco_annotations(scenes, masks=True)
    assert [one["id"] for one in written["images"]] == [1, 2, 3, 4, 5, 6]
    assert [one["name"] for one in written["categories"]] == list(scenes.class_names)
    assert [one["id"] for one in written["categories"]] == list(range(1, 11))
    areas = [mask.sum() for index in range(6) for mask in scenes[index]["masks"] if mask.any()]
    assert [one["area"] for one in written["annotations"]] == areas
    boxes = digit_scenes()["train"]
    one = coco_annotations(Subset(boxes, np.arange(1, 2)))["annotations"][0]
    left, top, right, bottom = boxes[1]["boxes"][0]
    assert one["bbox"] == [left, top, right - left, bottom - top]
    assert one["area"] == (right - left) * (bottom - top)


def predictions_of(source, slots=7):
    rng = np.random.default_rng(0)
    corners = rng.uniform(5, 15, (len(source), slots, 2))
    return {
        "boxes": np.concatenate([corners, corners + rng.uniform(2, 10, corners.shape)], axis=2).astype(np.float32),
        "scores": np.sort(rng.uniform(size=(len(source), slots)).astype(np.float32))[:, ::-1],
        "classes": rng.integers(0, 3, (len(source), slots)).astype(np.int32),
        "valid": np.arange(slots) < rng.integers(0, slots + 1, len(source))[:, None],
    }


@pytest.mark.parametrize("mode", [None, "fit", "stretch"])
def test_predictions_come_back_from_their_results(source, mode):
    given = source if mode is None else resized(source, (32, 48), mode=mode)
    predictions = predictions_of(given)
    results = coco_results(given, predictions)
    assert len(results) == predictions["valid"].sum()
    assert {one["image_id"] for one in results} <= set(source.keys)
    assert {one["category_id"] for one in results} == {2, 7, 90}
    assert json.loads(json.dumps(results)) == results
    back = coco_predictions(given, results[::-1], slots=7)
    valid = predictions["valid"]
    np.testing.assert_array_equal(back["valid"], valid)
    for name in ("classes", "scores"):
        np.testing.assert_array_equal(back[name][valid], predictions[name][valid])
    inside = (predictions["boxes"][valid] >= 0).all(1)
    if mode == "fit":  # what lies on the ground is clipped to the picture
        place = [given.preprocessing.placement(*source.size(index)) for index in range(4)]
        inside = np.concatenate(
            [
                (boxes[there] >= np.tile(one.top_left[::-1], 2)).all(1)
                & (boxes[there] <= np.tile(np.add(one.top_left, one.resized)[::-1], 2)).all(1)
                for one, boxes, there in zip(place, predictions["boxes"], valid, strict=True)
            ]
        )
    assert inside.sum() > 5
    np.testing.assert_allclose(back["boxes"][valid][inside], predictions["boxes"][valid][inside], atol=1e-4)


def test_predicted_boxes_are_of_the_original_picture(source):
    fitted = resized(source, (130, 120), mode="stretch")
    predictions = predictions_of(fitted)
    first = coco_results(fitted, predictions)[0]
    index = source.keys.index(first["image_id"])
    height, width = source.size(index)
    left, top, right, bottom = predictions["boxes"][index, 0] * np.array([width / 120, height / 130] * 2)
    np.testing.assert_allclose(first["bbox"], [left, top, right - left, bottom - top], rtol=1e-5)


def test_predicted_masks_are_of_the_original_picture(source):
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    fitted = resized(source, (130, 120), mode="stretch")
    masks = np.zeros((4, 7, 130, 120), bool)
    masks[:, :, :65, 60:] = True
    result = coco_results(fitted, predictions_of(fitted) | {"masks": masks})[0]
    height, width = source.size(source.keys.index(result["image_id"]))
    found = mask.decode(result["segmentation"]).astype(bool)
    expected = np.zeros((height, width), bool)
    expected[: (height + 1) // 2, (width + 0) // 2 :] = True
    assert found.shape == (height, width)
    assert (found != expected).mean() < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((4, 7, 3))}, r"expected 'boxes' of shape \(4, 7, 4\), for the 4 examples, got \(4, 7, 3\)"),
        ({"scores": np.zeros((3, 7))}, r"expected 'scores' of shape \(4, 7\), for the 4 examples, got \(3, 7\)"),
        ({"valid": np.zeros((4, 6), bool)}, r"expected 'valid' of shape \(4, 7\)"),
        ({"masks": np.zeros((4, 6, 9, 9), bool)}, r"expected 'masks' of shape \(4, 7, 9, 9\)"),
        ({"classes": np.full((4, 7), 3)}, r"expected classes in \[0, 3\), got 3 to 3"),
        ({"scores": np.full((4, 7), np.nan)}, "expected finite scores, got nan or infinity"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(source, change, message):
    with pytest.raises(ValueError, match=message):
        coco_results(source, predictions_of(source) | change)
    with pytest.raises(ValueError, match="expected predictions with 'boxes', 'scores' and 'classes', got"):
        coco_results(source, {"boxes": np.zeros((4, 7, 4))})


def test_results_that_do_not_fit_are_refused(source):
    results = coco_results(source, predictions_of(source))
    with pytest.raises(ValueError, match=r"of the source, got image_id 5 and category_id .* in result 0"):
        coco_predictions(source, [results[0] | {"image_id": 5}])
    with pytest.raises(ValueError, match="at most 1 objects in image"):
        coco_predictions(source, results, slots=1)


def test_examples_without_objects_are_refused(source):
    plain = Arrays({"image": np.zeros((2, 4, 4, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"expected examples with 'boxes', .* got 'image', without 'boxes'"):
        coco_annotations(plain)
    with pytest.raises(ValueError, match="without 'masks'"):
        coco_annotations(source, masks=True)


def test_results_of_batches_are_those_of_all_examples(source):
    rng, fitted = np.random.default_rng(0), resized(source, 32, mode="fit")
    count = len(fitted)
    corner = rng.uniform(0, 16, (count, 4, 2))
    predictions = {
        "boxes": np.concatenate([corner, corner + 8], -1).astype(np.float32),
        "scores": rng.uniform(size=(count, 4)),
        "classes": rng.integers(0, 3, (count, 4)),
    }
    parts = [
        coco_results(fitted, {name: array[start : start + 2] for name, array in predictions.items()}, start=start)
        for start in range(0, count, 2)
    ]
    assert [one for part in parts for one in part] == coco_results(fitted, predictions)
    with pytest.raises(ValueError, match=r"expected 'boxes' of shape \(1, 4, 4\), for the 1 examples, got"):
        coco_results(fitted, predictions, start=count - 1)


def test_objects_of_classes_that_are_left_out_are_no_annotations(source, content):
    written = coco_annotations(choose_classes(source, ["bird", "dog"]))
    expected = [one for one in content["annotations"] if one["category_id"] in (90, 7)]
    assert written["categories"] == [{"id": 90, "name": "bird"}, {"id": 7, "name": "dog"}]
    close(written["annotations"], expected)
    assert [one["category_id"] for one in written["annotations"]] == [one["category_id"] for one in expected]


def test_the_original_image_is_that_before_it_was_fitted(source):
    fitted = resized(Subset(source, np.array([2, 0])), 32, mode="fit")
    np.testing.assert_array_equal(original_image(fitted, 0), source[2]["image"])
