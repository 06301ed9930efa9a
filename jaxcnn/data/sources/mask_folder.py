"""Pictures with masks, in folders of PNG files."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.data.pictures import (
    PictureError,
    picture_size,
    read_mask,
    read_picture,
    resize_mask,
    resize_picture,
)
from jaxcnn.data.sources.faults import LISTED, refuse_faults
from jaxcnn.data.sources.parts import part_folders
from jaxcnn.data.sources.source import IGNORED, ArraySpec, checksum, file_sample
from jaxcnn.ops.check import Size, as_pair


class Pair(NamedTuple):
    """A picture and its mask."""

    image: Path
    mask: Path


@dataclasses.dataclass(frozen=True, eq=False)
class MaskFolder:
    """A source of pictures and masks in files; `mask_folder` builds and checks it.

    Args:
      pairs: the files, in the order of the examples.
      class_names: one name for each class; value k of a mask means `class_names[k]`.
      size: (height, width) of the examples.
      channels: 1 or 3.
    """

    pairs: tuple[Pair, ...]
    class_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of "image" and "mask"."""
        return {
            "image": ArraySpec((*self.size, self.channels), np.dtype(np.uint8)),
            "mask": ArraySpec(self.size, np.dtype(np.uint8)),
        }

    @property
    def fingerprint(self) -> str:
        """A checksum of the names, sizes, beginnings and ends of the files.

        The pixel data of a PNG file end with their checksum, so the fingerprint changes with the pixels.
        """
        files = (part for pair in self.pairs for path in pair for part in (path.stem, file_sample(path)))
        return checksum(*files, *self.class_names, repr((self.size, self.channels)))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one picture and its mask.

        Args:
          index: of the pair.

        Returns:
          "image", uint8, shape (*size, channels), and "mask", uint8, shape `size`.

        Raises:
          PictureError: a file cannot be read.
          ValueError: the picture and the mask differ in size.
        """
        pair = self.pairs[index]
        image, mask = read_picture(pair.image, self.channels), read_mask(pair.mask)
        if image.shape[:2] != mask.shape:
            raise ValueError(_unequal(pair, image.shape[:2], mask.shape))
        if mask.shape != self.size:
            image, mask = resize_picture(image, self.size), resize_mask(mask, self.size)
        return {"image": image, "mask": mask}


def mask_folder(path: str | os.PathLike[str], *, size: Size | None = None, channels: int = 3) -> dict[str, MaskFolder]:
    """Reads pictures and masks from folders of PNG files.

        path/images/one.png   path/masks/one.png
        path/classes.txt      one name for each class, in the order of the values; optional

    Or the folders `images` and `masks` are in `path/train`, and optionally in `path/val` (or `valid`, `validation`) and
    `path/test`. A mask holds class indices, as a palette or as 8 bits of grey; 255 is no class. All headers and masks
    are read once, and one error lists the faults of all files. Hidden files are ignored.

    Args:
      path: the folder.
      size: size of the examples. Pictures are resized bilinearly with antialias, masks by the nearest pixel; the aspect
        ratio is not kept. None: the pictures must have one size.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.

    Returns:
      The existing parts by name: "train", and "validation" and "test"; only "train" without folders of parts. `split`
      draws the missing ones.

    Raises:
      FileNotFoundError: there is no such folder, or it lacks `images` or `masks`.
      ValueError: a file has no partner or cannot be read, sizes differ, or a value of a mask is out of range. The
        message names the first few.
      ImportError: Pillow is not installed.
    """
    root = Path(path)
    if channels not in (1, 3):
        raise ValueError(f"mask_folder expects 1 or 3 channels, got {channels}")
    wanted = None if size is None else as_pair("size", size)
    faults: list[str] = []
    parts = {name: _pairs(folder, faults) for name, folder in _part_folders(root).items()}
    scanned = [_scan(pair, faults) for pairs in parts.values() for pair in pairs]
    refuse_faults(root, faults, "a picture and a mask of the same name and size for each example")
    sizes = {pair_size: pair for pair, pair_size, _ in scanned}
    if wanted is None and len(sizes) > 1:
        listed = [f"{pair.image} is {height}x{width}" for (height, width), pair in sizes.items()]
        refuse_faults(root, listed, "pictures of one size, or a size for all of them, as mask_folder(path, size=256)")
    class_names = _class_names(root, scanned)
    example_size = wanted or next(iter(sizes))
    return {name: MaskFolder(tuple(pairs), class_names, example_size, channels) for name, pairs in parts.items()}


class _Scanned(NamedTuple):
    """A pair, its size and the values of its mask."""

    pair: Pair
    size: tuple[int, int]
    values: frozenset[int]


def _part_folders(root: Path) -> dict[str, Path]:
    """Returns the folders that hold `images` and `masks`, by the name of the part."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {str(root)!r}; expected one with the folders 'images' and 'masks'")
    if (root / "images").is_dir() or (root / "masks").is_dir():
        return {"train": root}
    parts = part_folders(root)
    if not parts:
        raise FileNotFoundError(
            f"expected the folders 'images' and 'masks' in {str(root)!r}, or 'train' with these in it, and 'val' and "
            f"'test' if there are such parts; got {sorted(entry.name for entry in root.iterdir())[:10]}"
        )
    return parts


def _pairs(folder: Path, faults: list[str]) -> list[Pair]:
    """Returns the pairs of a folder, sorted by name, and notes files without a partner."""
    files = {}
    for kind in ("images", "masks"):
        if not (folder / kind).is_dir():
            raise FileNotFoundError(f"expected the folders 'images' and 'masks' in {str(folder)!r}, got no {kind!r}")
        entries = sorted(entry for entry in (folder / kind).iterdir() if not entry.name.startswith("."))
        if not entries:
            raise ValueError(f"expected PNG files in {str(folder / kind)!r}, got an empty folder")
        files[kind] = {entry.stem: entry for entry in entries if entry.suffix.lower() == ".png"}
        faults += [f"{entry} is no .png file" for entry in entries if entry not in files[kind].values()]
    images, masks = files["images"], files["masks"]
    faults += [f"{images[stem]} has no mask {folder / 'masks' / stem}.png" for stem in images if stem not in masks]
    faults += [f"{masks[stem]} has no picture {folder / 'images' / stem}.png" for stem in masks if stem not in images]
    return [Pair(images[stem], masks[stem]) for stem in images if stem in masks]


def _scan(pair: Pair, faults: list[str]) -> _Scanned:
    """Reads the size of a picture, and its mask, and notes their faults."""
    try:
        size, mask = picture_size(pair.image), read_mask(pair.mask)
    except PictureError as error:
        faults.append(str(error))
        return _Scanned(pair, (0, 0), frozenset())
    if size != mask.shape:
        faults.append(_unequal(pair, size, mask.shape))
    return _Scanned(pair, size, frozenset(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()))


def _unequal(pair: Pair, image: Sequence[int], mask: Sequence[int]) -> str:
    return f"{pair.image} is {image[0]}x{image[1]}, but its mask {pair.mask} is {mask[0]}x{mask[1]}"


def _class_names(root: Path, scanned: list[_Scanned]) -> tuple[str, ...]:
    """Reads the names of the classes, or numbers the classes of the masks, and refuses values out of range."""
    listed = root / "classes.txt"
    present = sorted(frozenset().union(*(values for _, _, values in scanned)) - {IGNORED})
    if listed.is_file():
        names = tuple(line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())
        if len(set(names)) != len(names) or not 0 < len(names) <= IGNORED:
            raise ValueError(f"expected 1 to {IGNORED} different names in {str(listed)!r}, got {len(names)}")
    else:
        names = tuple(map(str, range(len(present))))
    outside = {pair: sorted(v for v in values - {IGNORED} if v >= len(names)) for pair, _, values in scanned}
    faults = [f"{pair.mask} has the values {values[:LISTED]}" for pair, values in outside.items() if values]
    expected = (
        f"masks of the {len(names)} classes in classes.txt, so values from 0 to {len(names) - 1}, or {IGNORED} for none"
        if listed.is_file()
        else f"masks that use every value from 0 to {len(names) - 1}, or {IGNORED} for none; add a classes.txt with a "
        "name for each class, or number them without gaps"
    )
    refuse_faults(root, faults, expected)
    if len(present) < 2:
        # Masks of two classes are often written in black and white, for the eye.
        is_white = present == [0] and any(IGNORED in values for _, _, values in scanned)
        advice = (
            f"masks of black and white need 1 in place of {IGNORED}: Image.fromarray(np.asarray(mask) // {IGNORED})"
            if is_white
            else "number the classes from 0, the background included"
        )
        raise ValueError(
            f"expected masks of at least two classes in {str(root)!r}, got only the values {present}, and {IGNORED} "
            f"is no class; {advice}"
        )
    return names
