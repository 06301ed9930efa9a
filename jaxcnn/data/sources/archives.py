"""Well-known image sets from their published archives: downloaded or local, prepared once, mapped into memory.

Sizes and checksums of the archives are those of TensorFlow Datasets 4.9.10 (url_checksums/*.txt, and checksums.tsv of
svhn_cropped).
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxcnn.data.download import DownloadError, Progress, PublishedFile, check_published, download
from jaxcnn.data.sources.archive_formats import open_zipped, read_cifar, read_idx, read_matlab, read_names
from jaxcnn.data.sources.arrays import Arrays, arrays
from jaxcnn.data.sources.prepared import Prepared, PreparedError, read_prepared, write_prepared
from jaxcnn.files import LockedError, cache_folder, locked

_LOG = logging.getLogger("jaxcnn")

_PATIENCE = 3600.0
"""Seconds to wait while another process prepares the same data set."""

_DIGITS = tuple(map(str, range(10)))
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Names of the classes (https://github.com/zalandoresearch/fashion-mnist)."""


class Archive(NamedTuple):
    """A published data set.

    Attributes:
      files: what it consists of.
      read: makes the data set of the paths of these files, by name.
    """

    files: tuple[PublishedFile, ...]
    read: Callable[[Mapping[str, Path]], Prepared]


def cifar10(archive: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> dict[str, Arrays]:
    """Reads CIFAR-10: 60,000 colour images of 32x32 pixels in 10 classes (A. Krizhevsky, 2009).

    The first call prepares it; see `prepare`. So do the other functions of this module.

    Args:
      archive: the local file `cifar-10-binary.tar.gz`, or its folder, if the data set is not prepared yet. None
        downloads it.
      progress: is told after each part of a download.

    Returns:
      "train", 50,000 images, and "test", the official 10,000: "image" uint8 and "label".

    Raises:
      OSError, ValueError: as `prepare`.
    """
    return _load("cifar10", archive, progress)


def cifar100(
    archive: str | os.PathLike[str] | None = None,
    *,
    labels: Literal["fine", "coarse"] = "fine",
    progress: Progress | None = None,
) -> dict[str, Arrays]:
    """Reads CIFAR-100: 60,000 colour images of 32x32 pixels (A. Krizhevsky, 2009).

    Args:
      archive: `cifar-100-binary.tar.gz`, as in `cifar10`.
      labels: "fine" for the 100 classes, "coarse" for the 20 superclasses.
      progress: as in `cifar10`.

    Returns:
      "train", 50,000 images, and "test", the official 10,000.

    Raises:
      OSError, ValueError: as `prepare`; or `labels` is neither.
    """
    if labels not in ("fine", "coarse"):
        raise ValueError(f"cifar100 expects labels to be 'fine' or 'coarse', got {labels!r}")
    return _load("cifar100", archive, progress, labels)


def mnist(archive: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> dict[str, Arrays]:
    """Reads MNIST: 70,000 handwritten digits, grey, 28x28 pixels (LeCun et al., 1998).

    Args:
      archive: the folder of the four files, such as `train-images-idx3-ubyte.gz`, as in `cifar10`.
      progress: as in `cifar10`.

    Returns:
      "train", 60,000 images, and "test", the official 10,000.

    Raises:
      OSError, ValueError: as `prepare`.
    """
    return _load("mnist", archive, progress)


def fashion_mnist(
    archive: str | os.PathLike[str] | None = None, *, progress: Progress | None = None
) -> dict[str, Arrays]:
    """Reads Fashion-MNIST: 70,000 articles of clothing, grey, 28x28 pixels (Xiao et al., arXiv:1708.07747).

    Args:
      archive: the folder of the four files, such as `train-images-idx3-ubyte.gz`, as in `cifar10`.
      progress: as in `cifar10`.

    Returns:
      "train", 60,000 images, and "test", the official 10,000.

    Raises:
      OSError, ValueError: as `prepare`.
    """
    return _load("fashion_mnist", archive, progress)


def emnist_digits(
    archive: str | os.PathLike[str] | None = None, *, progress: Progress | None = None
) -> dict[str, Arrays]:
    """Reads the digits of EMNIST: 280,000 handwritten digits, grey, 28x28 pixels (Cohen et al., arXiv:1702.05373).

    The published images are transposed; these are upright.

    Args:
      archive: `gzip.zip`, as in `cifar10`.
      progress: as in `cifar10`.

    Returns:
      "train", 240,000 images, and "test", the official 40,000.

    Raises:
      OSError, ValueError: as `prepare`.
    """
    return _load("emnist_digits", archive, progress)


def svhn(archive: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> dict[str, Arrays]:
    """Reads SVHN: digits of house numbers in colour, cropped to 32x32 pixels (Netzer et al., 2011).

    The published label 10 is the digit 0, and becomes label 0. The "extra" images are left out.

    Args:
      archive: the folder of `train_32x32.mat` and `test_32x32.mat`, as in `cifar10`.
      progress: as in `cifar10`.

    Returns:
      "train", 73,257 images, and "test", the official 26,032.

    Raises:
      OSError, ValueError: as `prepare`.
    """
    return _load("svhn", archive, progress)


def prepare(name: str, archive: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> Path:
    """Prepares a data set in the folder of caches, unless it is there: `jaxcnn data prepare`.

    The archives are downloaded, or read from local files, and compared with their published checksums. Downloads are
    resumed, and removed when the data set is prepared. Several processes may prepare the same data set at once: one of
    them does it.

    Args:
      name: one of `ARCHIVES`.
      archive: a local file, or the folder of the local files, with their published names. None downloads them.
      progress: is told after each part of a download.

    Returns:
      The folder of the prepared data set.

    Raises:
      ValueError: there is no data set of that name, or a file is not the published one.
      FileNotFoundError: a local file is missing.
      DownloadError: a download failed.
      OSError: the disk is full, the folder of caches cannot be written, or another process has been preparing the data
        set for an hour.
    """
    if name not in ARCHIVES:
        raise ValueError(f"expected one of the data sets {', '.join(ARCHIVES)}, got {name!r}")
    folder = _folder(name)
    with _alone(folder):
        try:
            read_prepared(folder)
        except PreparedError:
            write_prepared(folder, _read(name, archive, folder.parent / "downloads" / name, progress))
    return folder


def _folder(name: str) -> Path:
    return cache_folder() / "data" / name


def prepared_folder(name: str) -> Path | None:
    """Finds a prepared data set.

    Args:
      name: one of `ARCHIVES`.

    Returns:
      Its folder; None if it is not prepared.
    """
    folder = _folder(name)
    return folder if folder.is_dir() else None


def _load(
    name: str, archive: str | os.PathLike[str] | None, progress: Progress | None, labels: str = "label"
) -> dict[str, Arrays]:
    folder = prepared_folder(name) or prepare(name, archive, progress=progress)
    prepared = read_prepared(folder)
    names = prepared.class_names[labels]
    return {
        part: Arrays({"image": entries["image"], "label": entries[labels]}, names)
        for part, entries in prepared.parts.items()
    }


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock of a data set."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder.with_name(f"{folder.name}.lock"), patience=_PATIENCE))
        except LockedError as error:
            raise TimeoutError(
                f"expected to prepare {str(folder)!r}, but process {error.holder} has been preparing it for "
                f"{_PATIENCE:g} seconds; wait for it, or stop it"
            ) from None
        yield


def _read(name: str, local: str | os.PathLike[str] | None, downloads: Path, progress: Progress | None) -> Prepared:
    """Reads the archives of a data set: local ones, or downloads, which are removed afterwards."""
    archive = ARCHIVES[name]
    if local is not None:
        return archive.read(_local_files(name, Path(local)))
    downloads.mkdir(parents=True, exist_ok=True)
    paths = {}
    for published in archive.files:
        _LOG.info("downloading %s (%d bytes)", published.url, published.size)
        try:
            paths[published.name] = download(published, downloads, progress)
        except DownloadError as error:
            raise DownloadError(
                f"{error}; or give a local copy, as `jaxcnn data prepare {name} --from PATH`"
            ) from error
    prepared = archive.read(paths)
    for path in paths.values():
        path.unlink()
    return prepared


def _local_files(name: str, local: Path) -> dict[str, Path]:
    files = ARCHIVES[name].files
    if len(files) > 1 and not local.is_dir():
        raise ValueError(
            f"expected the folder of the files {', '.join(file.name for file in files)} of {name}, got {str(local)!r}"
        )
    paths = {file.name: local / file.name if local.is_dir() else local for file in files}
    for file in files:
        check_published(paths[file.name], file)
    return paths


def _labelled(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Checks images and labels."""
    return dict(arrays(image=images, label=labels, class_names=names).entries)


def _read_cifar10(paths: Mapping[str, Path]) -> Prepared:
    [archive] = paths.values()
    files = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    names = read_names(archive, "batches.meta.txt")
    parts = read_cifar(archive, files, labels=1)
    return Prepared(
        {part: _labelled(found["image"], found["labels"][:, 0], names) for part, found in parts.items()},
        {"label": names},
    )


def _read_cifar100(paths: Mapping[str, Path]) -> Prepared:
    [archive] = paths.values()
    names = {kind: read_names(archive, f"{kind}_label_names.txt") for kind in ("coarse", "fine")}
    found = read_cifar(archive, {"train": ["train.bin"], "test": ["test.bin"]}, labels=2)
    parts = {}
    for part, entries in found.items():
        parts[part] = {"image": entries["image"]}
        for column, kind in enumerate(names):
            parts[part][kind] = _labelled(entries["image"], entries["labels"][:, column], names[kind])["label"]
    return Prepared(parts, names)


def _read_mnist(paths: Mapping[str, Path], names: tuple[str, ...] = _DIGITS) -> Prepared:
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        found = []
        for kind, rank in (("images", 3), ("labels", 1)):
            path = paths[f"{prefix}-{kind}-idx{rank}-ubyte.gz"]
            with open(path, "rb") as file:
                found.append(read_idx(file, path.name, rank))
        images, labels = found
        parts[part] = _labelled(images, labels, names)
    return Prepared(parts, {"label": names})


def _read_fashion_mnist(paths: Mapping[str, Path]) -> Prepared:
    return _read_mnist(paths, _FASHION)


def _read_emnist_digits(paths: Mapping[str, Path]) -> Prepared:
    [archive] = paths.values()
    parts = {}
    for part in ("train", "test"):
        found = []
        for kind, rank in (("images", 3), ("labels", 1)):
            name = f"emnist-digits-{part}-{kind}-idx{rank}-ubyte.gz"
            with open_zipped(archive, name) as file:
                found.append(read_idx(file, name, rank))
        images, labels = found
        parts[part] = _labelled(np.ascontiguousarray(images.swapaxes(1, 2)), labels, _DIGITS)
    return Prepared(parts, {"label": _DIGITS})


def _read_svhn(paths: Mapping[str, Path]) -> Prepared:
    parts = {}
    for part in ("train", "test"):
        found = read_matlab(paths[f"{part}_32x32.mat"], ("X", "y"))
        images = np.ascontiguousarray(found["X"].transpose(3, 0, 1, 2))
        labels = found["y"].reshape(-1).astype(np.int32)
        parts[part] = _labelled(images, np.where(labels == 10, 0, labels), _DIGITS)
    return Prepared(parts, {"label": _DIGITS})


def _mnist_files(url: str, *described: tuple[str, int, str]) -> tuple[PublishedFile, ...]:
    return tuple(PublishedFile(f"{url}/{name}-ubyte.gz", size, sha256) for name, size, sha256 in described)


ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        (
            PublishedFile(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        _read_cifar10,
    ),
    "cifar100": Archive(
        (
            PublishedFile(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                168513733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        _read_cifar100,
    ),
    "mnist": Archive(
        _mnist_files(
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            ("train-images-idx3", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            ("train-labels-idx1", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            ("t10k-images-idx3", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            ("t10k-labels-idx1", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        _read_mnist,
    ),
    "fashion_mnist": Archive(
        _mnist_files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            ("train-images-idx3", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            ("train-labels-idx1", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            ("t10k-images-idx3", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            ("t10k-labels-idx1", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
        _read_fashion_mnist,
    ),
    "emnist_digits": Archive(
        (
            PublishedFile(
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                561753746,
                "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
            ),
        ),
        _read_emnist_digits,
    ),
    "svhn": Archive(
        (
            PublishedFile(
                "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                182040794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            PublishedFile(
                "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                64275384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        ),
        _read_svhn,
    ),
}
"""The data sets that can be prepared."""
