import gzip
import io
import zipfile

import numpy as np
import pytest
from archive_files import idx, pixels, record, write_tar

from jaxcnn.data.sources.archive_formats import (
    ArchiveError,
    open_zipped,
    read_cifar,
    read_idx,
    read_matlab,
    read_names,
)


@pytest.mark.parametrize("labels", [1, 2])
def test_records_of_cifar(tmp_path, labels):
    images = pixels(0, 5, 32, 32, 3)
    records = [record(image, *range(k, k + labels)) for k, image in enumerate(images)]
    files = {"a.bin": records[0] + records[1], "b.bin": records[2], "t.bin": records[3] + records[4], "x.html": b""}
    found = read_cifar(write_tar(tmp_path / "a.tgz", files), {"train": ["a.bin", "b.bin"], "test": ["t.bin"]}, labels)
    np.testing.assert_array_equal(found["train"]["image"], images[:3])
    np.testing.assert_array_equal(found["test"]["image"], images[3:])
    np.testing.assert_array_equal(found["test"]["labels"], [[k + j for j in range(labels)] for k in (3, 4)])


def test_archives_of_other_content_are_refused(tmp_path):
    path = write_tar(tmp_path / "a.tgz", {"a.bin": bytes(3074), "names.txt": b"cat\r\ndog\n\n", "empty.bin": b""})
    assert read_names(path, "names.txt") == ("cat", "dog")
    for name, size in (("a.bin", 3074), ("empty.bin", 0)):
        with pytest.raises(ArchiveError, match=rf"records of 3073 bytes in {name} of .*a.tgz', got {size} bytes"):
            read_cifar(path, {"train": [name]}, 1)
    with pytest.raises(ArchiveError, match=r"expected b.bin, c.bin in .*a.tgz', got no such file"):
        read_cifar(path, {"train": ["b.bin", "a.bin"], "test": ["c.bin"]}, 1)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArchiveError, match=r"expected a .tar.gz archive, got .*a.tgz'"):
        read_names(path, "names.txt")
    path.write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match=r"expected a .tar.gz archive, got .*a.tgz': "):
        read_names(path, "names.txt")


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_arrays_of_idx(shape):
    array = pixels(0, *shape)
    np.testing.assert_array_equal(read_idx(io.BytesIO(idx(array)), "file.gz", len(shape)), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "expected a file compressed by gzip in file.gz, got: "),
        (idx(pixels(0, 2, 3, 4))[:-9], "expected a file compressed by gzip in file.gz, got: "),
        (
            idx(pixels(0, 24)),
            r"expected an IDX file of bytes with 3 axes in file.gz, got b'\\x00\\x00\\x08\\x01' first",
        ),
        (gzip.compress(b"\0\0\x08\3\0", mtime=0), "expected an IDX file of bytes with 3 axes in file.gz"),
        (
            gzip.compress(gzip.decompress(idx(pixels(0, 2, 3, 4)))[:-1], mtime=0),
            "expected 24 values in file.gz, got 23",
        ),
    ],
)
def test_other_files_than_idx_are_refused(content, message):
    with pytest.raises(ArchiveError, match=message):
        read_idx(io.BytesIO(content), "file.gz", 3)


def test_files_of_a_zip_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("gzip/one.gz", b"content")
    with open_zipped(tmp_path / "a.zip", "one.gz") as file:
        assert file.read() == b"content"
    with pytest.raises(ArchiveError, match=r"expected one file two.gz in the zip archive .*a.zip'"):
        open_zipped(tmp_path / "a.zip", "two.gz")
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match=r"expected one file one.gz in the zip archive .*not a zip"):
        open_zipped(tmp_path / "a.zip", "one.gz")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.int64])
def test_arrays_of_matlab_are_those_that_scipy_writes(tmp_path, compressed, dtype):
    scipy_io = pytest.importorskip("scipy.io")
    X, y = pixels(0, 4, 5, 3, 7), np.arange(7).reshape(7, 1).astype(dtype)
    content = {"X": X, "other": np.eye(2), "text": "words", "y": y, "tiny": np.array([[1]], np.uint8)}
    scipy_io.savemat(tmp_path / "a.mat", content, do_compression=compressed)
    found = read_matlab(tmp_path / "a.mat", ["X", "y", "tiny"])
    assert list(found) == ["X", "y", "tiny"]
    np.testing.assert_array_equal(found["X"], X)
    np.testing.assert_array_equal(found["y"], y)
    np.testing.assert_array_equal(found["tiny"], [[1]])
    assert found["y"].dtype == dtype


def test_other_files_than_matlab_are_refused(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    path = tmp_path / "a.mat"
    scipy_io.savemat(path, {"X": pixels(0, 4, 4), "text": "words", "complex": np.eye(2) * 1j}, do_compression=True)
    with pytest.raises(ArchiveError, match=r"expected arrays X, y in .*a.mat', got none for y"):
        read_matlab(path, ["X", "y"])
    for name in ("text", "complex"):
        with pytest.raises(ArchiveError, match=f"{name} is not an array of real numbers"):
            read_matlab(path, [name])
    content = path.read_bytes()
    for damaged in (content[:160], content[:150] + b"damage" + content[156:]):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=r"expected numeric arrays of MATLAB 5 in .*a.mat', got damage: "):
            read_matlab(path, ["X"])
    path.write_bytes(b"\x89HDF")
    with pytest.raises(ArchiveError, match=r"expected a file of MATLAB 5, little endian, in .*a.mat', got b'\\x89HDF'"):
        read_matlab(path, ["X"])
