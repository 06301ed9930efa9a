import pickle

import numpy as np
import pytest

from jaxcnn.data import Batches, Step, digit_scenes, flip, load, survey
from jaxcnn.data.sources.digit_scenes import _overlap
from jaxcnn.data.sources.shapes import PARTS, read_material

pytest.importorskip("sklearn.datasets")
pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def scenes():
    """The first scenes of each part, with instance masks."""
    return {name: [part[i] for i in range(120)] for name, part in digit_scenes(labels="instances").items()}


def test_scenes_hold_up_to_six_digits_in_tight_boxes(scenes):
    counts, classes = [], []
    for part in scenes.values():
        for scene in part:
            assert (scene["image"].dtype, scene["image"].shape) == (np.uint8, (128, 128, 3))
            valid = scene["valid"]
            counts.append(valid.sum())
            classes += scene["classes"][valid].tolist()
            for box, mask in zip(scene["boxes"][valid], scene["masks"][valid], strict=True):
                rows, columns = np.nonzero(mask)
                around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_array_equal(box, around)
                assert mask.sum() > 30
            assert (scene["masks"].sum(0) <= 1).all()
            assert not any(scene[name][~valid].any() for name in ("boxes", "classes", "masks"))
    assert sorted(set(counts)) == list(range(7))
    assert sorted(set(classes)) == list(range(10))


def test_some_digits_are_cut_by_the_border_and_some_overlap(scenes):
    boxes = np.concatenate([scene["boxes"][scene["valid"]] for part in scenes.values() for scene in part])
    at_border = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == 128).any(1)
    assert 0.05 < at_border.mean() < 0.4
    crossing = 0
    for scene in scenes["train"]:
        own = scene["boxes"][scene["valid"]]
        for i, one in enumerate(own):
            shared = np.minimum(one[2:], own[:i, 2:]) - np.maximum(one[:2], own[:i, :2])
            crossing += (shared > 0).all(1).sum()
    assert crossing > 5


def test_the_scenes_of_seed_zero_never_change(scenes):
    # Of objects alone: the decoder of JPEG may round the photographs differently elsewhere.
    sums = [
        (int(sum(scene["boxes"].sum() for scene in part)), int(sum(scene["classes"].sum() for scene in part)))
        for part in scenes.values()
    ]
    assert sums == [(98073, 1612), (94190, 1696), (95738, 1914)]


def test_the_labels_of_a_scene_agree(scenes):
    semantic, boxes = (digit_scenes(labels=labels) for labels in ("semantic", "boxes"))
    assert semantic["train"].class_names == ("background", *map(str, range(10)))
    assert boxes["train"].class_names == tuple(map(str, range(10)))
    for index in range(20):
        scene, with_mask, with_boxes = scenes["test"][index], semantic["test"][index], boxes["test"][index]
        np.testing.assert_array_equal(with_mask["image"], scene["image"])
        expected = np.zeros((128, 128), np.uint8)
        for mask, digit, there in zip(scene["masks"], scene["classes"], scene["valid"], strict=True):
            expected[mask & there] = digit + 1
        np.testing.assert_array_equal(with_mask["mask"], expected)
        assert with_boxes.keys() == {"image", "boxes", "classes", "valid"}
        for name, value in with_boxes.items():
            np.testing.assert_array_equal(value, scene[name])


def test_a_scene_depends_on_seed_part_and_index_alone(scenes):
    again = digit_scenes(labels="instances")
    for part in ("train", "test"):
        for index in (7, 3):
            for name, value in again[part][index].items():
                np.testing.assert_array_equal(value, scenes[part][index][name])
    images = {scene["image"].tobytes() for part in scenes.values() for scene in part}
    images |= {digit_scenes(seed=1)["train"][index]["image"].tobytes() for index in range(20)}
    assert len(images) == 3 * 120 + 20
    prints = [digit_scenes(**options)["train"].fingerprint for options in ({}, {"seed": 1}, {"image_size": 96})]
    assert len({*prints, digit_scenes()["test"].fingerprint}) == 4
    source = pickle.loads(pickle.dumps(digit_scenes()["train"]))
    assert source.fingerprint == prints[0]


def test_parts_share_neither_digits_nor_photographs():
    from sklearn.datasets import load_digits

    parts = [read_material(part, 10) for part in PARTS.values()]
    assert sum(len(part.labels) for part in parts) == len(load_digits().target)
    own = [{digit.tobytes() for digit in part.digits} for part in parts]
    assert len(own[0] | own[1] | own[2]) == sum(map(len, own))
    assert sum(strip.shape[1] for part in parts for strip in part.strips) == 2 * 640


def test_smaller_images_have_smaller_digits():
    part = digit_scenes(64, labels="instances")["train"]
    boxes = np.concatenate([part[i]["boxes"][part[i]["valid"]] for i in range(40)])
    assert part.spec["masks"].shape == (6, 64, 64)
    heights = boxes[:, 3] - boxes[:, 1]
    assert 3 <= heights.min() < heights.max() <= 24


def test_squares_overlap_by_their_shared_part_of_the_smaller_one():
    assert not _overlap((0, 0, 10), (8, 0, 10))
    assert _overlap((0, 0, 10), (7, 0, 10))
    assert not _overlap((0, 0, 10), (20, 0, 10))
    assert not _overlap((0, 0, 20), (-6, -6, 10))
    assert _overlap((0, 0, 20), (-5, -5, 10))


def test_scenes_are_batched_augmented_and_surveyed(key):
    source = load("digit_instances")["validation"]
    batch = Batches(source, 4, seed=0)[0]
    assert {name: array.shape[1:] for name, array in batch.items()} == {
        name: spec.shape for name, spec in source.spec.items()
    }
    Step(flip)(key, {name: array[0] for name, array in batch.items()} | {"image": batch["image"][0] / np.float32(255)})
    part = survey(load("digit_scenes")["test"], limit=4).parts["train"]
    boxes = np.concatenate([one["boxes"][one["valid"]] for one in map(digit_scenes()["test"].__getitem__, range(400))])
    sizes = (boxes[:, 2:] - boxes[:, :2])[:, ::-1]
    assert part.objects.sizes[0] in map(tuple, sizes[sizes.prod(1) == sizes.prod(1).min()].tolist())
    assert part.objects.sizes[2] in map(tuple, sizes[sizes.prod(1) == sizes.prod(1).max()].tolist())
    assert (part.examples, part.objects.crowds, part.objects.difficult) == (400, 0, 0)
    assert sum(part.objects.images) == 400
    assert sum(part.counts.values()) == sum(number * count for number, count in enumerate(part.objects.images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 63}, "image_size must be from 64 to 128, got 63"),
        ({"image_size": 129}, "image_size must be from 64 to 128, got 129"),
        ({"labels": "polygons"}, "labels must be one of boxes, instances, semantic, got 'polygons'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        digit_scenes(**options)


def test_an_index_out_of_range_is_refused():
    with pytest.raises(IndexError, match=r"expected an example in \[0, 400\), got 400"):
        digit_scenes()["test"][400]
