"""Pictures with objects in COCO's format: what is read, and what is refused."""

import copy
import json
import logging
import pickle

import numpy as np
import pytest
from object_folders import coco_content, write_coco, write_picture

from jaxcnn.data import Batches, coco, load, match_classes, resized, resizing, split, survey
from jaxcnn.data.sources import picture_index
from jaxcnn.data.sources.object_files import outline_masks
from jaxcnn.data.splits import shared_files

pytest.importorskip("PIL")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


@pytest.fixture
def content():
    return coco_content()


def test_objects_are_those_of_the_file(tmp_path, content):
    source = coco(write_coco(tmp_path, "train2017", content))
    assert source.class_names == ("cat", "dog", "bird")
    assert source.class_keys == (2, 7, 90)
    assert source.keys == (100, 107, 114, 121)
    assert source.spec["image"].shape == (None, None, 3)
    assert {name: spec.shape for name, spec in source.spec.items() if name != "image"} == {
        "boxes": (5, 4),
        "classes": (5,),
        "crowd": (5,),
        "valid": (5,),
    }
    for index, entry in enumerate(content["images"]):
        example = source[index]
        assert example["image"].shape == (entry["height"], entry["width"], 3)
        own = [one for one in content["annotations"] if one["image_id"] == entry["id"]]
        assert example["valid"].tolist() == [True] * len(own) + [False] * (5 - len(own))
        for place, one in enumerate(own):
            x, y, w, h = one["bbox"]
            np.testing.assert_allclose(example["boxes"][place], [x, y, x + w, y + h], rtol=1e-6)
            assert source.class_keys[example["classes"][place]] == one["category_id"]
            assert example["crowd"][place] == one["iscrowd"]
        assert not example["boxes"][len(own) :].any()
    np.testing.assert_allclose(source.objects.areas, [one["area"] for one in content["annotations"]])
    for name, array in source.gather(np.array([2, 0]), ["boxes", "classes", "crowd", "valid"]).items():
        np.testing.assert_array_equal(array, [source[2][name], source[0][name]])
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint


def test_masks_are_those_of_polygons_and_run_lengths(tmp_path, content):
    pytest.importorskip("faster_coco_eval")
    write_coco(tmp_path, "train", content)
    source = load(f"coco:{tmp_path}", instances=True)["train"]
    assert source.spec["masks"].shape == (5, None, None)
    annotations = iter(content["annotations"])
    for index in range(len(source)):
        example = source[index]
        for place in np.flatnonzero(example["valid"]):
            mask, one = example["masks"][place], next(annotations)
            x, y, w, h = one["bbox"]
            if one["iscrowd"]:
                expected = np.zeros_like(mask)
                expected[int(y) : int(y + h), int(x) : int(x + w)] = True
                np.testing.assert_array_equal(mask, expected)
            else:
                rows, columns = np.nonzero(mask)
                around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(around, [x, y, x + w, y + h], atol=2.5)
                # The lower notch of the polygon takes a quarter of the box.
                np.testing.assert_allclose(mask.sum(), 0.75 * w * h, atol=0.5 * (w + h) + 2)
        assert not example["masks"][~example["valid"]].any()


def test_annotations_beside_their_pictures_are_parts_too(tmp_path):
    for place, part in enumerate(("train", "valid")):
        made = coco_content(seed=place)
        for entry in made["images"]:
            write_picture(tmp_path / part / entry["file_name"], entry["height"], entry["width"])
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(made))
    parts = load(f"coco:{tmp_path}")
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "validation": 4}
    assert set(split(parts)) == {"train", "validation", "test"}
    assert {part.spec["boxes"].shape for part in parts.values()} == {(5, 4)}
    assert survey(parts).parts["validation"].objects.images == (1, 1, 0, 1, 0, 1)


def test_pictures_that_two_parts_share_are_counted(tmp_path, content):
    write_coco(tmp_path, "train", content)
    write_coco(tmp_path, "val", content)
    write_picture(tmp_path / "val" / "100.png", content["images"][0]["height"], content["images"][0]["width"], 1)
    assert shared_files(coco(tmp_path)) == {"validation": 3}


def test_pictures_may_be_anywhere(tmp_path, content):
    file = write_coco(tmp_path / "set", "train", content, pictures=False)
    for entry in content["images"]:
        write_picture(tmp_path / "photos" / entry["file_name"], entry["height"], entry["width"])
    source = coco(file, tmp_path / "photos")
    assert source[0]["image"].shape[:2] == (content["images"][0]["height"], content["images"][0]["width"])
    for place in ("set/images", "set/train", "set/images/train"):
        (tmp_path / "photos").rename(tmp_path / "set" / "pictures")
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / "pictures").rename(tmp_path / place)
        assert coco(file).fingerprint == source.fingerprint
        (tmp_path / place).rename(tmp_path / "photos")


def test_the_fingerprint_sees_every_change_of_objects(tmp_path, content):
    file = write_coco(tmp_path, "train", content)
    prints = {coco(file).fingerprint}
    for change in ({"bbox": [1, 1, 5, 5]}, {"category_id": 90}, {"iscrowd": 1}, {"area": 3}):
        changed = copy.deepcopy(content)
        changed["annotations"][0] |= change
        file.write_text(json.dumps(changed))
        prints.add(coco(file).fingerprint)
    file.write_text(json.dumps(content))
    assert len(prints | {coco(file, max_objects=9).fingerprint}) == 6
    assert coco(file).fingerprint in prints


def test_the_fingerprint_sees_every_change_of_masks(tmp_path, content):
    pytest.importorskip("faster_coco_eval")
    file = write_coco(tmp_path, "train", content)
    first_print = coco(file, instances=True).fingerprint
    first(content)["segmentation"][0][0] += 1
    file.write_text(json.dumps(content))
    assert coco(file, instances=True).fingerprint != first_print


@pytest.mark.parametrize("mode", ["fit", "crop", "stretch"])
@pytest.mark.parametrize("keep", [True, False])
def test_boxes_and_masks_are_fitted_with_their_pictures(tmp_path, content, mode, keep):
    pytest.importorskip("faster_coco_eval")
    write_coco(tmp_path, "train", content)
    plain = load(f"coco:{tmp_path}", instances=True)["train"]
    source = resized(plain, (96, 64), mode=mode, keep=keep)
    batch = Batches(source, 4, seed=0)[0]
    assert batch["masks"].shape == (4, 5, 96, 64)
    compared = 0
    for index in (0, 2, 3, 0):
        example, whole = source[index], plain[index]
        height, width = whole["image"].shape[:2]
        place = source.preprocessing.placement(height, width)
        for slot in np.flatnonzero(example["valid"]):
            # By the middle of pixels: a pixel of the result is in the mask if its place in the picture is.
            rows, columns = (np.arange(size) + 0.5 for size in (96, 64))
            rows = np.floor((rows - place.top_left[0]) * height / place.resized[0]).astype(int)
            columns = np.floor((columns - place.top_left[1]) * width / place.resized[1]).astype(int)
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            expected = whole["masks"][slot][rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)] & inside
            np.testing.assert_array_equal(example["masks"][slot], expected)
            high, wide = np.nonzero(expected)
            around = [wide.min(), high.min(), wide.max() + 1, high.max() + 1]
            np.testing.assert_allclose(example["boxes"][slot], around, atol=4)
            compared += 1
        if mode != "crop":
            assert example["valid"].sum() == whole["valid"].sum()
            back = place.original_boxes(example["boxes"][example["valid"]])
            np.testing.assert_allclose(back, whole["boxes"][whole["valid"]], atol=1e-4)
    assert compared > 5
    for name, array in source.gather(np.array([2]), ["boxes", "valid", "masks", "classes"]).items():
        np.testing.assert_array_equal(array[0], source[2][name])


def test_masks_count_as_channels_of_images_that_are_kept(tmp_path, content, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    seen = []
    monkeypatch.setattr(resizing, "choose_to_keep", lambda *size: seen.append(size) or resizing.Choice(False, ""))
    resized(coco(write_coco(tmp_path, "train", content), instances=True), (32, 48))
    resized(coco(tmp_path / "annotations" / "instances_train.json"), (32, 48))
    assert seen == [(4, (32, 48, 8), np.uint8), (4, (32, 48, 3), np.uint8)]


def test_masks_go_back_to_their_picture():
    from jaxcnn.data import FitPicture

    rng = np.random.default_rng(0)
    for mode in ("fit", "stretch"):
        place = FitPicture((80, 90, 3), mode).placement(20, 30)
        masks = rng.uniform(size=(2, 20, 30)) < 0.5
        np.testing.assert_array_equal(place.original_masks(place.masks(masks)), masks)
    place = FitPicture((20, 20, 3), "crop").placement(20, 30)
    cut = place.original_masks(np.ones((1, 20, 20), bool))[0]
    assert cut[:, 5:25].all()
    assert not cut[:, :5].any()
    assert not cut[:, 25:].any()


def test_classes_can_be_put_into_another_order(tmp_path, content):
    source = coco(write_coco(tmp_path, "train", content))
    other = match_classes(source, ("bird", "cat", "dog"))
    for name in ("classes", "valid"):
        together = other.gather(np.arange(4), [name])[name]
        np.testing.assert_array_equal(together, [other[index][name] for index in range(4)])
    for index in range(4):
        one, two = source[index], other[index]
        names = [source.class_names[k] for k in one["classes"][one["valid"]]]
        assert [other.class_names[k] for k in two["classes"][two["valid"]]] == names
        assert not two["classes"][~two["valid"]].any()


def test_clipping_is_a_way_out(tmp_path, content, caplog):
    width, height = content["images"][0]["width"], content["images"][0]["height"]
    boxes = [[-5, 3, 20, 10], [10, 10, 0, 5], [width - 4, height - 5, 30, 30]]
    for one, box in zip(content["annotations"], boxes, strict=False):
        one["bbox"] = box
    file = write_coco(tmp_path, "train", content)
    with pytest.raises(ValueError, match=r"boxes inside their images"):
        coco(file)
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        example = coco(file, clip_boxes=True)[0]
    assert "3 boxes of" in caplog.text
    expected = [[0, 3, 15, 13], [width - 4, height - 5, width, height]]
    np.testing.assert_allclose(example["boxes"][example["valid"]], expected)


def test_boxes_that_are_only_rounded_are_clipped(tmp_path, content):
    width = content["images"][0]["width"]
    content["annotations"][0]["bbox"] = [-0.05, 3, width + 0.1, 10]
    example = coco(write_coco(tmp_path, "train", content))[0]
    np.testing.assert_allclose(example["boxes"][0], [0, 3, width, 13])


def test_the_id_0_is_named(tmp_path, content, caplog):
    content["annotations"][3]["id"] = 0
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        coco(write_coco(tmp_path, "train", content))
    assert "has the id 0, which pycocotools never matches" in caplog.text


def first(content):
    return content["annotations"][0]


FAULTS = {
    "unknown category": (
        lambda c: first(c).update(category_id=1),
        r"annotation id 11 has the category_id 1, which is none of 2, 7, 90",
    ),
    "unknown image": (
        lambda c: first(c).update(image_id="100"),
        "annotation id 11 has the image_id '100', which no image has, unlike 100",
    ),
    "ids of other kinds": (lambda c: first(c).update(id=[1]), r"annotations\[0\] has the id \[1\]"),
    "category of another kind": (
        lambda c: first(c).update(category_id=[2]),
        r"annotation id 11 has the category_id \[2\], which is none of 2, 7, 90",
    ),
    "image of another kind": (
        lambda c: first(c).update(image_id={}),
        "annotation id 11 has the image_id {}, which no image has, unlike 100",
    ),
    "twice": (lambda c: first(c).update(id=14), "annotation id 14, of annotations.1., is there twice"),
    "box": (lambda c: first(c).update(bbox=[1, 2, 3]), r"the bbox \[1, 2, 3\], which is not \[x, y, width, height\]"),
    "nan": (lambda c: first(c).update(bbox=[1, 2, 3, float("nan")]), "which is not .x, y, width, height"),
    "empty box": (
        lambda c: first(c).update(bbox=[4, 5, 0, 3]),
        r"image id 100, annotation id 11: the box \(4, 5, 4, 8\), left, top, .* of '100.png' is empty",
    ),
    "box outside": (
        lambda c: first(c).update(bbox=[4, 5, 100, 3]),
        r"reaches beyond its image of \d+x\d+\n.*clip_boxes=True.* --clip-boxes",
    ),
    "image twice": (lambda c: c["images"][1].update(id=100), r"images\[1\] has the id 100 again"),
    "no name": (lambda c: c["images"][1].pop("file_name"), r"images\[1\] has the id 107 and the file_name None"),
    "category twice": (lambda c: c["categories"][1].update(name="dog"), r"the id 2 or the name 'dog' again"),
    "category id": (lambda c: c["categories"][1].update(id="2"), r"categories\[1\] has the id '2' and the name 'cat'"),
    "no categories": (lambda c: c["categories"].clear(), "expected at least one category in .*, got none"),
    "no list": (lambda c: c.pop("annotations"), "lists images, annotations, categories .* got no annotations"),
    "other kind": (lambda c: c.update(images=[3]), "got images of another kind"),
    "missing picture": (
        lambda c: c["images"][2].update(file_name="gone.png"),
        "image id 114: .*gone.png.*, which cannot be read: No such file",
    ),
    "size": (
        lambda c: c["images"][2].update(height=4),
        r"image id 114: '114.png' is \d+x\d+, but is annotated as 4x",
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_are_named_with_file_and_annotation(tmp_path, content, fault):
    write_coco(tmp_path, "train", content)
    change, message = FAULTS[fault]
    change(content)
    file = write_coco(tmp_path, "train", content, pictures=False)
    with pytest.raises(ValueError, match=message) as found:
        coco(file)
    assert "instances_train.json" in str(found.value)


def test_a_turned_photograph_is_compared_with_its_annotated_size(tmp_path, content):
    content["images"][0] |= {"height": 40, "width": 60}
    for one in content["annotations"][:3]:
        one["bbox"] = [5, 5, 20, 20]
    file = write_coco(tmp_path, "train", content)
    assert coco(file)[0]["image"].shape == (40, 60, 3)
    write_picture(tmp_path / "train" / "100.png", 40, 60, orientation=6)
    with pytest.raises(ValueError, match=r"'100.png' is 60x40, but is annotated as 40x60, as before its EXIF"):
        coco(file)
    write_picture(tmp_path / "train" / "100.png", 60, 40, orientation=6)
    assert coco(file)[0]["image"].shape == (40, 60, 3)


def test_more_objects_than_slots_are_refused(tmp_path, content):
    file = write_coco(tmp_path, "train", content)
    with pytest.raises(
        ValueError, match=r"at most 4 objects in a picture(.|\n)*image id 114: 5 objects(.|\n)*=5 or more"
    ):
        coco(file, max_objects=4)
    assert coco(file, max_objects=8).spec["boxes"].shape == (8, 4)


def test_bad_pictures_are_left_out_on_request(tmp_path, content):
    file = write_coco(tmp_path, "train", content)
    (tmp_path / "train" / "107.png").write_text("text")
    with pytest.raises(ValueError, match=r"image id 107: expected a picture in"):
        coco(file)
    source = coco(file, skip_bad=True)
    assert source.keys == (100, 114, 121)
    assert len(source.faults) == 1
    assert source[1]["valid"].sum() == 5


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([], "no outline of a mask\nread boxes alone, without instances=True, on the command line without --instances"),
        (None, "no outline of a mask"),
        ({"size": [3, 4], "counts": [12]}, r"run lengths of a mask of \[3, 4\], but its image is"),
        ([[0, 0, 0, 0, 0, 0]], "a mask without a pixel"),
        (7, "an outline that cannot be read"),
    ],
)
def test_outlines_that_are_none_are_refused(tmp_path, content, outline, message):
    pytest.importorskip("faster_coco_eval")
    first(content)["segmentation"] = outline
    file = write_coco(tmp_path, "train", content)
    with pytest.raises(ValueError, match=f"annotation id 11: .*{message}"):
        coco(file, instances=True)
    assert len(coco(file)) == 4


def test_run_lengths_of_another_number_of_pixels_are_refused():
    pytest.importorskip("faster_coco_eval")
    with pytest.raises(ValueError, match=r"run lengths of 11 pixels, but its image has 12"):
        outline_masks([{"size": [3, 4], "counts": [5, 6]}], (3, 4))


def test_folders_without_annotations_are_refused(tmp_path, content):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        coco(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"expected annotations/instances_train.json or train/_annot.* got neither"
    ):
        coco(tmp_path)
    write_coco(tmp_path, "train2014", content)
    write_coco(tmp_path, "train2017", content)
    with pytest.raises(
        ValueError, match=r"one file of annotations for each of train, val and test .* name one file, as coco:"
    ):
        coco(tmp_path)
    with pytest.raises(ValueError, match=r"images= only for a .json file"):
        coco(tmp_path, images=tmp_path)


def test_parts_of_other_categories_are_refused(tmp_path, content):
    write_coco(tmp_path, "train", content)
    content["categories"][0]["name"] = "wolf"
    write_coco(tmp_path, "val", content)
    with pytest.raises(ValueError, match=r"expected the same categories in all parts of .*dog.* in 'train' and .*wolf"):
        coco(tmp_path)


def test_files_that_are_not_json_are_refused(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"images": [],\n oops}')
    with pytest.raises(ValueError, match=r"expected JSON in .*a.json', got, in line 2: Expecting property name"):
        coco(file)
    file.write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match=r"expected JSON in UTF-8"):
        coco(file)


def test_masks_without_their_package_are_refused(tmp_path, content, monkeypatch):
    import sys

    file = write_coco(tmp_path, "train", content)
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with pytest.raises(ImportError, match=r"faster-coco-eval; pip install 'jaxcnn\[detection\]'"):
        coco(file, instances=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "expected 1 or 3 channels, got 4"),
        ({"max_objects": 0}, "max_objects must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(tmp_path, content, options, message):
    with pytest.raises(ValueError, match=message):
        coco(write_coco(tmp_path, "train", content), **options)


def test_detections_go_back_to_their_picture():
    from jaxcnn.data import FitPicture

    # 200 x 100 pixels become 100 x 50, of which the columns 25 to 74 are kept.
    place = FitPicture((50, 50, 3), "crop").placement(100, 200)
    detections = {
        "boxes": np.array([[0, 0, 10, 20], [40, 30, 60, 50], [0, 0, 0, 0]], np.float32),
        "scores": np.array([0.9, 0.8, 0], np.float32),
        "valid": np.array([True, True, False]),
    }
    found = place.original_detections(detections)
    np.testing.assert_array_equal(found["boxes"], [[50, 0, 70, 40], [130, 60, 170, 100], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found["valid"], [True, True, False])
    # Beyond a picture of 50 x 100 pixels, which fills the rows 12 to 36.
    found = FitPicture((50, 50, 3), "fit").placement(50, 100).original_detections(detections)
    np.testing.assert_array_equal(found["boxes"], [[0, 0, 20, 16], [80, 36, 100, 50], [0, 0, 0, 0]])
    detections["boxes"][0, 3] = 11
    found = FitPicture((50, 50, 3), "fit").placement(50, 100).original_detections(detections)
    np.testing.assert_array_equal(found["boxes"][0], [0, 0, 0, 0])
    np.testing.assert_array_equal(found["valid"], [False, True, False])
    np.testing.assert_array_equal(found["scores"], np.float32([0, 0.8, 0]))
