import io
import os
import zipfile

import numpy as np
import pytest

from jaxcnn.data import Arrays, load_npz
from jaxcnn.data.sources import npz


def grey(count=4):
    return np.full((count, 2, 3, 1), 0.5, np.float32)


def test_an_npz_file_comes_back(tmp_path):
    path = tmp_path / "data.npz"
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(path, images=images, labels=np.array([1, 0]), class_names=np.array(["cat", "dog"]), other=np.ones(2))
    data = load_npz(path)
    assert isinstance(data, Arrays)
    np.testing.assert_array_equal(data.entries["image"][..., 0], images)
    assert data.entries["image"].dtype == np.uint8
    np.testing.assert_array_equal(data.entries["label"], [1, 0])
    assert data.class_names == ("cat", "dog")


def test_an_npz_file_needs_no_class_names(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", images=grey(), labels=np.array([0, 1, 2, 0]))
    assert load_npz(str(tmp_path / "data.npz")).class_names == ("0", "1", "2")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.npz"):
        load_npz(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        load_npz(tmp_path)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", grey())
    (tmp_path / "text.npz").write_text("images, labels")
    for name in ("one.npy", "text.npz"):
        with pytest.raises(ValueError, match=f"{name}' is not an .npz file"):
            load_npz(tmp_path / name)


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_a_missing_array_is_named(tmp_path, missing):
    arrays = {"images": grey(), "labels": np.array([0, 1, 0, 1])}
    arrays["wrong"] = arrays.pop(missing)
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=f"has no array '{missing}', only .*'wrong'"):
        load_npz(tmp_path / "data.npz")


def test_pickled_arrays_are_not_opened(tmp_path):
    np.savez(tmp_path / "data.npz", images=grey(), labels=np.array([0, 1, 0, None], object))
    with pytest.raises(ValueError, match=r"has an array that cannot be read .*which are not read"):
        load_npz(tmp_path / "data.npz")


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, images=grey(), labels=np.array([0, 1, 0, 1]))
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"data\.npz' has an array that cannot be read"):
        load_npz(path)


def test_a_refused_array_is_reported_with_its_file(tmp_path):
    np.savez(tmp_path / "data.npz", images=grey() * 300, labels=np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"data\.npz': .* must be in \[0, 1\]"):
        load_npz(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", images=grey(), labels=np.array([0.5, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"data\.npz': labels must be integers, got float64"):
        load_npz(tmp_path / "data.npz")


def test_an_array_that_is_not_needed_is_not_read(tmp_path):
    np.savez(tmp_path / "data.npz", images=grey(), labels=[0, 1, 0, 1], notes=np.array([None, {}], object))
    np.testing.assert_array_equal(load_npz(tmp_path / "data.npz").entries["label"], [0, 1, 0, 1])
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("more.npy", b"no array at all")
    np.testing.assert_array_equal(load_npz(tmp_path / "data.npz").entries["label"], [0, 1, 0, 1])


@pytest.mark.parametrize("kind", [str, "S"])
def test_labels_that_are_strings_become_classes_in_sorted_order(kind, tmp_path):
    labels = np.array(["dog", "cat", "eel", "cat"]).astype(kind)
    np.savez(tmp_path / "data.npz", images=grey(), labels=labels)
    data = load_npz(tmp_path / "data.npz")
    assert data.class_names == ("cat", "dog", "eel")
    np.testing.assert_array_equal(data.entries["label"], [1, 0, 2, 0])
    names = np.array(["eel", "dog", "cat", "fox"]).astype(kind)
    np.savez(tmp_path / "data.npz", images=grey(), labels=labels, class_names=names)
    data = load_npz(tmp_path / "data.npz")
    assert data.class_names == ("eel", "dog", "cat", "fox")
    np.testing.assert_array_equal(data.entries["label"], [1, 2, 0, 2])
    np.savez(tmp_path / "data.npz", images=grey(), labels=labels, class_names=names[1:])
    with pytest.raises(ValueError, match="labels must be among class_names, got 'eel'"):
        load_npz(tmp_path / "data.npz")


def test_an_array_that_says_it_is_larger_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, images=grey())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**45,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.npy", header.getvalue() + bytes(32))
    with pytest.raises(ValueError, match=r"cannot be read \(the size of 'labels' does not match its shape"):
        load_npz(path)


@pytest.mark.parametrize("name", ["images", "labels", "class_names"])
@pytest.mark.parametrize("kind", ["|S0", "<U0", "|V0"])
def test_an_array_of_values_without_bytes_is_refused(kind, name, tmp_path):
    path = tmp_path / "data.npz"
    whole = {"images": grey(), "labels": np.array([0, 1, 0, 1]), "class_names": np.array(["a", "b"])}
    np.savez(path, **{other: array for other, array in whole.items() if other != name})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match=rf"data\.npz' .*{name}' holds values of no bytes"):
        load_npz(path)


def test_labels_are_counted_before_they_become_strings(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", images=grey(), labels=np.full(1000, b"a"))
    monkeypatch.setattr(npz, "_as_text", None)
    with pytest.raises(
        ValueError, match=r"data\.npz': expected as many labels as images, got 4 images and 1000 labels"
    ):
        load_npz(tmp_path / "data.npz")


def test_too_little_memory_is_reported_with_the_file(tmp_path, monkeypatch):
    def full(**entries):
        raise MemoryError

    np.savez(tmp_path / "data.npz", images=grey(), labels=np.array([0, 1, 0, 1]))
    monkeypatch.setattr(npz, "arrays", full)
    with pytest.raises(ValueError, match=r"data\.npz' holds arrays that do not fit into memory"):
        load_npz(tmp_path / "data.npz")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"data\.npz' is not an \.npz file"):
        load_npz(tmp_path / "data.npz")
