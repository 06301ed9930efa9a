"""The race of data loaders: how many images each delivers into a compiled step, in turns.

    workload = photographs(count=512, batch_size=32, folder=folder)
    records = race_loaders(workload, peers=("torch", "grain"))

Every loader crops at random in the way that is usual for it. jaxcnn crops small images in the step.
"""

import dataclasses
import datetime
import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import data
from jaxcnn.benchmark.records import Record
from jaxcnn.benchmark.spread import ratios, spread
from jaxcnn.data import Source
from jaxcnn.data.prefetch import ahead
from jaxcnn.environment import commit, processor, usable_cores

PEERS = ("numpy", "torch", "grain")
"""Loaders to compare with: plain NumPy in one thread and Grain with a thread for each core, which decode files as
jaxcnn does; and torch's DataLoader with Pillow and torchvision's transforms (v2), in a process for each core."""

_PACKAGES = {"torch": "torch torchvision", "grain": "grain"}
"""What to install for peers."""

_PADDING = 4
_CROP = (224, 224)
_PHOTOGRAPH = (375, 500)

Epoch = Callable[[int], int]
"""Delivers the images of an epoch, and returns their number."""


class Workload(NamedTuple):
    """What is loaded.

    Attributes:
      name: for people.
      source: the examples.
      batch_size: images in a batch.
      augment: what jaxcnn does in the compiled step, or None.
      prepare: what it does on the host, or None.
    """

    name: str
    source: Source
    batch_size: int
    augment: Any
    prepare: data.Prepare | None


def small_images(*, count: int = 50_000, batch_size: int = 128) -> Workload:
    """Describes images of 32x32 in memory, to be padded by 4 pixels, cropped and mirrored.

    Args:
      count: number of images.
      batch_size: images in a batch.

    Returns:
      The workload; its pixels are random.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    source = data.arrays(image=images, label=rng.integers(0, 10, count), num_classes=10)
    augment = data.compose(data.Step(data.random_crop, padding=_PADDING), data.Step(data.flip))
    return Workload("images of 32x32 in memory", source, batch_size, augment, None)


def photographs(folder: Path, *, count: int = 512, batch_size: int = 32) -> Workload:
    """Writes JPEG files of 500x375, to be cropped at random and resized to 224x224.

    Args:
      folder: where to write them.
      count: number of files; parts of two photographs that come with scikit-learn.
      batch_size: images in a batch.

    Returns:
      The workload.

    Raises:
      ImportError: scikit-learn or Pillow is not installed.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng, names = np.random.default_rng(0), tuple(f"{number:05}.jpg" for number in range(count))
    whole, (height, width) = load_sample_images().images, _PHOTOGRAPH
    for number, name in enumerate(names):
        picture = whole[number % len(whole)]
        top, left = rng.integers((picture.shape[0] - height + 1, picture.shape[1] - width + 1)).tolist()
        Image.fromarray(picture[top : top + height, left : left + width]).save(folder / name, quality=90)
    source = data.PictureFiles(
        str(folder),
        names,
        {"label": np.arange(count, dtype=np.int32) % 10},
        tuple(map(str, range(10))),
        3,
        np.tile(_PHOTOGRAPH, (count, 1)),
        np.arange(count, dtype=np.uint64),
    )
    return Workload("JPEG files of 500x375 to 224x224", source, batch_size, None, data.RandomResizedCrop(_CROP))


def race_loaders(
    workload: Workload,
    *,
    peers: Sequence[str] = PEERS,
    rounds: int = 7,
    report: Callable[[str], object] = lambda text: None,
) -> list[Record]:
    """Measures loaders in turns.

    Args:
      workload: what they load.
      peers: names of `PEERS`.
      rounds: number of epochs of each loader; one more comes first and does not count.
      report: called with the name of the loader before each epoch.

    Returns:
      A record for each loader, jaxcnn first: "contestant", "status" ("measured"; or "missing" with a "reason"),
      "images_per_second" and "ratio" (the time of jaxcnn divided by that of the loader, round by round) as spreads. For
      files, "decoder" reads, decodes and crops in a thread for each core, and delivers nothing.

    Raises:
      ValueError: a peer is unknown.
    """
    if unknown := sorted(set(peers) - set(PEERS)):
        raise ValueError(f"race_loaders expects peers among {', '.join(PEERS)}, got {', '.join(unknown)}")
    epochs: dict[str, Epoch] = {}
    reasons: dict[str, str] = {}
    for name in ("jaxcnn", *(["decoder"] if workload.prepare else []), *peers):
        try:
            epochs[name] = _MAKERS[name](workload)
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
            is_absent = isinstance(error, ModuleNotFoundError) and name in _PACKAGES
            advice = f"; pip install {_PACKAGES[name]}" if is_absent else ""
            reasons[name] = f"{error}{advice}"
    seconds: dict[str, list[list[float]]] = {name: [] for name in epochs}
    for turn in range(rounds + 1):
        for name, epoch in epochs.items():
            report(f"{workload.name}: {name}, round {turn} of {rounds}")
            started = time.perf_counter()
            images = epoch(turn)
            elapsed = time.perf_counter() - started
            if turn:
                seconds[name].append([elapsed / images])
    common = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "workload": workload.name,
        "batch_size": workload.batch_size,
        "host": {"cpu": processor(), "cores": usable_cores()},
        "commit": commit(),
    }
    measured = [_record(name, seconds) for name in epochs]
    missing = [{"contestant": name, "status": "missing", "reason": reason} for name, reason in reasons.items()]
    return [common | record for record in (*measured, *missing)]


def _record(name: str, seconds: Mapping[str, list[list[float]]]) -> Record:
    rates = [1 / image for (image,) in seconds[name]]
    return {
        "contestant": name,
        "status": "measured",
        "images_per_second": spread(rates).as_dict(),
        "ratio": None if name == "jaxcnn" else spread(ratios(seconds["jaxcnn"], seconds[name])).as_dict(),
    }


@jax.jit
def _step(total: jax.Array, images: jax.Array, number: int) -> jax.Array:
    """Looks at one pixel of each image: what more it did would take time from the loaders."""
    return total + images[:, 0, 0].astype(jnp.float32).sum()


def _delivered(batches: Iterator[Any], step: Callable[[Any, Any, int], Any] = _step) -> int:
    """Runs the step on all batches, and returns the number of images."""
    total, count = jnp.zeros(()), 0
    for number, images in enumerate(batches):
        total, count = step(total, images, number), count + len(images)
    jax.block_until_ready(total)
    return count


def _jaxcnn(workload: Workload) -> Epoch:
    """As `jaxcnn.training.run` loads: on the device where there is room, otherwise ahead in threads."""
    where = data.choose_place([workload.source], prepared=workload.prepare is not None).where
    source = data.put(workload.source, where)
    batches = data.Batches(source, workload.batch_size, seed=0, prepare=workload.prepare)
    prefetch, length = 0 if where == "device" else 2, batches.steps_per_epoch

    @jax.jit
    def step(total: jax.Array, images: jax.Array, number: int) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), len(images))
        return _step(total, jax.vmap(workload.augment)(keys, {"image": data.unit_pixels(images)})["image"], number)

    def epoch(number: int) -> int:
        with closing(ahead(batches.at(range(number * length, (number + 1) * length)), prefetch)) as items:
            return _delivered((batch["image"] for batch in items), _step if workload.augment is None else step)

    return epoch


def _decoder(workload: Workload) -> Epoch:
    source, prepare = workload.source, workload.prepare
    assert isinstance(prepare, data.RandomResizedCrop)

    def epoch(number: int) -> int:
        def decode(index: int) -> None:
            prepare.read(np.random.default_rng((number, index)), source, index)

        with ThreadPoolExecutor(usable_cores()) as pool:
            return len(list(pool.map(decode, range(len(source)))))

    return epoch


def _numpy(workload: Workload) -> Epoch:
    source, size = workload.source, workload.batch_size

    def batches(number: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(number)
        order = rng.permutation(len(source))
        for first in range(0, len(order) - size + 1, size):
            chosen = order[first : first + size].tolist()
            if workload.prepare is None:
                yield _cropped(data.gather(source, np.array(chosen), ["image"])["image"], rng)
            else:
                yield np.stack([_example(source, workload.prepare, index, rng) for index in chosen])

    return lambda number: _delivered(batches(number))


def _cropped(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crops and mirrors a batch by views of the padded images, the fastest way in NumPy."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
    tops, lefts = rng.integers(0, 2 * _PADDING + 1, (2, count)).tolist()
    for image, whole, top, left, mirrored in zip(images, padded, tops, lefts, rng.random(count) < 0.5, strict=True):
        part = whole[top : top + height, left : left + width]
        image[...] = part[:, ::-1] if mirrored else part
    return images


def _example(source: Source, prepare: data.Prepare | None, index: int, rng: np.random.Generator) -> np.ndarray:
    """Reads and crops one example."""
    if prepare is None:
        return _cropped(source[index]["image"][None].copy(), rng)[0]
    return prepare(rng, source[index])["image"]


def _grain(workload: Workload) -> Epoch:
    import grain  # pyright: ignore[reportMissingImports]

    def read(index: int, rng: np.random.Generator) -> np.ndarray:
        return _example(workload.source, workload.prepare, index, rng)

    def batches(number: int) -> Iterator[np.ndarray]:
        examples = grain.MapDataset.range(len(workload.source)).seed(number).shuffle().random_map(read)
        threads = usable_cores()
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        return iter(examples.batch(workload.batch_size, drop_remainder=True).to_iter_dataset(options))

    return lambda number: _delivered(batches(number))


@dataclasses.dataclass(frozen=True)
class TorchExamples:
    """What torch's DataLoader reads, in processes that import this module.

    Args:
      source: the examples: picture files, which are cropped at random to `_CROP`, or images, padded and cropped.
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.source, data.PictureFiles):
            return _torch_transform(is_file=True)(_opened(self.source.path(index))).permute(1, 2, 0)
        # A copy: torch warns of arrays that cannot be written.
        return _torch_transform(is_file=False)(self.source[index]["image"].copy()).permute(1, 2, 0)


def _opened(path: str) -> Any:
    """Decodes a file as torchvision's `ImageFolder` does."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def import_torchvision() -> Any:
    """Imports torchvision, also beside a build of torch that its compiled operators do not fit.

    PyPI's wheel of torchvision does not fit a build of torch for CPU. torchvision does without its operators, but when
    it is imported it registers the shapes of two, which then do not exist. They are declared here, without an
    implementation; transforms do not call them.

    Returns:
      The module.

    Raises:
      ImportError: torch or torchvision is not installed.
      RuntimeError: torchvision cannot be imported for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    import torch  # pyright: ignore[reportMissingImports]

    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


@functools.cache
def _torch_transform(*, is_file: bool) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    import_torchvision()
    from torchvision.transforms import v2  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    if is_file:
        return v2.Compose([v2.RandomResizedCrop(_CROP), v2.PILToTensor()])
    return v2.Compose([v2.ToImage(), v2.RandomCrop(32, padding=_PADDING), v2.RandomHorizontalFlip()])


def _torch(workload: Workload) -> Epoch:
    from torch.utils.data import DataLoader  # pyright: ignore[reportMissingImports]

    import_torchvision()  # before the processes need it

    loader = DataLoader(
        TorchExamples(workload.source),  # pyright: ignore[reportArgumentType]
        workload.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=usable_cores(),
        persistent_workers=True,
        # JAX has threads, which a fork would not copy.
        multiprocessing_context="spawn",
    )
    return lambda number: _delivered(batch.numpy() for batch in loader)


_MAKERS: dict[str, Callable[[Workload], Epoch]] = {
    "jaxcnn": _jaxcnn,
    "decoder": _decoder,
    "numpy": _numpy,
    "torch": _torch,
    "grain": _grain,
}
