import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Arrays, Subset, arrays, image_folder, survey
from jaxcnn.data.sources import picture_index
from jaxcnn.data.surveying import PartSurvey


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


def noise(count, seed=0, shape=(16, 20, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labelled(images, labels, names="abc"):
    return arrays(image=images, label=labels, class_names=list(names))


def test_counts_and_moments_are_those_of_numpy():
    images, labels = noise(150), np.arange(150) % 7 % 3
    found = survey(labelled(images, labels))
    assert found[1:] == ((), (), (), ())
    part = found.parts["train"]
    assert isinstance(part, PartSurvey)
    assert (part.examples, part.surveyed) == (150, 150)
    assert part.counts == dict(zip("abc", np.bincount(labels).tolist(), strict=True))
    assert part.sizes == ((16, 20),) * 3
    np.testing.assert_allclose(part.mean, images.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(part.std, images.std((0, 1, 2)) / 255)


def test_floats_masks_targets_and_several_labels_are_counted():
    images = noise(3).astype(np.float32) / 255
    masks = np.zeros((3, 16, 20), np.uint8)
    masks[0, 0, :5], masks[1, 0, :7] = 1, 255
    found = survey({"test": arrays(image=images, mask=masks, class_names=["no", "yes"])})
    assert found.parts["test"].counts == {"no": 3 * 320 - 12, "yes": 5}
    np.testing.assert_allclose(found.parts["test"].mean, images.mean((0, 1, 2)), rtol=1e-5)
    found = survey(arrays(image=images, target=np.array([[1, 2], [3, 4], [8, 0]], np.float32)))
    assert found.parts["train"].target == ((1, 4, 8), (0, 2, 4))
    assert found.parts["train"].counts == {}
    several = Arrays({"image": images, "label": np.array([[1, 0], [1, 1], [1, 0]])}, ("x", "y"))
    assert survey(several).parts["train"].counts == {"x": 3, "y": 1}


def test_sizes_of_pictures_are_those_there_are(tmp_path):
    for i, size in enumerate([(4, 9), (30, 20), (5, 8), (100, 1), (12, 12)]):
        folder = tmp_path / ("a", "b")[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(noise(1, i, (*size, 3))[0]).save(folder / f"{i}.png")
    assert survey(image_folder(tmp_path)).parts["train"].sizes == ((4, 9), (100, 1), (30, 20))


def test_the_same_and_similar_pictures_are_found_across_parts(tmp_path):
    smooth = [np.asarray(Image.fromarray(image).resize((200, 160), 2)) for image in noise(12, 1, (6, 7, 3))]
    for part, chosen in (("train", range(8)), ("test", range(6, 12))):
        for i in chosen:
            folder = tmp_path / part / ("a", "b")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(smooth[i]).save(folder / f"{i}.png")
    # Brighter and of another size, so not the same.
    changed = Image.fromarray((smooth[0] * 0.9 + 20).astype(np.uint8)).resize((120, 100), 2)
    changed.save(tmp_path / "test" / "a" / "near.jpg", quality=80)
    Image.fromarray(smooth[1]).save(tmp_path / "train" / "a" / "contrary.png")
    # Flat pictures say nothing.
    Image.new("RGB", (30, 30)).save(tmp_path / "train" / "a" / "black.png")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "test" / "a" / "white.png")
    found = survey(image_folder(tmp_path))
    names = [sorted(place.name.removeprefix(f"{tmp_path}/") for place in group) for group in found.same]
    assert sorted(names) == [
        ["test/a/6.png", "train/a/6.png"],
        ["test/b/7.png", "train/b/7.png"],
        ["train/a/contrary.png", "train/b/1.png"],
    ]
    ((own, other),) = found.alike
    assert (own.name, other.name) == (f"{tmp_path}/train/a/0.png", f"{tmp_path}/test/a/near.jpg")
    assert (own.part, own.number) == ("train", 0)
    across, within, contrary, alike = found.warnings
    assert across.startswith(f"2 pictures in more than one part, so that the test is too easy, such as {tmp_path}/")
    assert within.startswith("1 picture several times, such as ")
    assert (
        contrary
        == f"1 picture with different labels, such as {tmp_path}/train/a/contrary.png, {tmp_path}/train/b/1.png"
    )
    assert alike.startswith("1 pair of pictures in train and another part that look alike, such as ")


def test_examples_without_files_have_their_numbers():
    images = noise(4)
    images[3] = images[1]
    (group,) = survey(labelled(images, [0, 1, 2, 1])).same
    assert [place.name for place in group] == ["train[1]", "train[3]"]


def test_parts_of_a_folder_have_the_names_of_its_files(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(noise(1)[0]).save(tmp_path / name / "0.png")
    (group,) = survey(Subset(image_folder(tmp_path), np.array([1, 0]))).same
    assert [place.name for place in group] == [f"{tmp_path}/b/0.png", f"{tmp_path}/a/0.png"]


@pytest.mark.parametrize(
    ("names", "labels", "warnings"),
    [
        (("Dog", "dog ", "cat"), [0, 1, 2], ["the classes 'Dog' and 'dog ' seem to be one class in several spellings"]),
        (("a-b", "a b", "A_B"), [0, 1, 2], ["the classes 'a-b' and 'a b' and 'A_B' seem to be one class"]),
        (("a", "b", "c"), [0, 2, 2], ["no example of 'b' in train"]),
        (("a", "b", "c"), [0] * 24 + [1] * 2 + [2] * 3, ["the class 'a' is 12 times as frequent as 'b'; look at more"]),
        (("a", "b", "c"), [0] * 20 + [1] * 2 + [2] * 3, []),
        (("-", "+", "?"), [0, 1, 2], []),
        (("-1", "1", "0.1"), [0, 1, 2], []),
    ],
)
def test_classes_that_are_odd_are_named(names, labels, warnings):
    found = survey(labelled(noise(len(labels)), labels, names))
    assert len(found.warnings) == len(warnings)
    for got, expected in zip(found.warnings, warnings, strict=True):
        assert got.startswith(expected)


def test_files_that_cannot_be_read_are_listed(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(noise(1, ord(name))[0]).save(tmp_path / name / "0.png")
    (tmp_path / "a" / "notes.txt").write_text("text")
    found = survey(image_folder(tmp_path, skip_bad=True))
    assert len(found.faults) == 1
    assert found.warnings[0].startswith("1 file cannot be read as a picture, such as: expected a picture in")


def test_some_images_may_stand_for_all():
    told = []
    source = labelled(noise(200), np.arange(200) % 3)
    found = survey({"train": source, "test": source}, limit=70, progress=lambda done, total: told.append((done, total)))
    assert found.parts["train"].surveyed == 70
    assert found.parts["train"].examples == 200
    assert sum(found.parts["train"].counts.values()) == 200
    assert len(found.same) == 70
    assert told == [(64, 140), (70, 140), (134, 140), (140, 140)]


def test_what_cannot_be_surveyed_is_refused():
    with pytest.raises(ValueError, match="survey expects examples with 'image', got 'label'"):
        survey(arrays(label=[0, 1]))
    with pytest.raises(ValueError, match="survey expects limit of at least 1, got 0"):
        survey(labelled(noise(3), [0, 1, 2]), limit=0)
