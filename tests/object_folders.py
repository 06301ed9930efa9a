"""Folders of pictures with objects, as tests write them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, height: int, width: int, seed: int = 0, orientation: int = 1) -> None:
    """Writes a picture of noise, whose EXIF orientation turns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def coco_content(counts=(3, 0, 5, 1), seed=0, categories=((7, "dog"), (2, "cat"), (90, "bird"))):
    """Makes annotations of COCO: polygons, and crowds as run lengths; the second category is also the smallest id."""
    rng = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": [{"id": key, "name": name} for key, name in categories]}
    number = 11
    for index, count in enumerate(counts):
        height, width = (int(side) for side in rng.integers(40, 70, 2))
        key = 100 + 7 * index
        content["images"].append({"id": key, "file_name": f"{key}.png", "height": height, "width": width})
        for place in range(count):
            x, y = rng.uniform(0, width - 20), rng.uniform(0, height - 20)
            w, h = rng.uniform(5, 19, 2)
            crowd = place % 3 == 2
            polygon = [x, y, x + w, y, x + w, y + h, x + w / 2, y + h / 2, x, y + h]
            mask = np.zeros((height, width), np.uint8)
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": key,
                    "category_id": categories[int(rng.integers(len(categories)))][0],
                    "bbox": [round(float(v), 2) for v in (x, y, w, h)],
                    "area": round(float(w * h * 3 / 4), 2),
                    "iscrowd": int(crowd),
                    "segmentation": run_lengths(mask) if crowd else [[round(float(v), 2) for v in polygon]],
                }
            )
            number += 3
    return content


def run_lengths(mask):
    """Counts runs of zeros and ones by columns, the first of zeros."""
    values = np.concatenate([[0], mask.ravel(order="F"), [-1]])
    places = np.flatnonzero(np.diff(values)) + 1
    runs = np.diff(np.concatenate([[0], places - 1, []])).astype(int).tolist()
    return {"size": list(mask.shape), "counts": runs}


def write_coco(root: Path, part: str, content, pictures=True) -> Path:
    """Writes annotations and pictures as COCO lays them out."""
    file = root / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    for entry in content["images"] if pictures else ():
        write_picture(root / part / entry["file_name"], entry["height"], entry["width"], entry["id"])
    return file
