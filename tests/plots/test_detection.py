import numpy as np
import pytest

from jaxcnn.evaluation import detection_mistakes
from jaxcnn.plots import detection_confusion, detections, precision_recall
from jaxcnn.plots import detection_mistakes as draw_mistakes
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


def test_masks_lie_over_the_image_in_the_colour_of_their_class_the_best_on_top():
    masks = np.zeros((4, 30, 60), bool)
    masks[0, :20, :20] = masks[1, 10:, 10:] = masks[2:] = True
    [axes] = detections([IMAGE], [{**FOUND, "masks": masks}], NAMES).axes
    pixels = np.asarray(axes.get_images()[0].get_array())
    expected = np.full((30, 60, 3), 0.5)
    expected[10:, 10:] = 0.3 + 0.4 * np.array(class_colour(0))
    expected[:20, :20] = 0.3 + 0.4 * np.array(class_colour(2))
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    truth = {"boxes": np.zeros((1, 4)), "classes": np.array([1]), "masks": masks[2:3]}
    left, right = detections([IMAGE], [FOUND], NAMES, objects=[truth]).axes
    pixels = np.asarray(left.get_images()[0].get_array())
    np.testing.assert_allclose(pixels, 0.3 + 0.4 * np.array(class_colour(1)) + np.zeros((30, 60, 3)), atol=1e-6)
    np.testing.assert_allclose(np.asarray(right.get_images()[0].get_array()), 0.5)


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
        (
            ([IMAGE], [{**FOUND, "masks": np.zeros((4, 28, 28), bool)}]),
            {},
            r"expected masks \(slots, height, width\) of \(4, 30, 60\), as .* got \(4, 28, 28\); .* paste_masks",
        ),
    ],
)
def test_nonsense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        detections(*arguments, **options)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_mistakes_have_labels_and_what_is_right_a_thin_frame():
    content = {
        "images": [{"id": 5}, {"id": 6}, {"id": 7}],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, "bbox": box}
            for k, (image, category, box) in enumerate(
                [(5, 1, [0, 0, 9, 9]), (6, 1, [0, 0, 9, 9]), (6, 2, [20, 0, 9, 9]), (7, 2, [40, 0, 9, 9])]
            )
        ],
    }
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in [
            (5, 1, [0, 0, 9, 9], 0.9),
            (6, 1, [0, 0, 9, 9], 0.8),
            (6, 1, [40, 20, 9, 9], 0.7),
            (7, 1, [40, 0, 9, 9], 0.6),
        ]
    ]
    found, read = detection_mistakes(content, results), []
    figure = draw_mistakes(lambda place: read.append(place) or IMAGE, found, ["ant", "bee"], count=3, subtitle="a run")
    assert read == [1, 2]
    left, right, below_left, below_right = figure.axes
    assert (texts(left), texts(right)) == (["bee missed"], ["ant 0.70 spurious"])
    assert (texts(below_left), texts(below_right)) == ([], ["ant 0.60 wrong class"])
    assert [frame.get_linewidth() for frame in left.patches] == [0.7, 1.5]
    assert [text.get_text() for text in figure.texts] == [
        "2 of 2 images with mistakes, the worst first",
        "a run",
        "1 missed, 1 spurious, 1 of a wrong class in 3 images",
    ]
    only = draw_mistakes(lambda place: IMAGE, found, ["ant", "bee"], count=3, limit=1)
    assert only.texts[0].get_text() == "1 of 2 images with mistakes"
    none = draw_mistakes(lambda place: IMAGE, [], ["ant"], count=3)
    assert [text.get_text() for text in none.texts] == ["No mistakes", "3 images, all objects found"]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        draw_mistakes(lambda place: IMAGE, found, ["ant", "bee"], count=3, limit=0)


def test_curves_hold_the_precisions_of_the_classes_with_objects():
    precisions = np.linspace(1, 0, 101)[None] * np.array([[0.5], [1.0], [np.nan]])
    figure = precision_recall(precisions, [0.25, 0.5, np.nan], ["ant", "bee $", "cat"], subtitle="a run")
    [axes] = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines) == ["bee $  50.0", "ant  25.0", "mean  37.5"]
    np.testing.assert_allclose(lines["ant  25.0"], np.linspace(50, 0, 101))
    np.testing.assert_allclose(lines["mean  37.5"], np.linspace(75, 0, 101))
    assert [text.get_text() for text in figure.texts] == ["AP50 37.5 %", "a run", "overlap of at least 0.5, 2 classes"]


def test_many_curves_are_grey_without_names():
    [axes] = precision_recall(np.ones((11, 101)), np.ones(11), [str(k) for k in range(11)]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean  100.0"]


@pytest.mark.parametrize(
    ("precisions", "averages", "message"),
    [
        (np.ones((2, 101)), [1, 1, 1], r"precisions \(2, 101\) and averages \(2,\), got \(2, 101\) and \(3,\)"),
        (np.ones((2, 100)), [1, 1], r"got \(2, 100\) and \(2,\)"),
        (np.full((2, 101), np.nan), [np.nan, np.nan], "expects a class with objects, got none"),
    ],
)
def test_precisions_that_do_not_fit_are_refused(precisions, averages, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(precisions, averages, ["ant", "bee"])


def test_the_confusion_of_a_detector_has_what_is_missed_and_spurious():
    figure = detection_confusion([[3, 1, 4], [0, 2, 0], [1, 5, 0]], ["ant", "bee"], subtitle="a run")
    axes = figure.axes[0]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "3", (1, 0): "1", (2, 0): "4", (1, 1): "2", (0, 2): "1", (1, 2): "5"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "none"]
    recalls = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
    assert recalls == ["37.5", "100.0", "n/a"]
    heading = [text.get_text() for text in figure.texts]
    assert heading[:2] == ["5 of 10 objects found", "a run"]
    assert heading[2].startswith("4 missed, 1 of a wrong class, 6 spurious; scores of at least 0.25")
    with pytest.raises(ValueError, match=r"expected counts of shape \(3, 3\), got \(2, 2\)"):
        detection_confusion([[1, 0], [0, 1]], ["ant", "bee"])
