import io
import logging
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Batches, Subset, gather, image_folder, in_memory, match_classes, resized, split
from jaxcnn.data.pictures import FitPicture, PictureError
from jaxcnn.data.sources import picture_index
from jaxcnn.data.sources.source import fitted
from jaxcnn.data.splits import shared_files


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def examined(monkeypatch):
    """The paths of the files whose headers were read; a file that has just changed counts as an old one."""
    paths = []
    picture_size = picture_index.picture_size
    monkeypatch.setattr(picture_index, "picture_size", lambda path: paths.append(Path(path).name) or picture_size(path))
    monkeypatch.setattr(picture_index, "_RECENT_NS", -(10**18))
    return paths


def pixels(seed, shape=(6, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def draw(path, seed=0, shape=(6, 8, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, shape)).save(path)
    return path


def write(root, classes=("cat", "dog"), count=3, shape=(6, 8, 3)):
    for number, name in enumerate(classes):
        for i in range(count):
            draw(root / name / f"{i}.png", 10 * number + i, shape)
    return root


def test_pictures_are_read_with_the_labels_of_their_folders(tmp_path):
    source = image_folder(write(tmp_path, ("dog", "cat", "Ape")))
    assert source.class_names == ("Ape", "cat", "dog")
    assert len(source) == 9
    assert repr(source) == f"<9 pictures in {str(tmp_path)!r}, 3 classes>"
    for index, (number, i) in enumerate((number, i) for number in (2, 1, 0) for i in range(3)):
        example = source[index]
        np.testing.assert_array_equal(example["image"], pixels(10 * number + i), strict=True)
        np.testing.assert_array_equal(example["label"], np.int32(2 - number), strict=True)
    assert source.spec["image"].shape == (6, 8, 3)
    assert source.spec["label"].shape == ()
    batch = Batches(source, 9, seed=0)[0]
    assert sorted(batch["label"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_sizes_that_differ_are_none_until_the_pictures_are_fitted(tmp_path):
    draw(tmp_path / "a" / "0.png", shape=(6, 8, 3))
    draw(tmp_path / "b" / "0.png", shape=(5, 8, 3))
    source = image_folder(tmp_path)
    assert source.spec["image"].shape == (None, 8, 3)
    np.testing.assert_array_equal(gather(source, np.array([1, 0]), ["label"])["label"], [1, 0])
    with pytest.raises(ValueError, match=r"a batch expects examples of one shape, got 'image' of shape \(None, 8, 3\)"):
        Batches(source, 1, seed=0)
    fit = FitPicture((4, 4, 3), "crop")
    reordered = Subset(match_classes(source, ("b", "a")), np.array([1]))
    example = fitted(reordered, 0, fit)
    np.testing.assert_array_equal(example["image"], fit.fitted(source[1]["image"]))
    assert example["label"] == 0
    with pytest.raises(ValueError, match=r"expected images of 3 channels, as they are read, got FitPicture\(\(4, 4, 1"):
        source.fitted(0, FitPicture((4, 4, 1)))


def test_a_large_jpeg_is_read_at_a_smaller_scale_only_to_be_fitted(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels(0, (64, 96, 3))).save(tmp_path / name / "0.jpg")
    source, fit = image_folder(tmp_path), FitPicture((8, 8, 3))
    assert source[0]["image"].shape == (64, 96, 3)
    np.testing.assert_array_equal(source.fitted(0, fit)["image"], fit.read(tmp_path / "a" / "0.jpg"))


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid"), ("train", "validation"), ("train",)])
def test_folders_of_parts_are_parts(tmp_path, names):
    for name in names:
        write(tmp_path / name, count=5)
    parts = image_folder(tmp_path)
    assert list(parts) == ["train", "validation", "test"][: len(names)]
    assert all(part.class_names == ("cat", "dog") and len(part) == 10 for part in parts.values())
    assert len({part.fingerprint for part in parts.values()}) == 1  # the same names and contents
    assert list(split(parts)) == ["train", "validation", "test"]


def test_a_class_may_be_missing_where_nothing_is_trained(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", ("dog",))
    parts = image_folder(tmp_path)
    assert parts["test"].class_names == ("cat", "dog")
    np.testing.assert_array_equal(gather(parts["test"], np.arange(3), ["label"])["label"], [1, 1, 1])
    write(tmp_path / "test", ("fox",))
    with pytest.raises(ValueError, match=r"pictures of every class in '.*train', got none of 'fox'; add some"):
        image_folder(tmp_path)


@pytest.mark.parametrize("name", ["with space", "new\nline", "größe", "猫", "a" * 200, "tab\t'quote\""])
def test_any_name_of_a_folder_is_that_of_a_class(tmp_path, name):
    write(tmp_path, (name, "zz"), count=1)
    draw(tmp_path / name / f"{name[:50]}.png", 5)
    source = image_folder(tmp_path)
    assert name in source.class_names
    assert len(source) == 3
    assert image_folder(tmp_path).fingerprint == source.fingerprint
    assert {source[i]["image"].shape for i in range(3)} == {(6, 8, 3)}


def test_names_that_are_not_utf_8_are_read(tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(odd)
    except OSError:
        pytest.skip("does not apply: the file system takes only UTF-8")
    with open(odd + b"/\xff.png", "wb") as file:
        Image.fromarray(pixels(0)).save(file, "PNG")
    source = image_folder(write(tmp_path, ("dog",)))
    assert source.class_names == ("caf\udce9", "dog")
    np.testing.assert_array_equal(source[0]["image"], pixels(0))
    assert image_folder(tmp_path).fingerprint == source.fingerprint


def test_a_class_is_spelt_as_other_systems_spell_it(tmp_path):
    name = "größe"
    write(tmp_path / "one", (unicodedata.normalize("NFD", name), "a"))
    assert image_folder(tmp_path / "one").class_names == ("a", name)
    write(tmp_path / "one", (name,))
    with pytest.raises(ValueError, match=r"one folder for each class in .*, got two with the name 'größe'"):
        image_folder(tmp_path / "one")


def test_what_is_hidden_is_left_out_and_pictures_lie_at_any_depth(tmp_path):
    write(tmp_path)
    draw(tmp_path / "cat" / "more" / "deep" / "9.png", 9)
    for name in (".hidden/1.png", "cat/.hidden.png", "cat/.more/1.png", "cat/Thumbs.db", "__MACOSX/cat/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"hidden")
    (tmp_path / "README.md").write_text("not in a folder of a class")
    source = image_folder(tmp_path)
    assert len(source) == 7
    np.testing.assert_array_equal(source[3]["image"], pixels(9))


def test_links_are_followed_and_loops_end(tmp_path):
    root = write(tmp_path / "set")
    write(tmp_path / "elsewhere", ("fox",))
    (root / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    (root / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "cat" / "other").symlink_to(root / "dog")
    (root / "dog" / "back").symlink_to(root / "cat")
    source = image_folder(root)
    assert source.class_names == ("cat", "dog", "fox")
    assert np.bincount(source.entries["label"]).tolist() == [6, 6, 3]
    (root / "cat" / "nothing.png").symlink_to(root / "nowhere")
    (root / "dog" / "circle.png").symlink_to(root / "dog" / "circle.png")
    with pytest.raises(
        ValueError, match=r"nothing but pictures(.|\n)*nothing.png', which cannot be read: No such file"
    ):
        image_folder(root)
    assert len(image_folder(root, skip_bad=True)) == 15


def test_what_is_no_picture_is_named_and_refused_or_left_out(tmp_path, caplog):
    write(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("text")
    (tmp_path / "cat" / "new\nline.png").write_bytes(b"")
    os.mkfifo(tmp_path / "dog" / "pipe")
    content = io.BytesIO()
    Image.fromarray(pixels(0, (40, 40, 3))).save(content, "PNG")
    (tmp_path / "dog" / "cut.png").write_bytes(content.getvalue()[:2000])
    with pytest.raises(ValueError, match=r"expected nothing but pictures, in '.*', got:") as caught:
        image_folder(tmp_path)
    _, *lines, advice = str(caught.value).splitlines()
    assert lines == [
        f"  {str(tmp_path / 'cat' / 'new') + chr(92)}nline.png', which is empty".replace("  /", "  '/"),
        f"  expected a picture in {str(tmp_path / 'cat' / 'notes.txt')!r} (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got "
        "another format or a damaged file",
        f"  {str(tmp_path / 'dog' / 'pipe')!r}, which is not a regular file",
    ]
    assert advice.startswith("repair or remove such files, or leave them out: skip_bad=True")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        source = image_folder(tmp_path, skip_bad=True)
    assert len(source) == 6
    assert len(source.faults) == 4
    assert "cut.png', got a file that cannot be read" in source.faults[2]
    assert "left out what is no picture: " in caplog.text
    assert caplog.text.endswith("which is empty and 3 more\n")


def test_damaged_pixels_are_named_where_they_are_read(tmp_path):
    write(tmp_path, shape=(40, 40, 3))
    file = tmp_path / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:2000])
    source = image_folder(tmp_path)
    for read in (source.__getitem__, lambda i: source.fitted(i, FitPicture((4, 4, 3)))):
        with pytest.raises(
            PictureError, match=r"dog/1.png', got a file that cannot be read: .*; repair or remove such"
        ):
            read(4)


def test_many_faults_are_counted(tmp_path):
    write(tmp_path)
    for i in range(9):
        (tmp_path / "cat" / f"{i}.txt").write_text("text")
    with pytest.raises(ValueError, match=r"4.txt(.|\n)*\n  and 4 more\nrepair"):
        image_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "a folder of pictures for each class in .*, got no folder"),
        (["one.png"], r"only in the folders of their classes in .*, got 'one.png'; move them into a folder for each"),
        (["one.png", "two.JPG", "cat/1.png"], "got 'one.png' and 1 more beside them; move them"),
        (["cat/1.png"], "at least two classes in .*, got only the folder 'cat'"),
        (["train/cat/1.png"], "at least two classes"),
        (["train/cat/1.png", "dog/1.png"], r"one for each class, got both: 'dog' beside a folder of training pictures"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], r"one folder for each part in .*, got 'val' and 'valid'"),
        (["train/a/1.png", "train/b/1.png", "test/"], r"for each class in '.*test', got no folder"),
        (["train/a/1.png", "train/b/1.png", "test/a/"], r"expected pictures in '.*test', got none"),
        (["cat/1.png", "dog/"], r"pictures of every class in .*, got none of 'dog'; add some, or remove the folder"),
        (["cat/", "dog/"], "expected pictures in .*, got none"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, files, message):
    for name in files:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        image_folder(tmp_path)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere'; expected one with a folder for each"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="image_folder expects 1 or 3 channels, got 4"):
        image_folder(tmp_path, channels=4)


def test_the_classes_may_be_given(tmp_path):
    write(tmp_path, ("cat",))
    source = image_folder(tmp_path, class_names=["dog", "cat"])
    assert source.class_names == ("dog", "cat")
    assert source[0]["label"] == 1
    with pytest.raises(ValueError, match=r"expected the classes 'dog', 'fox' in .*, got unknown 'cat'; rename"):
        image_folder(tmp_path, class_names=["dog", "fox"])


def modes():
    yield "L", Image.fromarray(pixels(0, (6, 8)))
    yield "1", Image.fromarray(pixels(0, (6, 8)) > 127)
    yield "I;16", Image.fromarray(pixels(0, (6, 8)).astype(np.uint16) * 257)
    for mode in ("RGB", "P", "RGBA", "LA"):
        yield mode, Image.fromarray(pixels(0)).convert(mode)
    yield "CMYK", Image.fromarray(pixels(0)).convert("CMYK")


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_number_of_channels_are_read_alike(tmp_path, channels):
    for mode, image in modes():
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}")
    source = image_folder(tmp_path, channels=channels)
    assert source.spec["image"].shape == (6, 8, channels)
    for index, name in enumerate(sorted(mode for mode, _ in modes())):
        image = source[index]["image"]
        assert (image.dtype, image.shape) == (np.uint8, (6, 8, channels))
        if name in ("L", "I;16", "1"):
            expected = pixels(0, (6, 8))
            expected = np.where(expected > 127, 255, 0) if name == "1" else expected
            np.testing.assert_array_equal(image, np.repeat(expected[..., None], channels, axis=2))
        elif channels == 3 and name == "RGB":
            np.testing.assert_array_equal(image, pixels(0))


def test_a_picture_of_one_pixel_is_a_picture(tmp_path):
    write(tmp_path, shape=(1, 1, 3))
    source = image_folder(tmp_path)
    np.testing.assert_array_equal(
        fitted(source, 0, FitPicture((4, 4, 3), "crop"))["image"], np.tile(pixels(0, (1, 1, 3)), (4, 4, 1))
    )


def test_the_size_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels(0)).save(tmp_path / name / "0.jpg", exif=exif)
    source = image_folder(tmp_path)
    assert source.spec["image"].shape == source[0]["image"].shape == (8, 6, 3)


def test_files_are_examined_once(tmp_path, examined):
    root = write(tmp_path / "set")
    first = image_folder(root)
    assert len(examined) == 6
    examined.clear()
    second = image_folder(root)
    assert examined == []
    assert second.fingerprint == first.fingerprint
    assert second.spec == first.spec
    draw(root / "cat" / "new.png", 7, shape=(3, 3, 3))
    (root / "dog" / "0.png").unlink()
    third = image_folder(root)
    assert examined == ["new.png"]
    assert third.spec["image"].shape == (None, None, 3)
    np.testing.assert_array_equal(third.sizes, [[6, 8]] * 3 + [[3, 3]] + [[6, 8]] * 2)


def test_pixels_are_decoded_once(tmp_path, examined, monkeypatch):
    root = write(tmp_path / "set", shape=(40, 40, 3))
    (root / "cat" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes()[:2000])
    assert len(image_folder(root)) == 6
    assert len(image_folder(root, skip_bad=True)) == 5
    assert len(examined) == 12
    assert len(image_folder(root, skip_bad=True)) == 5
    assert len(examined) == 12
    with pytest.raises(ValueError, match=r"nothing but pictures(.|\n)*0.png', got a file that cannot be read"):
        image_folder(root)


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path, examined):
    root = write(tmp_path / "set")
    source = image_folder(root)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert image_folder(tmp_path / "copy").fingerprint == source.fingerprint
    root.rename(tmp_path / "moved")
    assert image_folder(tmp_path / "moved").fingerprint == source.fingerprint
    assert image_folder(tmp_path / "moved", channels=1).fingerprint != source.fingerprint
    assert image_folder(tmp_path / "moved", class_names=("dog", "cat")).fingerprint != source.fingerprint


def overwritten(path):
    status = path.stat()
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.putpixel((4, 3), tuple(255 - level for level in image.getpixel((4, 3))))
    image.save(path)
    return status


@pytest.mark.parametrize("keep_date", [False, True])
@pytest.mark.parametrize("kind", ["bmp", "ppm", "tiff"])
def test_an_edited_file_of_the_same_length_is_noticed(tmp_path, keep_date, kind):
    for name in ("a", "b"):
        draw(tmp_path / name / f"0.{kind}", shape=(60, 60, 3))
    before = image_folder(tmp_path).fingerprint
    file = tmp_path / "b" / f"0.{kind}"
    status = overwritten(file)
    if keep_date:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert image_folder(tmp_path).fingerprint != before


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif"])
def test_one_changed_pixel_of_a_compressed_file_is_noticed(tmp_path, kind):
    for name in ("a", "b"):
        draw(tmp_path / name / f"0.{kind}", shape=(90, 90, 3))
    before = image_folder(tmp_path).fingerprint
    overwritten(tmp_path / "b" / f"0.{kind}")
    assert image_folder(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "cat" / "0.png").rename(root / "cat" / "9.png"),
        lambda root: (root / "cat" / "0.png").rename(root / "dog" / "9.png"),
        lambda root: (root / "cat").rename(root / "ape"),
        lambda root: (root / "cat" / "0.png").unlink(),
        lambda root: draw(root / "cat" / "9.png", 9),
        lambda root: draw(root / "cat" / "0.png", 9),
    ],
)
def test_every_change_of_the_files_changes_the_fingerprint(tmp_path, change):
    before = image_folder(write(tmp_path)).fingerprint
    change(tmp_path)
    assert image_folder(tmp_path).fingerprint != before


def test_a_fault_in_the_index_is_told_with_the_path_that_is_given_now(tmp_path, monkeypatch, examined):
    write(tmp_path / "set")
    for name, content in (("cat/text.png", b"text"), ("cat/empty.png", b"")):
        (tmp_path / "set" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for place in ("set", str(tmp_path / "set")):
        picture, empty = image_folder(place, skip_bad=True).faults[::-1]
        assert picture.startswith(f"expected a picture in {place + '/cat/text.png'!r} (PNG, ")
        assert empty == f"{place + '/cat/empty.png'!r}, which is empty"
    assert examined.count("text.png") == 1


def test_pictures_to_train_with_that_are_in_another_part_too_are_counted(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "val", count=2)
    write(tmp_path / "test", count=4)
    draw(tmp_path / "test" / "cat" / "0.png", 99)
    parts = image_folder(tmp_path)
    assert shared_files(parts) == {"validation": 4, "test": 5}
    train = match_classes(resized(parts["train"], 4), ("dog", "cat"))
    test = resized(Subset(match_classes(parts["test"], ("dog", "cat")), np.array([0, 1, 7])), 4)
    assert shared_files({"train": train, "test": test}) == {"test": 1}
    assert shared_files({"train": Subset(parts["train"], np.array([1])), "test": test}) == {"test": 1}
    assert shared_files({"train": Subset(parts["train"], np.array([0])), "test": test}) == {}
    assert shared_files({"train": parts["train"], "test": in_memory(parts["test"])}) == {}
    assert shared_files({"train": in_memory(parts["train"]), "test": parts["test"]}) == {}


@pytest.mark.parametrize("damage", [b"", b"no index", None])
def test_a_damaged_index_is_made_again(tmp_path, own_cache, examined, damage):
    source = image_folder(write(tmp_path))
    (index,) = (own_cache / "pictures").iterdir()
    index.write_bytes(index.read_bytes()[:-200] if damage is None else damage)
    assert image_folder(tmp_path).fingerprint == source.fingerprint
    assert len(examined) == 12
    image_folder(tmp_path)
    assert len(examined) == 12


def test_an_index_of_other_lengths_is_made_again(tmp_path, own_cache, examined):
    image_folder(write(tmp_path))
    (index,) = (own_cache / "pictures").iterdir()
    with np.load(index) as content:
        arrays = dict(content)
    np.savez(index, **arrays | {"sizes": arrays["sizes"][:-1]})
    image_folder(tmp_path)
    assert len(examined) == 12


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch, caplog, examined):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: tmp_path / "file")
    root = write(tmp_path / "set")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        assert len(image_folder(root)) == len(image_folder(root)) == 6
    assert len(examined) == 12
    assert f"what was found in the files of {root} cannot be kept" in caplog.text


def test_nothing_is_written_beside_the_pictures(tmp_path):
    root = write(tmp_path / "set")
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    image_folder(root)
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before
