import numpy as np
import pytest

from jaxcnn.plots import augmented
from jaxcnn.plots.figures import class_colour

GREY = {"image": np.full((6, 8, 1), 0.5, np.float32)}


def test_every_example_has_a_picture_of_its_shape_and_title():
    small = {"image": np.zeros((3, 3, 3), np.float32)}
    figure = augmented([[GREY, GREY, small], [small, GREY, GREY]], ["one", "a name of more than 18 letters"])
    assert len(figure.axes) == 6
    for axes, shape in zip(figure.axes, [(6, 8), (6, 8), (3, 3), (3, 3), (6, 8), (6, 8)], strict=True):
        assert axes.get_images()[0].get_array().shape == (*shape, 3)
        size = axes.get_window_extent()
        assert abs(size.height / size.width - shape[0] / shape[1]) < 0.01
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["one", "", "", "a name of… letters", "", ""]


def test_masks_and_boxes_are_drawn_in_the_colours_of_their_classes():
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:5] = 1
    mask[5] = 255
    boxes = np.array([[3, 2, 5, 4], [0, 0, 0, 0]], np.float32)
    example = GREY | {"mask": mask, "boxes": boxes, "valid": np.array([True, False]), "classes": np.array([2, 0])}
    [axes] = augmented([[example]], ignore_index=255).axes
    pixels = np.asarray(axes.get_images()[0].get_array())
    np.testing.assert_allclose(pixels[3, 4], 0.3 + 0.4 * np.array(class_colour(1)), atol=1e-6)
    np.testing.assert_allclose(pixels[0, 0], 0.3 + 0.4 * np.array(class_colour(0)), atol=1e-6)
    np.testing.assert_allclose(pixels[5, 0], 0.7, atol=1e-6)
    [frame] = axes.patches
    assert frame.get_bbox().extents.tolist() == [2.5, 1.5, 4.5, 3.5]
    assert frame.get_edgecolor()[:3] == class_colour(2)


def test_masks_of_objects_are_drawn_in_the_colours_of_their_classes():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 2:4, 3:5] = masks[1] = True
    boxes = np.array([[3, 2, 5, 4], [0, 0, 8, 6]], np.float32)
    example = GREY | {"masks": masks, "boxes": boxes, "valid": np.array([True, False]), "classes": np.array([2, 0])}
    [axes] = augmented([[example]]).axes
    pixels = np.asarray(axes.get_images()[0].get_array())
    np.testing.assert_allclose(pixels[3, 4], 0.3 + 0.4 * np.array(class_colour(2)), atol=1e-6)
    np.testing.assert_allclose(pixels[0, 0], 0.5, atol=1e-6)
    assert len(axes.patches) == 1


@pytest.mark.parametrize(
    ("rows", "titles", "error", "message"),
    [
        ([], [], ValueError, r"rows of the same number of examples, at least 1, got \[\]"),
        ([[]], [], ValueError, r"rows of the same number of examples, at least 1, got \[0\]"),
        ([[GREY], [GREY, GREY]], [], ValueError, r"rows of the same number of examples, at least 1, got \[1, 2\]"),
        ([[GREY]], ["a", "b"], ValueError, "augmented expects a title for each of the 1 rows, got 2"),
        ([[{"image": np.zeros((4, 4, 1), np.uint8)}]], [], TypeError, "images must be floating point"),
        ([[{"image": np.full((4, 4, 1), 2.0)}]], [], ValueError, r"images must be in \[0, 1\]"),
    ],
)
def test_nonsense_is_refused(rows, titles, error, message):
    with pytest.raises(error, match=message):
        augmented(rows, titles)
