import os
import subprocess
import sys
from itertools import combinations, pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.metrics import confusion_matrix, recall_score

from jaxcnn.inspection.figures import (
    confusion_figure,
    curves_figure,
    mistakes_figure,
    plot_confusion,
    plot_curves,
    plot_mistakes,
)

LONG_NAMES = [f"a class with the long name {k}" for k in range(10)]


def epoch_row(epoch, loss=1.0, accuracy=0.5, **other):
    row = {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy}
    return row | {"validation_loss": loss, "validation_accuracy": accuracy} | other


def run_of(epochs):
    """A typical run: the loss falls by two decades, the accuracy rises from 20 % to 98 %."""
    progress = np.linspace(0, 1, epochs)
    return [
        {
            "epoch": 1 + place,
            "train_loss": 2.0 * 100**-part,
            "train_accuracy": 0.95 - 0.7 * np.exp(-8 * part),
            "validation_loss": 1.8 * 60**-part,
            "validation_accuracy": 0.98 - 0.78 * np.exp(-6 * part),
            "learning_rate": 0.1,
        }
        for place, part in enumerate(progress)
    ]


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def heading(figure):
    return [text.get_text() for text in figure.texts]


def curve(axes, name):
    """The line of a curve, found by the colour of the text that names it."""
    (label,) = [text for text in axes.texts if text.get_text() == name]
    return next(line for line in axes.lines if line.get_color() == label.get_color())


def cell_texts(figure):
    return {(round(y), round(x)): text.get_text() for text in figure.axes[0].texts for x, y in [text.get_position()]}


def recalls(figure):
    (right,) = figure.axes[0].child_axes
    return [label.get_text() for label in right.get_yticklabels()]


def mistakes_of(count, classes=3, channels=1, seed=0):
    """Images that are all classified wrongly, each of one grey value that tells it from the others."""
    rng = np.random.default_rng(seed)
    images = np.broadcast_to(np.linspace(0, 1, count)[:, None, None, None], (count, 6, 5, channels))
    labels = rng.integers(0, classes, count)
    predictions = (labels + rng.integers(1, classes, count)) % classes
    return images, labels, predictions, rng.dirichlet(np.ones(classes), count), [f"c{k}" for k in range(classes)]


FIGURES = {
    "a run": lambda: curves_figure(run_of(40), best_epoch=38, train_note="measured on augmented images"),
    "a best first epoch": lambda: curves_figure(run_of(40), best_epoch=1),
    "one epoch": lambda: curves_figure(run_of(1), best_epoch=1),
    "equal curves": lambda: curves_figure([epoch_row(1), epoch_row(2)], best_epoch=2),
    "a collapse": lambda: curves_figure([*run_of(40), epoch_row(41, 9.0, 0.1)], best_epoch=40),
    "two classes": lambda: confusion_figure([0, 0, 1], [0, 1, 1], ["negative", "positive"]),
    "one error in a million": lambda: confusion_figure([0] * 999_999 + [1], [0] * 1_000_000, ["a", "b"]),
    "long names": lambda: confusion_figure(range(10), range(10), LONG_NAMES),
    "25 classes": lambda: confusion_figure(
        np.arange(25_000) % 25, np.arange(25_000) // 7 % 25, list(map(str, range(25)))
    ),
    "a mistake": lambda: mistakes_figure(*mistakes_of(1)),
    "25 mistakes": lambda: mistakes_figure(*mistakes_of(25)),
    "mistakes with long names": lambda: mistakes_figure(*mistakes_of(7, 10)[:4], LONG_NAMES),
    "no mistake": lambda: mistakes_figure(np.zeros((1, 2, 2, 1)), [0], [0], [[1.0]], ["a"]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_nothing_overlaps(name):
    figure = drawn(FIGURES[name]())
    everything = figure.get_tightbbox()
    assert everything.x0 >= 0
    assert everything.y0 >= 0
    assert everything.x1 <= figure.get_figwidth()
    assert everything.y1 <= figure.get_figheight()

    blocks = [*(text.get_window_extent() for text in figure.texts), *(axes.get_tightbbox() for axes in figure.axes)]
    for axes in figure.axes:
        blocks_of_axes = [text.get_window_extent() for text in axes.texts]
        blocks_of_axes += [label.get_window_extent() for label in axes.get_xticklabels() if axes.images]
        assert not any(one.overlaps(other) for one, other in combinations(blocks_of_axes, 2))
    assert not any(one.overlaps(other) for one, other in combinations(blocks, 2))


def test_curves_hold_the_history_with_accuracies_in_percent():
    history = run_of(20)
    loss, accuracy = curves_figure(history).axes
    for axes, quantity, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for name, label in (("train", "training"), ("validation", "validation")):
            expected = [(row["epoch"], scale * row[f"{name}_{quantity}"]) for row in history]
            np.testing.assert_allclose(curve(axes, label).get_xydata(), expected)


def test_curves_mark_the_best_epoch_with_its_validation_accuracy():
    history = [epoch_row(epoch, 1 / epoch, accuracy) for epoch, accuracy in ((3, 0.7), (4, 0.9125), (5, 0.9))]
    figure = curves_figure(history, best_epoch=4, train_note="measured on augmented images")
    assert heading(figure) == [
        "Best validation accuracy 91.25 % at epoch 4",
        "3 epochs; training: measured on augmented images",
    ]
    loss, accuracy = figure.axes
    assert [text.get_text() for text in loss.texts] == ["training", "validation", "epoch 4"]
    assert [text.get_text() for text in accuracy.texts] == ["training", "validation", "91.25 %"]
    np.testing.assert_allclose(loss.lines[-1].get_xydata(), [(4, 0.25)])
    np.testing.assert_allclose(accuracy.lines[-1].get_xydata(), [(4, 91.25)])


def test_curves_without_a_best_epoch_mark_none_and_tell_the_last_measured_accuracy():
    figure = curves_figure([epoch_row(1), epoch_row(2, accuracy=0.75), epoch_row(3, validation_accuracy=None)])
    assert heading(figure) == ["Validation accuracy 75.00 % after epoch 2", "3 epochs"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    assert heading(curves_figure([epoch_row(1, validation_accuracy=None)])) == ["No validation accuracy", "1 epoch"]


def test_a_single_epoch_is_drawn_as_dots_at_a_whole_number():
    figure = drawn(curves_figure([epoch_row(7)]))
    for axes in figure.axes:
        assert [line.get_marker() for line in axes.lines] == ["o", "o"]
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [7]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [((1.0, 0.1), "log"), ((1.0, 0.11), "linear"), ((1.0, 0.0), "linear"), ((1.0, -0.01), "linear")],
)
def test_the_loss_is_logarithmic_from_one_decade_on(losses, scale):
    axes = curves_figure([epoch_row(epoch, loss) for epoch, loss in enumerate(losses)]).axes[0]
    assert axes.get_yscale() == scale
    assert axes.get_title("left") == ("Loss (log scale)" if scale == "log" else "Loss")
    low, high = axes.get_ylim()
    assert low < min(losses) < max(losses) < high


def test_the_logarithmic_axis_is_labelled_with_plain_numbers():
    axes = drawn(curves_figure([epoch_row(1, 1.5), epoch_row(2, 0.08)])).axes[0]
    low, high = axes.get_ylim()
    labels = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert labels == ["0.1", "0.2", "0.5", "1"]


def test_the_accuracy_axis_leaves_out_a_bad_start_but_neither_the_best_nor_the_last_value():
    history = [epoch_row(1, accuracy=0.1), *(epoch_row(epoch, accuracy=0.9) for epoch in range(2, 40))]
    low, high = curves_figure(history).axes[1].get_ylim()
    assert 85 < low < 90 < high < 95
    assert curves_figure(history, best_epoch=1).axes[1].get_ylim()[0] < 10
    assert curves_figure([*history, epoch_row(40, accuracy=0.2)]).axes[1].get_ylim()[0] < 20
    assert curves_figure(history[:10]).axes[1].get_ylim()[0] < 10


def test_the_accuracy_axis_never_zooms_below_two_points_and_ends_little_above_100():
    low, high = curves_figure([epoch_row(1, accuracy=0.5), epoch_row(2, accuracy=0.5001)]).axes[1].get_ylim()
    assert high - low == pytest.approx(2)
    low, high = curves_figure([epoch_row(1, accuracy=0.0), epoch_row(2, accuracy=1.0)]).axes[1].get_ylim()
    assert -2 <= low < 0
    assert 100 < high <= 104


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out_and_counted(value):
    history = [epoch_row(1), epoch_row(2, validation_loss=value), epoch_row(3)]
    loss, accuracy = curves_figure(history, best_epoch=2).axes
    assert curve(loss, "validation").get_xdata().tolist() == [1, 3]
    assert curve(loss, "training").get_xdata().tolist() == [1, 2, 3]
    assert loss.get_xlabel() == "epoch (1 of 3 lack a finite value)"
    assert accuracy.get_xlabel() == "epoch"


def test_numbers_of_numpy_and_jax_are_numbers():
    row = {name: jnp.float32(value) for name, value in epoch_row(1).items()}
    assert heading(curves_figure([row], best_epoch=np.int64(1)))[0] == "Best validation accuracy 50.00 % at epoch 1"


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        ([], {}, "history is empty, expected one mapping per epoch"),
        (
            [epoch_row(1), {"epoch": 2, "train_loss": 1.0}],
            {},
            r"\['train_accuracy', .*\], but entry 1 has only \['epoch'",
        ),
        ([epoch_row(1, "low")], {}, "train_loss must be a number or None, got 'low' in entry 0"),
        ([epoch_row(1), epoch_row(None)], {}, "epoch must be a finite number, got nan in entry 1"),
        ([epoch_row(1), epoch_row(1)], {}, "must increase, got 1 after 1"),
        ([epoch_row(3), epoch_row(2)], {}, "must increase, got 2 after 3"),
        ([epoch_row(1, accuracy=97.5)], {}, r"train_accuracy must be a fraction in \[0, 1\], got 97.5 at epoch 1"),
        ([epoch_row(4, validation_accuracy=-0.1)], {}, "validation_accuracy must .* got -0.1 at epoch 4"),
        ([epoch_row(1), epoch_row(2)], {"best_epoch": 0}, r"an epoch of the history \(1 to 2\), got 0"),
        ([epoch_row(1, validation_accuracy=None)], {"best_epoch": 1}, "best_epoch 1 has the validation accuracy nan"),
    ],
)
def test_curves_refuse(history, options, message):
    with pytest.raises(ValueError, match=message):
        curves_figure(history, **options)


def test_the_confusion_matrix_of_a_small_example():
    figure = confusion_figure([0, 0, 0, 1, 1, 2], [0, 0, 2, 1, 0, 2], ["cat", "dog", "owl", "yak"])
    assert cell_texts(figure) == {(0, 0): "2", (0, 2): "1", (1, 0): "1", (1, 1): "1", (2, 2): "1"}
    assert recalls(figure) == ["66.7", "50.0", "100.0", "n/a"]
    assert heading(figure) == [
        "Accuracy 66.67 % (n = 6, 2 errors)",
        "Share of the true class: blue correct, orange wrong (darkest: 50 %)",
    ]
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl", "yak"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "owl", "yak"]
    # The first class stands at the top.
    assert axes.get_ylim() == (3.5, -0.5)


def test_the_confusion_matrix_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(25), rng.integers(0, 25, 2000)])
    predictions = np.where(rng.random(2025) < 0.8, labels, rng.integers(0, 25, 2025))
    figure = confusion_figure(jnp.asarray(labels), jnp.asarray(predictions), [str(k) for k in range(25)])
    counts = confusion_matrix(labels, predictions)
    texts = cell_texts(figure)
    assert [[int(texts.get((row, column), 0)) for column in range(25)] for row in range(25)] == counts.tolist()
    assert "0" not in texts.values()
    np.testing.assert_allclose(
        np.array(recalls(figure), float) / 100, recall_score(labels, predictions, average=None), atol=6e-4
    )


def test_a_single_error_is_visible_beside_a_full_diagonal():
    figure = confusion_figure([0] * 99_999 + [0, 1, 2], [0] * 99_999 + [1, 1, 2], ["a", "b", "c"])
    assert heading(figure)[0] == "Accuracy >99.99 % (n = 100,002, 1 error)"
    assert recalls(figure) == [">99.9", "100.0", "100.0"]
    colours = np.asarray(figure.axes[0].images[0].get_array())
    red, blue = colours[..., 0], colours[..., 2]
    assert (blue - red > 0.5)[np.eye(3, dtype=bool)].all()
    assert red[0, 1] - blue[0, 1] > 0.5
    assert (colours[[0, 1, 1, 2, 2], [2, 0, 2, 0, 1]] == 1).all()


def test_the_smallest_error_does_not_pass_for_an_empty_cell():
    labels, predictions = [0] * 1000 + [1] * 1000, [0] * 999 + [1] + [0] * 1000
    colours = np.asarray(confusion_figure(labels, predictions, ["a", "b"]).axes[0].images[0].get_array())
    assert colours[0, 1].min() < 0.9
    assert colours[1, 1].min() == 1


def test_no_errors_are_no_colour_to_explain():
    assert heading(confusion_figure([0, 1], [0, 1], ["a", "b"])) == [
        "Accuracy 100.00 % (n = 2, 0 errors)",
        "Share of the true class: blue correct",
    ]


@pytest.mark.parametrize(("classes", "numbers", "names"), [(25, 25, 25), (26, 0, 26), (100, 0, 100), (101, 0, 51)])
def test_many_classes_lose_their_numbers_first_and_then_names(classes, numbers, names):
    labels = np.arange(classes)
    figure = confusion_figure(labels, labels, [str(k) for k in labels])
    assert figure.axes[0].images[0].get_array().shape == (classes, classes, 3)
    assert len(cell_texts(figure)) == numbers
    assert (
        len(figure.axes[0].get_yticklabels()) == len(figure.axes[0].get_xticklabels()) == len(recalls(figure)) == names
    )


def test_long_names_lose_their_middle_and_short_ones_nothing():
    labels = np.arange(10)
    written = [label.get_text() for label in confusion_figure(labels, labels, LONG_NAMES).axes[0].get_yticklabels()]
    assert written == [f"a class w…g name {k}" for k in range(10)]
    exact = "eighteen letters !"
    assert confusion_figure([0], [0], [exact]).axes[0].get_yticklabels()[0].get_text() == exact


def test_dollars_in_class_names_are_no_formula(tmp_path):
    names = ["$\\frac$", "$x_{$"]
    plot_confusion([0, 1], [1, 1], names, tmp_path / "confusion.png")
    plot_mistakes(np.zeros((2, 2, 2, 1)), [0, 1], [1, 1], np.full((2, 2), 0.5), names, tmp_path / "mistakes.png")


@pytest.mark.parametrize(
    ("labels", "predictions", "error", "message"),
    [
        ([], [], ValueError, r"labels must have shape \(examples,\) with at least one example, got \(0,\)"),
        ([[0, 1]], [0, 1], ValueError, r"labels must have shape \(examples,\) .* got \(1, 2\)"),
        ([0, 1], [[0.9, 0.1]] * 2, ValueError, r"predictions must have shape \(examples,\) .* got \(2, 2\)"),
        ([0, 1], [0.0, 1.0], TypeError, "predictions must be integers, got float64"),
        ([0, 1, 1], [0, 1], ValueError, "as many predictions as labels, got 3 labels and 2 predictions"),
        ([0, 2], [0, 1], ValueError, r"labels must be in \[0, 2\), got 2 at index 1"),
        ([0, 1], [-1, 1], ValueError, r"predictions must be in \[0, 2\), got -1 at index 0"),
    ],
)
def test_confusion_and_mistakes_refuse(labels, predictions, error, message):
    with pytest.raises(error, match=message):
        confusion_figure(labels, predictions, ["a", "b"])
    with pytest.raises(error, match=message):
        mistakes_figure(np.zeros((2, 4, 4, 1)), labels, predictions, np.full((2, 2), 0.5), ["a", "b"])


def test_mistakes_come_by_confidence_and_carry_both_classes():
    images = np.linspace(0, 1, 5).reshape(5, 1, 1, 1) * np.ones((1, 8, 8, 1))
    probabilities = [[0.9, 0.1, 0], [0.2, 0.6, 0.2], [0.1, 0, 0.9], [0.125, 0.875, 0], [0, 0.4, 0.6]]
    figure = mistakes_figure(images, [0, 0, 1, 2, 1], [0, 1, 2, 1, 2], probabilities, ["3", "5", "8"])
    assert [axes.get_title("left") for axes in figure.axes] == [
        "true 5,\npredicted 8 (90 %)",
        "true 8,\npredicted 5 (88 %)",
        "true 3,\npredicted 5 (60 %)",
        "true 5,\npredicted 8 (60 %)",
    ]
    assert [float(axes.images[0].get_array().max()) for axes in figure.axes] == [0.5, 0.75, 0.25, 1.0]
    assert heading(figure) == ["4 of 4 mistakes, most confident first", "4 mistakes in 5 images (80.0 %)"]


def test_no_wrong_answer_is_called_certain_unless_it_was():
    figure = mistakes_figure(np.zeros((2, 4, 4, 1)), [0, 0], [1, 1], [[0.0, 1.0], [0.001, 0.999]], ["a", "b"])
    assert [axes.get_title("left") for axes in figure.axes] == [
        "true a,\npredicted b (100 %)",
        "true a,\npredicted b (>99 %)",
    ]


def test_the_limit_keeps_the_most_confident_mistakes():
    images, labels, predictions, probabilities, names = mistakes_of(50)
    figure = mistakes_figure(images, labels, predictions, probabilities, names, limit=5)
    strongest = np.sort(probabilities[np.arange(50), predictions])[::-1][:5]
    assert [axes.get_title("left").split("(")[1] for axes in figure.axes] == [f"{100 * p:.0f} %)" for p in strongest]
    assert heading(figure)[0] == "5 of 50 mistakes, most confident first"
    assert len(mistakes_figure(images, labels, predictions, probabilities, names).axes) == 24


def test_images_are_drawn_row_by_row_on_the_full_scale_of_grey():
    figure = drawn(mistakes_figure(*mistakes_of(8)))
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert all(one.x1 < two.x0 for one, two in pairwise(boxes[:6]))
    assert boxes[6].x0 == boxes[0].x0
    assert boxes[0].y0 - boxes[6].y1 == pytest.approx(0.8 * 150)
    for axes in figure.axes:
        assert axes.images[0].get_clim() == (0, 1)
        assert axes.images[0].get_cmap().name == "gray"


def test_colour_images_keep_their_pixels_and_their_aspect():
    images = np.random.default_rng(0).random((1, 10, 40, 3), dtype=np.float32)
    figure = drawn(mistakes_figure(images, [0], [1], [[0.0, 1.0]], ["a", "b"]))
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), images[0])
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx(4)
    assert box.width > 1.7 * 150
    assert heading(figure) == ["1 of 1 mistake", "1 mistake in 1 image (100.0 %)"]


def test_no_mistakes_are_a_picture_that_says_so():
    figure = mistakes_figure(np.zeros((3, 4, 4, 1)), [0, 1, 1], [0, 1, 1], np.full((3, 2), 0.5), ["a", "b"])
    assert heading(figure) == ["No mistakes", "3 images, all classified correctly"]
    assert not figure.axes


def test_low_precision_arrays_of_jax_are_drawn():
    images, probabilities = jnp.ones((1, 4, 4, 1), jnp.bfloat16), jnp.asarray([[0.25, 0.75]], jnp.bfloat16)
    figure = mistakes_figure(images, jnp.asarray([0]), jnp.asarray([1]), probabilities, ["a", "b"])
    assert figure.axes[0].get_title("left") == "true a,\npredicted b (75 %)"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((2, 4, 4))}, ValueError, r"\(examples, height, width, 1 or 3\), got \(2, 4, 4\)"),
        ({"images": np.zeros((2, 4, 4, 2))}, ValueError, r"1 or 3\), got \(2, 4, 4, 2\)"),
        ({"images": np.zeros((2, 0, 4, 1))}, ValueError, r"1 or 3\), got \(2, 0, 4, 1\)"),
        ({"images": np.zeros((3, 4, 4, 1))}, ValueError, "as many labels as images, got 3 images and 2 labels"),
        ({"images": np.zeros((2, 4, 4, 1), np.uint8)}, TypeError, "got uint8; divide 8-bit pixels by 255"),
        (
            {"images": np.full((2, 4, 4, 1), -0.5)},
            ValueError,
            r"images must be in \[0, 1\], got values from -0.5 to -0.5",
        ),
        (
            {"images": np.full((2, 4, 4, 1), np.nan)},
            ValueError,
            r"images must be in \[0, 1\], got values from nan to nan",
        ),
        ({"probabilities": np.ones((2, 3))}, ValueError, r"\(examples, classes\) = \(2, 2\), got \(2, 3\)"),
        ({"probabilities": np.ones(2)}, ValueError, r"\(examples, classes\) = \(2, 2\), got \(2,\)"),
        ({"probabilities": np.full((2, 2), 3.5)}, ValueError, "got values from 3.5 to 3.5; take the softmax of logits"),
        ({"probabilities": np.full((2, 2), np.nan)}, ValueError, "got values from nan to nan"),
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
    ],
)
def test_mistakes_refuse(change, error, message):
    good = {
        "images": np.zeros((2, 4, 4, 1)),
        "labels": [0, 1],
        "predictions": [1, 1],
        "probabilities": np.full((2, 2), 0.5),
        "class_names": ["a", "b"],
    }
    mistakes_figure(**good)
    with pytest.raises(error, match=message):
        mistakes_figure(**good | change)


def assert_png(path, figure):
    """The file is a PNG of the size of the figure at 150 dots per inch, with something on it."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = figure.get_size_inches()
        assert picture.size == (int(150 * width), int(150 * height))
        assert [round(dots) for dots in picture.info["dpi"]] == [150, 150]
        assert len(picture.convert("L").getcolors()) > 10


def test_each_plot_writes_its_figure_as_a_png_and_nothing_else(tmp_path):
    history, classes, mistakes = run_of(3), ([0, 1, 1], [0, 1, 0], ["a", "b"]), mistakes_of(3)
    plot_curves(history, tmp_path / "curves.png", best_epoch=2, train_note="measured on augmented images")
    plot_confusion(*classes, tmp_path / "confusion.png")
    plot_mistakes(*mistakes, str(tmp_path / "mistakes.png"), limit=2)
    assert_png(tmp_path / "curves.png", curves_figure(history))
    assert_png(tmp_path / "confusion.png", confusion_figure(*classes))
    assert_png(tmp_path / "mistakes.png", mistakes_figure(*mistakes, limit=2))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1920, 937)
    assert sorted(os.listdir(tmp_path)) == ["confusion.png", "curves.png", "mistakes.png"]


def test_others_may_read_the_picture_as_any_new_file(tmp_path):
    plot_confusion([0], [0], ["a"], tmp_path / "confusion.png")
    (tmp_path / "plain").touch()
    assert (tmp_path / "confusion.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_crash_while_writing_leaves_the_old_picture_and_no_remains(tmp_path, monkeypatch):
    path = tmp_path / "confusion.png"
    path.write_bytes(b"the old picture")

    def fill_the_disk(canvas, file):
        file.write(b"half a pict")
        raise OSError("no space left on device")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        plot_confusion([0], [0], ["a"], path)
    assert os.listdir(tmp_path) == ["confusion.png"]
    assert path.read_bytes() == b"the old picture"


def test_bad_input_leaves_the_old_picture_and_good_input_replaces_it(tmp_path):
    path = tmp_path / "confusion.png"
    path.write_bytes(b"the old picture")
    with pytest.raises(ValueError, match="labels must be in"):
        plot_confusion([1], [0], ["a"], path)
    assert path.read_bytes() == b"the old picture"
    plot_confusion([0], [0], ["a"], path)
    assert_png(path, confusion_figure([0], [0], ["a"]))


def test_other_formats_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a path with the extension .png, got '.*curves.pdf'"):
        plot_curves(run_of(2), tmp_path / "curves.pdf")
    with pytest.raises(FileNotFoundError, match=r"the folder of '.*curves.png' does not exist; create it"):
        plot_curves(run_of(2), tmp_path / "missing" / "curves.png")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxcnn\[cli\]'"):
        plot_curves(run_of(2), tmp_path / "curves.png")


def test_matplotlib_is_imported_by_drawing_only_and_pyplot_never(tmp_path):
    program = f"""
import sys
from jaxcnn.inspection.figures import plot_confusion
assert not any(name.startswith("matplotlib") for name in sys.modules)
plot_confusion([0, 1], [1, 1], ["a", "b"], {str(tmp_path / "confusion.png")!r})
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, env=environment)


def test_class_names_are_drawn_without_what_cannot_be_printed():
    names = ["\x1b[2J", "a\nb", "plain"]
    axes = confusion_figure([0, 1, 2], [0, 1, 1], names).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["\\x1b[2J", "a\\nb", "plain"]
    figure = mistakes_figure(np.zeros((1, 4, 4, 1), np.float32), [0], [1], [[0.0, 1.0, 0.0]], names)
    assert figure.axes[0].get_title(loc="left") == "true \\x1b[2J,\npredicted a\\nb (100 %)"
