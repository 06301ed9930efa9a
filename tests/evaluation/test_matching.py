"""VOC's average precision and the confusion of detectors, by loops and by hand."""

import numpy as np
import pytest
from evaluation_cases import overlap, random_case

from jaxcnn.evaluation import detection_confusion, detection_mistakes, voc_figures


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


def loop_mistakes(content, results, place, least):
    """Matches the objects and detections of an image one pair at a time; returns the boxes of the mistakes."""
    key = content["images"][place]["id"]
    own = [one for one in content["annotations"] if one["image_id"] == key]
    found = [one for one in results if one["image_id"] == key and one["score"] >= least]
    pairs = {(i, k): overlap(f["bbox"], o["bbox"]) for i, f in enumerate(found) for k, o in enumerate(own)}
    left, free, confused = set(range(len(own))), set(range(len(found))), []
    while pairs:
        i, k = max(pairs, key=pairs.__getitem__)
        share = pairs.pop((i, k))
        if share >= 0.5 and i in free and k in left:
            free.remove(i)
            left.remove(k)
            confused += [i] if found[i]["category_id"] != own[k]["category_id"] else []
    cost = len(left) + sum(found[i]["score"] for i in [*free, *confused])
    boxes = [
        sorted(tuple(of[i]["bbox"]) for i in which) for of, which in ((own, left), (found, confused), (found, free))
    ]
    return boxes, cost


def corner_form(boxes):
    return sorted((x, y, right - x, bottom - y) for x, y, right, bottom in boxes.tolist())


def test_images_with_mistakes_come_by_their_cost():
    content, results = random_case(3, crowds=False)
    mistakes = detection_mistakes(content, results, score=0.4)
    expected = {place: loop_mistakes(content, results, place, 0.4) for place in range(len(content["images"]))}
    assert {one.image for one in mistakes} == {place for place, (boxes, _) in expected.items() if any(boxes)}
    costs = [one.cost for one in mistakes]
    assert costs == sorted(costs, reverse=True)
    for one in mistakes:
        boxes, cost = expected[one.image]
        assert one.cost == pytest.approx(cost)
        picture = one.picture
        chosen = (picture.boxes[one.missed], picture.found[one.confused], picture.found[one.spurious])
        for got, wanted in zip(chosen, boxes, strict=True):
            np.testing.assert_allclose(np.reshape(corner_form(got), (-1, 4)), np.reshape(wanted, (-1, 4)), atol=1e-9)


def test_what_is_right_or_does_not_count_is_no_mistake():
    content = made((0, [0, 0, 10, 10]), (1, [40, 0, 30, 30]), o1={"iscrowd": 1})
    results = found((0, [0, 0, 10, 9], 0.9), (0, [50, 10, 5, 5], 0.9), (1, [100, 0, 5, 5], 0.2))
    assert detection_mistakes(content, results) == []
    with pytest.raises(ValueError, match=r"detection_mistakes expects overlap in \(0, 1\], got 0"):
        detection_mistakes(content, results, overlap=0)
