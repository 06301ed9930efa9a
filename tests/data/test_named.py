import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.data import named
from jaxcnn.data.sources import picture_index


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with data of every kind."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("photos/a/0.png", "photos/b/0.png", "parts/train/a/0.png", "parts/train/b/0.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5 + i, 6)).save(tmp_path / name)
    for place in ("masked", "masked parts/train", "digits"):
        for kind in ("images", "masks"):
            (tmp_path / place / kind).mkdir(parents=True)
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / place / kind / "0.png")
    (tmp_path / "only" / "images").mkdir(parents=True)
    (tmp_path / "table.CSV").write_text("path,label\nphotos/a/0.png,a\nphotos/b/0.png,b\n")
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4)), labels=[0, 1])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("digits", ""),
        ("cifar10", ""),
        ("tfds:mnist", "tfds"),
        ("./digits", "masks"),
        ("photos", "folder"),
        ("parts", "folder"),
        ("masked", "masks"),
        ("masked parts", "masks"),
        ("only", "masks"),
        ("folder:masked", "folder"),
        ("table.CSV", "manifest"),
        ("none.parquet", "manifest"),
        ("images.npz", "npz"),
        ("photos/a/0.png", "npz"),
    ],
)
def test_a_name_stands_for_what_is_there(here, name, scheme):
    assert named.find(name).scheme == scheme


def test_every_kind_of_data_is_read(here):
    assert type(data.load("photos")).__name__ == "PictureFiles"
    assert list(data.load("parts")) == ["train"]
    assert type(data.load("masked")["train"]).__name__ == "MaskFolder"
    assert data.load("folder:photos", class_names=("b", "a")).class_names == ("b", "a")
    assert data.load("table.CSV", channels=1).spec["image"].shape == (6, None, 1)
    assert len(data.load("npz:images.npz")) == 2
    assert len(data.load("digits")) == 1797
    small = data.load("photos", image_size=(4,), resize="fit")
    assert small.preprocessing == data.FitPicture((4, 4, 3), "fit")
    assert data.load("parts", image_size=data.FitPicture((3, 5, 3)))["train"].spec["image"].shape == (3, 5, 3)
    assert data.load("masked", image_size=(2, 3), resize="stretch")["train"].spec["mask"].shape == (2, 3)


def test_tar_files_have_a_scheme(here, monkeypatch):
    monkeypatch.setattr(named, "web_dataset", lambda pattern, **options: (pattern, options))
    assert data.load("wds:a-*.tar", channels=1) == ("a-*.tar", {"channels": 1, "class_names": None})


def test_downloads_are_told(monkeypatch):
    told = []
    monkeypatch.setitem(named.DOWNLOADED, "mnist", lambda progress: told.append(progress) or "set")
    assert data.load("mnist", progress=print) == "set"
    assert told == [print]


def test_paths_become_absolute_and_names_stay(here):
    for name in ("digits", "tfds:mnist", "nowhere", "none.npz"):
        assert named.absolute(name) == name
    assert named.absolute("./digits") == str(here / "digits")
    assert named.absolute("folder:photos") == f"folder:{here / 'photos'}"
    assert named.absolute("tfds:photos") == "tfds:photos"
    assert named.absolute("wds:a-{0..3}.tar") == f"wds:{here}/a-{{0..3}}.tar"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "digit",
            {},
            r"expected a data set, digits, digit_scenes, .*, got 'digit'; there is no such name, file or f",
        ),
        ("", {}, "expected a data set"),
        (
            "digits",
            {"skip_bad": True},
            "skip_bad only for image folders, tables, coco:PATH, voc:PATH and yolo:PATH, got it for 'digits'",
        ),
        ("photos", {"one_based": False}, "one_based only for voc:PATH, got it for 'photos', which is none"),
        ("voc:photos", {"instances": True}, "instances only for coco:PATH and yolo:PATH, got it for 'voc:photos'"),
        ("photos", {"separator": "|"}, "separator only for tables, got it for 'photos', which is none"),
        (
            "images.npz",
            {"channels": 3},
            "channels only for image folders, folders of masks, tables, tar files, ",
        ),
        ("photos", {"resize": "fit"}, "resize='fit' together with image_size, got it alone"),
        ("photos", {"image_size": (1, 2, 3)}, r"image_size expects one number, or height and width, got \(1, 2, 3\)"),
        ("masked", {"image_size": (4,)}, "pictures with masks that are stretched, resize='stretch', got 'crop'"),
        ("shapes", {"image_size": (4,)}, "resized expects examples with 'image' and without 'mask'"),
        ("none.csv", {}, "there is no file 'none.csv'"),
        ("folder:none", {}, "there is no folder 'none'"),
    ],
)
def test_names_and_options_that_fit_nothing_are_refused(here, name, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(name, **options)


@pytest.mark.parametrize("name", ["x" * 5000, "folder:", "npz:", "wds:", "a\0b"])
def test_names_of_nothing_are_refused(here, name):
    with pytest.raises(ValueError, match=r"expected a data set, digits, .*; there is no such name, file or folder"):
        data.load(name)


def test_a_link_to_the_folder_itself_is_no_part(here):
    (here / "photos" / "train").symlink_to(".")
    with pytest.raises(ValueError, match="beside a folder of training pictures; move or rename them"):
        data.load("photos")


def test_parts_of_arrays_are_found(here):
    (here / "arrays" / "train").mkdir(parents=True)
    for name, array in (("images", np.zeros((2, 4, 4))), ("labels", [0, 1])):
        np.save(here / "arrays" / "train" / f"{name}.npy", array)
    assert list(data.load("arrays")) == ["train"]
