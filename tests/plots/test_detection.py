import numpy as np
import pytest

from jaxcnn.plots import detections
from jaxcnn.plots.figures import class_colour

IMAGE = np.full((30, 60, 1), 0.5, np.float32)
FOUND = {
    "boxes": np.array([[3, 12, 13, 22], [40, 10, 60, 30], [0, 0, 9, 9], [1, 1, 2, 2]], np.float32),
    "classes": np.array([2, 0, 1, 1]),
    "scores": np.array([0.9, 0.5, 0.24, 0.8], np.float32),
    "valid": np.array([True, True, True, False]),
}
NAMES = ["ant", "bee $", "a name of more than 18 letters"]


def test_objects_have_a_frame_and_a_label_in_the_colour_of_their_class():
    figure = detections([IMAGE], [FOUND], NAMES, subtitle="street.jpg")
    [axes] = figure.axes
    assert np.asarray(axes.get_images()[0].get_array()).shape == (30, 60, 3)
    size = axes.get_window_extent()
    assert abs(size.width / size.height - 2) < 0.01
    frames = {tuple(frame.get_bbox().extents): frame.get_edgecolor()[:3] for frame in axes.patches}
    assert frames == {(2.5, 11.5, 12.5, 21.5): class_colour(2), (39.5, 9.5, 59.5, 29.5): class_colour(0)}
    labels = {
        text.get_text(): (text.xy, text.get_ha(), text.get_bbox_patch().get_facecolor()[:3]) for text in axes.texts
    }
    assert labels == {
        "a name of… letters 0.90": ((2.5, 11.5), "left", class_colour(2)),
        "ant 0.50": ((59.5, 9.5), "right", class_colour(0)),
    }
    assert [text.get_text() for text in figure.texts] == [
        "2 objects detected",
        "street.jpg",
        "scores of at least 0.25",
    ]


def test_annotated_objects_stand_on_the_left():
    truth = {"boxes": np.array([[0, 0, 9, 9]]), "classes": np.array([1])}
    figure = detections([IMAGE, IMAGE[:, :20]], [FOUND, FOUND], NAMES, objects=[truth, truth], score=0.8, limit=1)
    left, right = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["truth", "prediction"]
    assert [text.get_text() for text in left.texts] == ["bee $"]
    assert [text.get_text() for text in right.texts] == ["a name of… letters 0.90"]
    assert [text.get_text() for text in figure.texts] == [
        "1 object detected, 1 annotated",
        "1 of 2 images, scores of at least 0.8",
    ]


def test_classes_without_names_are_numbers():
    [axes] = detections([IMAGE], [FOUND]).axes
    assert [text.get_text() for text in axes.texts] == ["0 0.50", "2 0.90"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], []), {}, "images, at least 1, and as many predictions, got 0 and 0"),
        (([IMAGE], [FOUND, FOUND]), {}, "images, at least 1, and as many predictions, got 1 and 2"),
        (([IMAGE], [FOUND]), {"objects": []}, "images, at least 1, and as many objects, got 1 and 0"),
        (([IMAGE], [FOUND]), {"limit": 0}, "limit must be at least 1, got 0"),
        (([IMAGE], [FOUND], ["a", "b"]), {}, r"classes in \[0, 2\), got 2; name all classes"),
        (([2 * IMAGE + 1], [FOUND]), {}, r"images must be in \[0, 1\]"),
    ],
)
def test_nonsense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        detections(*arguments, **options)
