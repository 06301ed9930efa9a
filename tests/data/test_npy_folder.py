import os

import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.data import named


def write(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def images(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, 2, 3, 1), np.uint8)


@pytest.mark.parametrize("labels", [np.array([1, 0, 1, 0]), np.array(["b", "a", "b", "a"])])
def test_the_arrays_are_those_of_an_npz_file(tmp_path, labels):
    np.savez(tmp_path / "set.npz", images=images(), labels=labels)
    source, expected = (
        data.npy_folder(write(tmp_path / "set", images=images(), labels=labels)),
        data.load_npz(tmp_path / "set.npz"),
    )
    np.testing.assert_array_equal(source.entries["image"], images())
    np.testing.assert_array_equal(source.entries["label"], [1, 0, 1, 0])
    assert source.class_names == expected.class_names
    assert source.fingerprint == expected.fingerprint


def test_images_are_mapped_into_memory(tmp_path):
    source = data.npy_folder(write(tmp_path, images=images(), labels=np.array([0, 1, 0, 1])))
    owner = source.entries["image"]
    while not isinstance(owner, np.memmap):
        owner = owner.base
        assert owner is not None
    assert owner.mode == "r"


def test_parts_of_mapped_arrays_are_not_copied(tmp_path):
    labels = np.arange(20) % 2
    np.savez(tmp_path / "set.npz", images=images(20), labels=labels)
    source, known = (
        data.npy_folder(write(tmp_path / "set", images=images(20), labels=labels)),
        data.load_npz(tmp_path / "set.npz"),
    )
    for found, expected in (
        *zip(data.split(source).values(), data.split(known).values(), strict=True),
        (data.choose_classes(source, ["1", "0"]), data.choose_classes(known, ["1", "0"])),
    ):
        assert not isinstance(found, data.Arrays)
        assert isinstance(expected, data.Arrays)
        for name, values in data.gather(found, np.arange(len(found))).items():
            np.testing.assert_array_equal(values, expected.entries[name], strict=True)


def test_class_names_name_the_labels(tmp_path):
    write(tmp_path, images=images()[..., 0], labels=np.array([0, 1, 0, 1]), class_names=np.array(["dog", "cat"]))
    source = data.npy_folder(tmp_path)
    assert source.class_names == ("dog", "cat")
    assert source.spec["image"].shape == (2, 3, 1)


def test_a_folder_of_arrays_is_found(tmp_path):
    write(tmp_path / "set", images=images(), labels=np.array([0, 1, 0, 1]))
    write(tmp_path / "half", images=images())
    write(tmp_path / "photos", images=images())
    (tmp_path / "photos" / "cat").mkdir()
    found = {name: named.find(str(tmp_path / name)).scheme for name in ("set", "half", "photos", "none.npy")}
    assert found == {"set": "npy", "half": "npy", "photos": "folder", "none.npy": "npy"}
    assert len(data.load(str(tmp_path / "set"))) == len(data.load(f"npy:{tmp_path / 'set'}")) == 4
    assert data.load(str(tmp_path / "set"), image_size=(4,)).spec["image"].shape == (4, 4, 1)


def test_a_missing_file_or_folder_is_named(tmp_path):
    write(tmp_path, images=images())
    with pytest.raises(FileNotFoundError, match=r"got no 'labels.npy'; write it with numpy.save"):
        data.npy_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected a folder with .*, got a file at .*; name the folder"):
        data.npy_folder(tmp_path / "images.npy")
    with pytest.raises(FileNotFoundError, match=r"got nothing at .*nowhere'; name the folder"):
        data.npy_folder(tmp_path / "nowhere")


DAMAGES = [
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "holds no array that can be mapped into memory"),
    (lambda path: path.write_bytes(b""), "holds no array"),
    (lambda path: path.write_text("1, 2"), "holds no array"),
    (lambda path: np.save(path, np.array([0, None], object)), "holds no array .*Python objects"),
    (lambda path: (path.unlink(), os.mkfifo(path)), "expected the file of an array, got .* which is no file"),
    (lambda path: np.save(path, images(3)), "expected as many labels as images, got 3 images and 4 labels"),
    (lambda path: np.save(path, images().astype(int)), "images must be uint8, or floating point"),
    (lambda path: np.save(path, np.zeros((0, 2, 3), np.uint8)), "at least one example"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_images_are_refused(tmp_path, damage, message):
    write(tmp_path, images=images(), labels=np.array([0, 1, 0, 1]))
    damage(tmp_path / "images.npy")
    with pytest.raises(ValueError, match=message) as error:
        data.npy_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("labels", [np.array([1, 0, 1, 0]), np.array(["b", "a", "b", "a"])])
def test_parts_have_the_classes_of_the_training_set(tmp_path, labels):
    write(tmp_path / "train", images=images(), labels=labels)
    write(tmp_path / "Val", images=images(2), labels=labels[:2])
    write(tmp_path / "test", images=images(1), labels=labels[:1])
    parts = data.load(str(tmp_path))
    assert list(parts) == ["train", "validation", "test"]
    assert {part.class_names for part in parts.values()} == {("0", "1") if labels.dtype.kind == "i" else ("a", "b")}
    assert [part.entries["label"].tolist() for part in parts.values()] == [[1, 0, 1, 0], [1, 0], [1]]
    np.save(tmp_path / "class_names.npy", np.array(["b", "a"]))
    assert data.npy_folder(tmp_path)["test"].class_names == ("b", "a")


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    write(tmp_path / "train", images=images(), labels=np.array(["b", "a", "b", "a"]))
    write(tmp_path / "test", images=images(1), labels=np.array(["c"]))
    with pytest.raises(
        ValueError, match=r"test': labels must be among class_names, got 'c'; the names are \['a', 'b'\]"
    ):
        data.npy_folder(tmp_path)
    write(tmp_path / "Test", images=images(1), labels=np.array(["a"]))
    with pytest.raises(ValueError, match=r"expected one folder for each part in .*, got 'Test' and 'test'; join them"):
        data.npy_folder(tmp_path)
    (tmp_path / "train" / "labels.npy").unlink()
    (tmp_path / "Test" / "images.npy").unlink()
    write(tmp_path / "test", labels=np.array(["a"])).rename(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"train', got no 'labels\.npy'; write it with numpy\.save"):
        data.npy_folder(tmp_path)
