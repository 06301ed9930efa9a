"""The accuracy of a threshold on `jaxcnn.data.shapes`, as a baseline for segmenters.

Otsu's threshold on the luma divides the pixels of each test image in two; the smaller part is the foreground, which
gets the most frequent class of the training masks. Writes experiments/results/shapes_baseline.json.

    python experiments/shapes_baseline.py
"""

import numpy as np
from reports import write_report

from jaxcnn import data


def otsu_threshold(grey: np.ndarray) -> int:
    """Finds the threshold with the largest variance between the two sides (Otsu 1979, equation 18).

    Args:
      grey: uint8, any shape.

    Returns:
      The largest value of the darker side.
    """
    histogram = np.bincount(grey.ravel(), minlength=256) / grey.size
    weight = np.cumsum(histogram)
    mean = np.cumsum(histogram * np.arange(256))
    spread = weight * (1 - weight)
    between = np.divide((mean[-1] * weight - mean) ** 2, spread, out=np.zeros(256), where=spread > 0)
    return int(np.argmax(between))


def threshold_masks(images: np.ndarray, digit_class: int) -> np.ndarray:
    """Segments each image by its own threshold.

    Args:
      images: uint8, shape (n, height, width, 3).
      digit_class: class of the foreground.

    Returns:
      Masks, uint8, shape (n, height, width).
    """
    masks = np.zeros(images.shape[:3], np.uint8)
    # ITU-R 601-2 luma in integers.
    for mask, grey in zip(masks, images.astype(np.int64) @ np.array([299, 587, 114]) // 1000, strict=True):
        bright = grey > otsu_threshold(grey)
        mask[bright if bright.mean() < 0.5 else ~bright] = digit_class
    return masks


def iou_by_class(masks: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes intersection over union of each class, over all pixels of all images.

    Args:
      masks: class of each pixel.
      predicted: predicted class of each pixel, same shape.
      num_classes: number of classes.

    Returns:
      Shape (num_classes,).
    """
    pairs = masks.astype(np.int64) * num_classes + predicted
    confusion = np.bincount(pairs.ravel(), minlength=num_classes**2).reshape(num_classes, num_classes)
    both = np.diag(confusion)
    return both / (confusion.sum(0) + confusion.sum(1) - both)


def main() -> None:
    """Measures the baseline on the test part, prints it and writes the results."""
    splits = data.shapes()
    num_classes = len(splits["train"].class_names)
    frequent = 1 + int(np.argmax(np.bincount(splits["train"].entries["mask"].ravel(), minlength=num_classes)[1:]))
    masks = splits["test"].entries["mask"]
    predicted = threshold_masks(splits["test"].entries["image"], frequent)
    ious = iou_by_class(masks, predicted, num_classes)
    foreground = iou_by_class(masks > 0, predicted > 0, 2)
    results = {
        "test_images": len(masks),
        "miou": round(float(ious.mean()), 4),
        "iou_by_class": dict(zip(splits["test"].class_names, ious.round(4).tolist(), strict=True)),
        "foreground_iou": round(float(foreground[1]), 4),
        "pixel_accuracy": round(float(np.mean(masks == predicted)), 4),
    }
    write_report(__file__, results)
    print(f"mIoU {results['miou']:.3f}, IoU of all digits as one class {results['foreground_iou']:.3f}")


if __name__ == "__main__":
    main()
