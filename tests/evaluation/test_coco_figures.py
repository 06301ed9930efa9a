"""COCO's figures, by hand. tests/parity compares them with pycocotools."""

import sys

import numpy as np
import pytest
from evaluation_cases import random_case

from jaxcnn.evaluation import coco_figures

pytest.importorskip("faster_coco_eval")


def annotation(box, image=1, category=0, crowd=0, area=None):
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3] if area is None else area,
        "iscrowd": crowd,
    }


def result(box, score=0.9, image=1, category=0):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def content(*annotations, categories=("thing",), images=(1, 2)):
    return {
        "images": [{"id": key, "height": 200, "width": 200} for key in images],
        "annotations": [one | {"id": number} for number, one in enumerate(annotations)],
        "categories": [{"id": key, "name": name} for key, name in enumerate(categories)],
    }


def test_one_object_of_two_gives_the_precision_at_51_of_101_recalls():
    made = content(annotation([0, 0, 50, 50]), annotation([100, 100, 50, 50]))
    figures = coco_figures(made, [result([0, 0, 50, 50])]).figures
    np.testing.assert_allclose([figures["AP"], figures["AR100"]], [51 / 101, 0.5])


def test_an_overlap_at_the_threshold_counts():
    made = content(annotation([0, 0, 100, 100]))
    found = coco_figures(made, [result([0, 0, 100, 50])])
    np.testing.assert_allclose([found.figures["AP50"], found.figures["AP"], found.figures["AP75"]], [1, 0.1, 0])


@pytest.mark.parametrize(("height", "passed"), [(72, 5), (75, 6), (94, 9)])
def test_ten_overlaps_are_averaged(height, passed):
    found = coco_figures(content(annotation([0, 0, 100, 100])), [result([0, 0, 100, height])])
    for figures in (found.figures, found.classes["thing"]):
        expected = [passed / 10, 1, float(passed > 5)]
        np.testing.assert_allclose([figures[name] for name in ("AP", "AP50", "AP75")], expected)
    np.testing.assert_allclose(found.classes["thing"]["AR"], passed / 10)


def test_detections_in_a_crowd_neither_count_nor_cost():
    crowd = annotation([100, 0, 80, 80], crowd=1)
    made = content(annotation([0, 0, 50, 50]), crowd)
    in_crowd = [result([110 + 10 * i, 10, 20, 20], 0.95) for i in range(4)]
    assert coco_figures(made, [result([0, 0, 50, 50]), *in_crowd]).figures["AP"] == 1
    made["annotations"].pop()
    assert coco_figures(made, [result([0, 0, 50, 50]), *in_crowd]).figures["AP"] < 0.3


def test_sizes_are_by_the_area_of_the_annotation():
    made = content(annotation([0, 0, 100, 100], area=900), annotation([110, 0, 40, 40]))
    figures = coco_figures(made, [result([0, 0, 100, 100]), result([110, 0, 40, 40])]).figures
    assert (figures["AP_small"], figures["AP_medium"]) == (1, 1)
    assert np.isnan(figures["AP_large"])


def test_a_class_without_objects_is_left_out():
    made = content(annotation([0, 0, 50, 50], category=0), categories=("there", "absent"))
    found = coco_figures(made, [result([0, 0, 50, 50]), result([0, 0, 50, 50], category=1)])
    assert found.figures["AP"] == 1
    assert found.classes["there"] == {"AP": 1, "AP50": 1, "AP75": 1, "AR": 1, "objects": 1}
    assert found.classes["absent"]["objects"] == 0
    assert np.isnan(found.classes["absent"]["AP"])
    assert found.precisions.shape == (2, 101)
    np.testing.assert_array_equal(found.precisions[0], 1)


def test_a_wrong_detection_of_an_image_without_objects_costs():
    made = content(annotation([0, 0, 50, 50]))
    assert coco_figures(made, [result([0, 0, 50, 50], 0.5), result([0, 0, 50, 50], 0.9, image=2)]).figures["AP"] == 0.5


def test_without_detections_and_without_objects():
    made = content(annotation([0, 0, 50, 50]))
    assert coco_figures(made, []).figures["AP"] == 0
    figures = coco_figures(content(), [result([0, 0, 50, 50])]).figures
    assert all(np.isnan(value) for value in figures.values())


def test_more_than_the_most_detections_of_an_image_are_left_out():
    boxes = [[20 * i, 0, 15, 15] for i in range(9)]
    made = content(*map(annotation, boxes))
    found = coco_figures(made, [result(box) for box in boxes], max_detections=(1, 3, 6)).figures
    np.testing.assert_allclose([found["AR1"], found["AR3"], found["AR6"]], [1 / 9, 3 / 9, 6 / 9])


def test_ids_may_be_anything():
    made, results = random_case(0, images=6)
    expected = coco_figures(made, results).figures
    for one in (*made["annotations"], *results):
        one["image_id"] = f"image {one['image_id']}"
    for one in made["images"]:
        one["id"] = f"image {one['id']}"
    made["annotations"] = [
        {name: value for name, value in one.items() if name not in ("id", "iscrowd") or one["iscrowd"]}
        for one in made["annotations"]
    ]
    assert coco_figures(made, results).figures == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "1"}, "the image_id of an image or category of the annotations, such as 1, got '1' in result 1"),
        ({"category_id": 7}, "the category_id of an image .*, such as 0, got 7 in result 1"),
        ({"score": None}, "expected 'score' in every result, got none in result 1"),
        ({"bbox": None}, "expected 'bbox' in every result, got none in result 1"),
    ],
)
def test_results_that_fit_nothing_are_refused(change, message):
    wrong = {name: value for name, value in (result([0, 0, 5, 5]) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        coco_figures(content(annotation([0, 0, 5, 5])), [result([0, 0, 5, 5]), wrong])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "segm"}, "kind to be one of box, mask, boundary, got 'segm'"),
        ({"max_detections": (10, 1)}, r"ascending numbers of detections, at least 1, got \(10, 1\)"),
        ({"max_detections": ()}, r"ascending numbers of detections, at least 1, got \(\)"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        coco_figures(content(annotation([0, 0, 5, 5])), [], **options)


def test_annotations_without_a_list_are_refused():
    with pytest.raises(ValueError, match="'images', 'annotations' and 'categories', got no 'images'"):
        coco_figures({"annotations": []}, [])


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"faster-coco-eval; pip install 'jaxcnn\[detection\]'"):
        coco_figures(content(), [])


def test_bands_along_the_border_see_what_masks_hardly_see():
    from jaxcnn.data.sources.object_files import encoded

    def square(first, last):
        return encoded([[first, first, last, first, last, last, first, last]], (200, 200))

    made = content(annotation([50, 50, 100, 100]) | {"segmentation": square(50, 150)})
    shrunk = [result([50, 50, 100, 100]) | {"segmentation": square(54, 146)}]
    exact = [result([50, 50, 100, 100]) | {"segmentation": square(50, 150)}]
    assert coco_figures(made, exact, kind="boundary").figures["AP"] == 1
    # 0.92² = 0.85 of the mask, but less than a third of a band of 6 pixels.
    assert coco_figures(made, shrunk, kind="mask").figures["AP"] == 0.7
    assert coco_figures(made, shrunk, kind="boundary").figures["AP"] == 0
