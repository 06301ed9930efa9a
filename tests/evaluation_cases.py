"""Annotations and detections in COCO's format, drawn at random."""

import numpy as np


def random_case(seed, images=25, classes=3, crowds=True, most=9):
    """Draws annotations and results: near and far detections, ties of scores, crowds, images without either."""
    rng = np.random.default_rng(seed)
    keys = [3, 8, 20, 21][:classes]
    content = {"images": [], "annotations": [], "categories": [{"id": key, "name": f"class {key}"} for key in keys]}
    results = []
    for image in range(images):
        content["images"].append({"id": 10 + 3 * image, "height": 240, "width": 320})
        for _ in range(int(rng.integers(0, most))):
            box = [*rng.uniform(0, 150, 2), *rng.uniform(4, 140, 2)]
            number = int(rng.choice(keys))
            crowd = int(crowds and rng.uniform() < 0.15)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 10 + 3 * image,
                    "category_id": number,
                    "bbox": box,
                    # Smaller than the box, so that ranges of sizes tell which of them counts.
                    "area": box[2] * box[3] * rng.uniform(0.3, 1),
                    "iscrowd": crowd,
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                near = np.array(box) + rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
                results.append(
                    detection(rng, 10 + 3 * image, number if rng.uniform() < 0.8 else rng.choice(keys), near)
                )
        for _ in range(int(rng.integers(0, 4))):
            box = [*rng.uniform(0, 150, 2), *rng.uniform(4, 140, 2)]
            results.append(detection(rng, 10 + 3 * image, rng.choice(keys), box))
    return content, results


def detection(rng, image, category, box):
    box = np.maximum(box, [0, 0, 1, 1]).tolist()
    # One digit: many scores are equal.
    return {"image_id": image, "category_id": int(category), "bbox": box, "score": float(rng.integers(1, 10) / 10)}


def corners(box):
    x, y, width, height = box
    return x, y, x + width, y + height


def overlap(one, other):
    """Computes the intersection over union of two boxes (x, y, width, height)."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = corners(one), corners(other)
    shared = max(min(a1, c1) - max(a0, c0), 0) * max(min(b1, d1) - max(b0, d0), 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
