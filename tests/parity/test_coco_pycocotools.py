"""COCO's format as COCO's own tools read it."""

import copy

import numpy as np
import pytest
from evaluation_cases import random_case
from object_folders import coco_content, write_coco

from jaxcnn.data import coco
from jaxcnn.data.sources import picture_index
from jaxcnn.data.sources.object_files import encoded
from jaxcnn.evaluation import coco_annotations, coco_figures, coco_results

pytest.importorskip("pycocotools")
pytest.importorskip("faster_coco_eval")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


@pytest.mark.parametrize("seed", range(3))
def test_objects_and_masks_are_those_of_pycocotools(tmp_path, seed):
    from pycocotools.coco import COCO

    file = write_coco(tmp_path, "train", coco_content((4, 0, 7, 1, 3), seed))
    source, reference = coco(file, instances=True), COCO(str(file))
    names = {one["id"]: one["name"] for one in reference.loadCats(reference.getCatIds())}
    assert tuple(names[key] for key in sorted(names)) == source.class_names
    compared = 0
    for index, key in enumerate(source.keys):
        example = source[index]
        own = reference.loadAnns(reference.getAnnIds(imgIds=key))
        assert example["valid"].sum() == len(own)
        for place, one in enumerate(own):
            x, y, width, height = one["bbox"]
            np.testing.assert_allclose(example["boxes"][place], [x, y, x + width, y + height], rtol=1e-6)
            assert source.class_names[example["classes"][place]] == names[one["category_id"]]
            np.testing.assert_array_equal(example["masks"][place], reference.annToMask(one))
            compared += 1
    assert compared == 15


def as_masks(content, results):
    """Adds outlines to annotations and results: the box without a corner."""
    for one in (*content["annotations"], *results):
        x, y, width, height = one["bbox"]
        corner = [x, y, x + width, y, x + width, y + height / 2, x + width / 2, y + height, x, y + height]
        one["segmentation"] = encoded([corner], (240, 320))
        if "score" in one:
            del one["bbox"]


def reference(content, results, kind, most):
    """The array of pycocotools' precisions and recalls, and its twelve figures."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
    evaluation.params.maxDets = list(most)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_coco_figures_are_those_of_pycocotools(seed, kind):
    content, results = random_case(seed, classes=1 + seed % 4)
    # A class without objects, and one without detections.
    content["categories"] += [{"id": 50, "name": "absent"}, {"id": 1, "name": "unseen"}]
    results.append(results[0] | {"category_id": 50})
    content["annotations"].append(content["annotations"][0] | {"id": 999, "category_id": 1, "iscrowd": 0})
    if kind == "mask":
        content["annotations"] = [dict(one) for one in content["annotations"]]
        results = [dict(one) for one in results]
        as_masks(content, results)
    expected = reference(content, results, {"box": "bbox", "mask": "segm"}[kind], (1, 10, 100))
    found = coco_figures(content, results, kind=kind)
    stats = np.where(expected.stats < 0, np.nan, expected.stats)
    np.testing.assert_allclose(list(found.figures.values()), stats, atol=1e-12)
    assert list(found.figures) == [
        *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
        *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
    ]
    precision = expected.eval["precision"]
    for number, (name, row) in enumerate(found.classes.items()):
        own = precision[:, :, number, 0, 2]
        value = own[own > -1].mean() if (own > -1).any() else np.nan
        np.testing.assert_allclose(row["AP"], value, atol=1e-12)
        np.testing.assert_allclose(found.precisions[number], np.where(own[0] < 0, np.nan, own[0]), atol=1e-12)
        assert np.isnan(row["AP"]) == (name == "absent")


def test_other_numbers_of_detections_have_their_own_figures():
    content, results = random_case(9, images=10)
    expected = reference(content, results, "bbox", (1, 5, 300))
    assert expected.stats[0] == -1  # pycocotools looks for 100 detections, and finds none
    found = coco_figures(content, results, max_detections=(1, 5, 300)).figures
    precision, recall = expected.eval["precision"], expected.eval["recall"]
    own = precision[:, :, :, 0, -1]
    np.testing.assert_allclose(found["AP"], own[own > -1].mean(), atol=1e-12)
    for place, name in enumerate(("AR1", "AR5", "AR300")):
        own = recall[:, :, 0, place]
        np.testing.assert_allclose(found[name], own[own > -1].mean(), atol=1e-12)


def test_the_annotation_0_is_found_too():
    content, _ = random_case(2, images=1, crowds=False)
    for number, one in enumerate(content["annotations"]):
        one["id"] = number
    perfect = [
        {name: one[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for one in content["annotations"]
    ]
    assert reference(content, perfect, "bbox", (1, 10, 100)).stats[1] < 1
    assert coco_figures(content, perfect).figures["AP"] == 1


def test_a_source_is_evaluated_as_its_file(tmp_path):
    content = coco_content((4, 0, 7, 1, 3), 1)
    source = coco(write_coco(tmp_path, "train", content), instances=True)
    rng = np.random.default_rng(0)
    boxes = np.stack([source[index]["boxes"] for index in range(5)])
    predictions = {
        "boxes": boxes + rng.normal(0, 1, boxes.shape).astype(np.float32),
        "classes": np.stack([source[index]["classes"] for index in range(5)]),
        "scores": rng.uniform(size=boxes.shape[:2]),
        "valid": np.stack([source[index]["valid"] for index in range(5)]),
    }
    results = coco_results(source, predictions)
    expected = reference(content, results, "bbox", (1, 10, 100)).stats
    found = coco_figures(coco_annotations(source, masks=True), results)
    np.testing.assert_allclose(list(found.figures.values()), np.where(expected < 0, np.nan, expected), atol=1e-12)
    # Masks as in the file are found again.
    written = coco_annotations(source, masks=True)
    masks = [one | {"score": 1.0} for one in written["annotations"] if not one["iscrowd"]]
    assert coco_figures(written, masks, kind="mask").figures["AP"] == 1
