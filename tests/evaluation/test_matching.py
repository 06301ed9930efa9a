"""VOC's average precision and the confusion of detectors, by loops and by hand."""

import numpy as np
import pytest
from evaluation_cases import overlap, random_case

from jaxcnn.evaluation import detection_confusion, voc_figures


def loop_average(content, results, category, rule, least):
    """Follows the text of VOC, one detection at a time."""
    own = [one for one in content["annotations"] if one["category_id"] == category]
    ignored = [bool(one["iscrowd"] or one.get("difficult")) for one in own]
    total, taken = ignored.count(False), set()
    points, right, wrong = [], 0, 0
    for found in sorted(results, key=lambda one: -one["score"]):
        if found["category_id"] != category:
            continue
        best, share = None, 0.0
        for number, one in enumerate(own):
            if one["image_id"] == found["image_id"]:
                value = overlap(found["bbox"], one["bbox"])
                if one["iscrowd"]:
                    x, y, w, h = found["bbox"]
                    a, b, c, d = one["bbox"]
                    value = max(min(x + w, a + c) - max(x, a), 0) * max(min(y + h, b + d) - max(y, b), 0) / (w * h)
                if value > share:
                    best, share = number, value
        if best is not None and share >= least:
            if ignored[best]:
                continue
            if best not in taken:
                taken.add(best)
                right += 1
            else:
                wrong += 1
        else:
            wrong += 1
        points.append((right / total, right / (right + wrong)))
    if rule == "2007":
        return sum(max((p for r, p in points if r >= t / 10 - 1e-12), default=0) for t in range(11)) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[place:])
        before = recall
    return area


@pytest.mark.parametrize("rule", ["2007", "2010"])
@pytest.mark.parametrize("seed", range(4))
def test_voc_figures_are_those_of_a_loop(seed, rule):
    content, results = random_case(seed, images=12)
    # Equal scores of different images have no order of their own in VOC.
    rng = np.random.default_rng(seed)
    for one, extra in zip(results, rng.permutation(len(results)), strict=True):
        one["score"] += float(extra) * 1e-4
    for one in content["annotations"][::5]:
        one["difficult"] = 1
    least = 0.5 if seed < 3 else 0.7
    found = voc_figures(content, results, rule=rule, overlap=least)
    expected = [loop_average(content, results, one["id"], rule, least) for one in content["categories"]]
    np.testing.assert_allclose(list(found.classes.values()), expected, atol=1e-12)
    assert min(expected) > 0.05
    np.testing.assert_allclose(found.mean, np.mean(expected))


def made(*boxes, categories=("cat", "dog"), **flags):
    annotations = [
        {"image_id": 1, "category_id": category, "bbox": box, **flags.get(f"o{number}", {})}
        for number, (category, box) in enumerate(boxes)
    ]
    return {
        "images": [{"id": 1}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
    }


def found(*boxes):
    return [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in boxes]


def test_voc_rules_by_hand():
    content = made((0, [0, 0, 10, 10]), (0, [20, 0, 10, 10]))
    results = found((0, [0, 0, 10, 10], 0.9), (0, [0, 0, 10, 10], 0.8), (0, [20, 0, 10, 10], 0.7))
    # Right, wrong as the second of an object, right: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    np.testing.assert_allclose(voc_figures(content, results).classes["cat"], 0.5 + 0.5 * 2 / 3)
    np.testing.assert_allclose(voc_figures(content, results, rule="2007").classes["cat"], (6 * 1 + 5 * 2 / 3) / 11)
    assert np.isnan(voc_figures(content, results).classes["dog"])


def test_a_difficult_object_neither_counts_nor_costs():
    content = made((0, [0, 0, 10, 10]), (0, [20, 0, 10, 10]), o1={"difficult": 1})
    twice = found((0, [20, 0, 10, 10], 0.9), (0, [20, 0, 10, 10], 0.8), (0, [0, 0, 10, 10], 0.7))
    assert voc_figures(content, twice).mean == 1
    assert np.isnan(voc_figures(made(), []).mean)
    assert voc_figures(content, []).mean == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "2012"}, "rule to be one of 2007, 2010, got '2012'"),
        ({"overlap": 0}, r"voc_figures expects overlap in \(0, 1\], got 0"),
    ],
)
def test_voc_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        voc_figures(made(), [], **options)


def test_confusions_missed_and_spurious_detections_are_counted():
    content = made(
        (0, [0, 0, 10, 10]),
        (1, [20, 0, 10, 10]),
        (1, [40, 0, 10, 10]),
        (0, [60, 0, 30, 30]),
        (0, [100, 0, 10, 10]),
        o3={"iscrowd": 1},
        o4={"difficult": 1},
    )
    results = found(
        (0, [0, 0, 10, 10], 0.9),  # right
        (0, [0, 1, 10, 10], 0.95),  # its second detection, of less overlap
        (0, [20, 0, 10, 9], 0.9),  # a dog taken for a cat
        (1, [70, 10, 5, 5], 0.9),  # in a crowd
        (1, [100, 0, 10, 10], 0.9),  # a difficult object
        (1, [150, 0, 10, 10], 0.3),  # nothing is there
        (1, [40, 0, 10, 10], 0.1),  # below the least score
    )
    expected = [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert detection_confusion(content, results).tolist() == expected
    expected[1][2], expected[1][1] = 0, 1
    assert detection_confusion(content, results, score=0.05).tolist() == expected


def test_a_pair_of_more_overlap_goes_first():
    content = made((0, [0, 0, 10, 10]), (1, [2, 0, 10, 10]))
    results = found((1, [1.9, 0, 10, 10], 0.9), (0, [0.5, 0, 10, 10], 0.5))
    assert detection_confusion(content, results).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_images_without_objects_or_detections_are_counted():
    content = made((0, [0, 0, 10, 10]))
    content["images"].append({"id": 2})
    assert detection_confusion(content, []).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    lone = [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 1}]
    assert detection_confusion(content, lone).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"detection_confusion expects overlap in \(0, 1\], got 2"):
        detection_confusion(content, [], overlap=2)
