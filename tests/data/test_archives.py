import hashlib
import json
import os
import pickle
import threading
import zipfile

import numpy as np
import pytest
from archive_files import idx, pixels, record, write_tar

from jaxcnn import data
from jaxcnn.data import download
from jaxcnn.data.download import DownloadError, PublishedFile
from jaxcnn.data.sources import archives, prepared
from jaxcnn.data.sources.prepared import PreparedError, read_prepared
from jaxcnn.files import locked

NAMES = list(archives.ARCHIVES)
DIGITS = tuple("0123456789")
FINE, COARSE = tuple(f"fine {k}" for k in range(100)), tuple(f"coarse {k}" for k in range(20))


def lines(names):
    return "".join(f"{name}\n" for name in names).encode()


def fake(name, folder):
    """Writes small archives of the right format, and returns the images and labels in them by part."""
    grey = name in ("mnist", "fashion_mnist", "emnist_digits")
    shape = (28, 28, 1) if grey else (32, 32, 3)
    images = {"train": pixels(0, 10, *shape), "test": pixels(1, 4, *shape)}
    labels = {"train": np.arange(10), "test": np.array([9, 0, 4, 1])}
    match name:
        case "cifar10":
            records = [record(image, label) for image, label in zip(images["train"], labels["train"], strict=True)]
            files = {f"data_batch_{k + 1}.bin": records[2 * k] + records[2 * k + 1] for k in range(5)}
            files["test_batch.bin"] = b"".join(map(record, images["test"], labels["test"]))
            write_tar(folder / "cifar-10-binary.tar.gz", {"batches.meta.txt": lines(DIGITS), **files})
        case "cifar100":
            files = {
                f"{part}.bin": b"".join(
                    record(x, 19 - y, 90 + y) for x, y in zip(images[part], labels[part], strict=True)
                )
                for part in images
            }
            files |= {"fine_label_names.txt": lines(FINE), "coarse_label_names.txt": lines(COARSE)}
            write_tar(folder / "cifar-100-binary.tar.gz", files)
        case "emnist_digits":
            with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
                for part in images:
                    turned = np.stack([image[..., 0].T for image in images[part]])
                    prefix = f"gzip/emnist-digits-{part}"
                    archive.writestr(f"{prefix}-images-idx3-ubyte.gz", idx(turned))
                    archive.writestr(f"{prefix}-labels-idx1-ubyte.gz", idx(labels[part].astype(np.uint8)))
        case "svhn":
            scipy_io = pytest.importorskip("scipy.io")
            for part in images:
                y = np.array([[10 if label == 0 else label] for label in labels[part]], np.uint8)
                content = {"X": images[part].transpose(1, 2, 3, 0), "y": y}
                scipy_io.savemat(folder / f"{part}_32x32.mat", content, do_compression=True)
        case _:
            for part, prefix in (("train", "train"), ("test", "t10k")):
                (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images[part][..., 0]))
                (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels[part].astype(np.uint8)))
    return {part: (images[part], labels[part]) for part in images}


class Set:
    """A data set whose archives are small ones in a folder."""

    def __init__(self, name, folder, monkeypatch):
        folder.mkdir()
        self.name, self.folder, self.parts = name, folder, fake(name, folder)
        self.load = getattr(data, name)
        archive = archives.ARCHIVES[name]
        assert sorted(file.name for file in archive.files) == sorted(path.name for path in folder.iterdir())
        files = tuple(self.described(file) for file in archive.files)
        self.archive = archive._replace(files=files)
        monkeypatch.setitem(archives.ARCHIVES, name, self.archive)

    def described(self, file):
        content = (self.folder / file.name).read_bytes()
        return PublishedFile(file.url, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def make(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archives, "download", lambda *arguments: pytest.fail("the network was used"))
    return lambda name: Set(name, tmp_path / name, monkeypatch)


@pytest.fixture
def mnist(make):
    return make("mnist")


def check(parts, expected):
    assert list(parts) == ["train", "test"]
    for part, (images, labels) in expected.items():
        np.testing.assert_array_equal(parts[part].entries["image"], images)
        np.testing.assert_array_equal(parts[part].entries["label"], labels)
        assert parts[part].spec["image"].dtype == np.uint8
        assert parts[part].spec["label"].dtype == np.int32


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_prepared_from_its_archives_and_mapped(make, cache, name):
    made = make(name)
    expected = {part: (x, y + 90 if name == "cifar100" else y) for part, (x, y) in made.parts.items()}
    check(made.load(made.folder), expected)
    for path in made.folder.iterdir():
        path.unlink()
    parts = made.load()
    check(parts, expected)
    names = {"cifar100": FINE, "fashion_mnist": archives._FASHION}.get(name, DIGITS)
    assert {part.class_names for part in parts.values()} == {names}
    assert sorted(path.name for path in cache.iterdir()) == [name, f"{name}.lock"]
    base = parts["train"].entries["image"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not parts["train"].entries["image"].flags.writeable
    again = pickle.loads(pickle.dumps(parts["test"]))
    np.testing.assert_array_equal(again[0]["image"], expected["test"][0][0])


def test_cifar100_has_coarse_classes(make):
    made = make("cifar100")
    parts = data.cifar100(made.folder / "cifar-100-binary.tar.gz", labels="coarse")
    check(parts, {part: (images, 19 - labels) for part, (images, labels) in made.parts.items()})
    assert parts["train"].class_names == COARSE
    assert parts["train"].fingerprint != data.cifar100()["train"].fingerprint
    with pytest.raises(ValueError, match="cifar100 expects labels to be 'fine' or 'coarse', got 'all'"):
        data.cifar100(labels="all")


def test_published_files_are_described_whole():
    for archive in archives.ARCHIVES.values():
        for file in archive.files:
            assert file.url.startswith("http")
            assert file.size > 0
            assert len(bytes.fromhex(file.sha256)) == 32


def test_local_files_are_compared_with_the_published_ones(mnist, cache):
    path = mnist.folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        ValueError, match=r"expected t10k-labels-idx1-ubyte.gz as http.* has it, got .*: expected .* bytes"
    ):
        data.mnist(mnist.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*t10k-labels-idx1-ubyte.gz'; expected "):
        data.mnist(mnist.folder)
    with pytest.raises(ValueError, match=r"expected the folder of the files train-images.* of mnist, got '.*ubyte.gz'"):
        data.mnist(mnist.folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=r"expected one of the data sets cifar10, .*, got 'mnits'"):
        data.prepare("mnits")
    assert [path.name for path in cache.iterdir()] == ["mnist.lock"]


def test_downloads_are_checked_and_removed(mnist, cache, monkeypatch):
    asked = []

    def fetch(published, folder, progress):
        asked.append(published.name)
        progress(published.name, 1, 2)
        path = folder / published.name
        path.write_bytes((mnist.folder / published.name).read_bytes())
        return path

    seen = []
    monkeypatch.setattr(archives, "download", fetch)
    assert data.prepare("mnist", progress=lambda *parts: seen.append(parts)) == cache / "mnist"
    assert asked == [file.name for file in mnist.archive.files]
    assert seen == [(name, 1, 2) for name in asked]
    assert not list((cache / "downloads" / "mnist").iterdir())
    check(data.mnist(), mnist.parts)
    data.prepare("mnist")
    assert len(asked) == 4


def test_a_failed_download_says_what_else_to_do(mnist, cache, monkeypatch):
    monkeypatch.setattr(archives, "download", download.download)
    file = mnist.archive.files[0]._replace(url="http://127.0.0.1:9/train-images-idx3-ubyte.gz")
    monkeypatch.setitem(archives.ARCHIVES, "mnist", mnist.archive._replace(files=(file,)))
    with pytest.raises(
        DownloadError, match=r"failed: .*; or give a local copy, as `jaxcnn data prepare mnist --from PATH`"
    ):
        data.mnist()
    assert not (cache / "mnist").exists()


@pytest.mark.parametrize("damage", ["pixel", "truncated", "missing", "json", "schema", "names"])
def test_a_damaged_set_is_noticed_and_prepared_again(mnist, cache, damage):
    data.mnist(mnist.folder)
    folder = cache / "mnist"
    images, description = folder / "test.image.npy", folder / "set.json"
    content = images.read_bytes()
    match damage:
        case "pixel":
            images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "truncated":
            images.write_bytes(content[:-1])
        case "missing":
            images.unlink()
        case "json":
            description.write_text("{")
        case "schema":
            description.write_text(json.dumps(json.loads(description.read_text()) | {"schema": 99}))
        case "names":
            description.write_text(json.dumps(json.loads(description.read_text()) | {"class_names": None}))
    with pytest.raises(
        PreparedError, match=r"mnist' is damaged: .*; prepare it again, as by `jaxcnn data prepare mnist`"
    ):
        data.mnist()
    data.prepare("mnist", mnist.folder)
    check(data.mnist(), mnist.parts)
    assert sorted(path.name for path in cache.iterdir()) == ["mnist", "mnist.lock"]


def test_a_full_disk_leaves_nothing(mnist, cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write the data set .*mnist': No space left on device; check the free"):
        data.mnist(mnist.folder)
    assert [path.name for path in cache.iterdir()] == ["mnist.lock"]


def test_what_a_killed_process_left_is_removed(mnist, cache):
    (cache / ".mnist.0123.tmp").mkdir(parents=True)
    (cache / ".mnist.0123.tmp" / "set.json").write_text("{}")
    (cache / ".svhn.0123.tmp").mkdir()
    data.mnist(mnist.folder)
    assert sorted(path.name for path in cache.iterdir()) == [".svhn.0123.tmp", "mnist", "mnist.lock"]


def test_two_that_prepare_at_once_do_it_once(mnist, monkeypatch):
    reads, both = [], threading.Barrier(2)

    def read(paths):
        reads.append(paths)
        return archives._read_mnist(paths)

    def load():
        both.wait()
        results.append(data.mnist(mnist.folder))

    results = []
    monkeypatch.setitem(archives.ARCHIVES, "mnist", mnist.archive._replace(read=read))
    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    for parts in results:
        check(parts, mnist.parts)


def test_waiting_for_another_process_has_an_end(mnist, cache, monkeypatch):
    monkeypatch.setattr(archives, "_PATIENCE", 0)
    cache.mkdir(parents=True)
    with (
        locked(cache / "mnist.lock"),
        pytest.raises(
            TimeoutError, match=rf"expected to prepare .*mnist', but process {os.getpid()} has been preparing"
        ),
    ):
        data.mnist(mnist.folder)


def test_labels_out_of_range_are_refused(mnist, monkeypatch, cache):
    (mnist.folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.array([0, 1, 10, 2], np.uint8)))
    files = tuple(mnist.described(file) for file in mnist.archive.files)
    monkeypatch.setitem(archives.ARCHIVES, "mnist", mnist.archive._replace(files=files))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 10\), got 10 at index 2"):
        data.mnist(mnist.folder)
    assert not (cache / "mnist").exists()


def test_files_of_a_set_hold_no_pickles(mnist, cache):
    data.mnist(mnist.folder)
    np.save(cache / "mnist" / "test.label.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(PreparedError, match="Python objects in dtype"):
        read_prepared(cache / "mnist")
