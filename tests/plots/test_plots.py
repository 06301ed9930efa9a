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

from jaxcnn.plots import comparison, confusion, curves, detections, learning_rates, mistakes, save, segmentations

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


def search():
    """Learning rates and the losses of a search: a fall, a flat part and divergence, with a NaN at the end."""
    rates = np.logspace(-4, 0, 41)
    losses = 2 - 1.5 / (1 + np.exp(-3 * (np.log10(rates) + 2.5))) + 100 * rates**4
    return rates, np.where(rates == 1, np.nan, losses)


def noisy_search():
    rates, losses = search()
    smooth = np.nan_to_num(losses, nan=100)
    return rates, smooth + np.random.default_rng(0).normal(0, 0.2, 41), smooth


def masks_of(count, classes=10, seed=0):
    """Images of noise with masks, and predictions of which about a tenth is wrong."""
    rng = np.random.default_rng(seed)
    masks = np.repeat(np.repeat(rng.integers(0, classes, (count, 2, 3)), 4, axis=1), 4, axis=2)
    wrong = rng.random(masks.shape) < 0.1
    return rng.random((count, 8, 12, 3)), masks, np.where(wrong, (masks + 1) % classes, masks)


def boxes_of(count):
    """Images of noise, wide and tall, with boxes at their corners."""
    shapes = [(40, 60, 3), (60, 30, 1)][:count]
    images = [np.random.default_rng(0).random(shape) for shape in shapes]
    objects = [
        {
            "boxes": np.array([(0, 0, 9, 9), (wide - 9, 9, wide, 18), (0, 20, 9, 29), (wide - 9, 28, wide, 40)]),
            "classes": np.array([0, 3, 4, 9]),
            "scores": np.array([1.0, 0.9, 0.5, 0.3]),
        }
        for _, wide, _ in shapes
    ]
    return images, objects


FIGURES = {
    "a long subtitle": lambda: curves(run_of(3), subtitle="lenet5 on /a/long/path" + 20 * "/to/the/data"),
    "the losses alone": lambda: curves(run_of(9), metric=None, best_epoch=9, subtitle="lenet5 on digits"),
    "a run": lambda: curves(run_of(40), best_epoch=38, train_note="measured on augmented images"),
    "a best first epoch": lambda: curves(run_of(40), best_epoch=1),
    "one epoch": lambda: curves(run_of(1), best_epoch=1),
    "equal curves": lambda: curves([epoch_row(1), epoch_row(2)], best_epoch=2),
    "a collapse": lambda: curves([*run_of(40), epoch_row(41, 9.0, 0.1)], best_epoch=40),
    "two classes": lambda: confusion([0, 0, 1], [0, 1, 1], ["negative", "positive"]),
    "one error in a million": lambda: confusion([0] * 999_999 + [1], [0] * 1_000_000, ["a", "b"]),
    "long names": lambda: confusion(range(10), range(10), LONG_NAMES),
    "25 classes": lambda: confusion(np.arange(25_000) % 25, np.arange(25_000) // 7 % 25, list(map(str, range(25)))),
    "a mistake": lambda: mistakes(*mistakes_of(1)),
    "25 mistakes": lambda: mistakes(*mistakes_of(25)),
    "mistakes with long names": lambda: mistakes(*mistakes_of(7, 10)[:4], LONG_NAMES),
    "a comparison": lambda: comparison([run_of(4), run_of(4), run_of(9)], ["a", "a", "b"], subtitle="on digits"),
    "many runs": lambda: comparison([run_of(20)] * 13, [f"learning_rate={10 + k}" for k in range(13)], metric=None),
    "a search for a learning rate": lambda: learning_rates(*search(), suggestion=1e-2, subtitle="lenet5 on digits"),
    "a noisy search": lambda: learning_rates(
        *noisy_search()[:2], smoothed=noisy_search()[2], suggestion=1e-2, subtitle="lenet5 on digits"
    ),
    "masks": lambda: segmentations(*masks_of(3), LONG_NAMES, subtitle="unet on shapes"),
    "boxes": lambda: detections(*boxes_of(2), LONG_NAMES, objects=boxes_of(2)[1], subtitle="retinanet on scenes"),
    "boxes alone": lambda: detections(*boxes_of(1), LONG_NAMES, subtitle="street.jpg"),
    "no mistake": lambda: mistakes(np.zeros((1, 2, 2, 1)), [0], [0], [[1.0]], ["a"]),
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
    loss, accuracy = curves(history).axes
    for axes, quantity, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for name, label in (("train", "training"), ("validation", "validation")):
            expected = [(row["epoch"], scale * row[f"{name}_{quantity}"]) for row in history]
            np.testing.assert_allclose(curve(axes, label).get_xydata(), expected)


def test_curves_mark_the_best_epoch_with_its_validation_accuracy():
    history = [epoch_row(epoch, 1 / epoch, accuracy) for epoch, accuracy in ((3, 0.7), (4, 0.9125), (5, 0.9))]
    figure = curves(history, best_epoch=4, train_note="measured on augmented images")
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
    figure = curves([epoch_row(1), epoch_row(2, accuracy=0.75), epoch_row(3, validation_accuracy=None)])
    assert heading(figure) == ["Validation accuracy 75.00 % after epoch 2", "3 epochs"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    assert heading(curves([epoch_row(1, validation_accuracy=None)])) == ["No validation accuracy", "1 epoch"]


def test_a_single_epoch_is_drawn_as_dots_at_a_whole_number():
    figure = drawn(curves([epoch_row(7)]))
    for axes in figure.axes:
        assert [line.get_marker() for line in axes.lines] == ["o", "o"]
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [7]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [((1.0, 0.1), "log"), ((1.0, 0.11), "linear"), ((1.0, 0.0), "linear"), ((1.0, -0.01), "linear")],
)
def test_the_loss_is_logarithmic_from_one_decade_on(losses, scale):
    axes = curves([epoch_row(epoch, loss) for epoch, loss in enumerate(losses)]).axes[0]
    assert axes.get_yscale() == scale
    assert axes.get_title("left") == ("Loss (log scale)" if scale == "log" else "Loss")
    low, high = axes.get_ylim()
    assert low < min(losses) < max(losses) < high


def test_the_logarithmic_axis_is_labelled_with_plain_numbers():
    axes = drawn(curves([epoch_row(1, 1.5), epoch_row(2, 0.08)])).axes[0]
    low, high = axes.get_ylim()
    labels = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert labels == ["0.1", "0.2", "0.5", "1"]


def test_the_accuracy_axis_leaves_out_a_bad_start_but_neither_the_best_nor_the_last_value():
    history = [epoch_row(1, accuracy=0.1), *(epoch_row(epoch, accuracy=0.9) for epoch in range(2, 40))]
    low, high = curves(history).axes[1].get_ylim()
    assert 85 < low < 90 < high < 95
    assert curves(history, best_epoch=1).axes[1].get_ylim()[0] < 10
    assert curves([*history, epoch_row(40, accuracy=0.2)]).axes[1].get_ylim()[0] < 20
    assert curves(history[:10]).axes[1].get_ylim()[0] < 10


def test_the_accuracy_axis_never_zooms_below_two_points_and_ends_little_above_100():
    low, high = curves([epoch_row(1, accuracy=0.5), epoch_row(2, accuracy=0.5001)]).axes[1].get_ylim()
    assert high - low == pytest.approx(2)
    low, high = curves([epoch_row(1, accuracy=0.0), epoch_row(2, accuracy=1.0)]).axes[1].get_ylim()
    assert -2 <= low < 0
    assert 100 < high <= 104


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out_and_counted(value):
    history = [epoch_row(1), epoch_row(2, validation_loss=value), epoch_row(3)]
    loss, accuracy = curves(history, best_epoch=2).axes
    assert curve(loss, "validation").get_xdata().tolist() == [1, 3]
    assert curve(loss, "training").get_xdata().tolist() == [1, 2, 3]
    assert loss.get_xlabel() == "epoch (1 of 3 lack a finite value)"
    assert accuracy.get_xlabel() == "epoch"


def test_numbers_of_numpy_and_jax_are_numbers():
    row = {name: jnp.float32(value) for name, value in epoch_row(1).items()}
    assert heading(curves([row], best_epoch=np.int64(1)))[0] == "Best validation accuracy 50.00 % at epoch 1"


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        ([], {}, "history is empty, expected one mapping per epoch"),
        (
            [epoch_row(1), {"epoch": 2, "train_loss": 1.0}],
            {},
            r"\['validation_loss', .*\], but entry 1 has only \['epoch'",
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
        curves(history, **options)


def test_the_confusion_matrix_of_a_small_example():
    figure = confusion([0, 0, 0, 1, 1, 2], [0, 0, 2, 1, 0, 2], ["cat", "dog", "owl", "yak"])
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
    figure = confusion(jnp.asarray(labels), jnp.asarray(predictions), [str(k) for k in range(25)])
    counts = confusion_matrix(labels, predictions)
    texts = cell_texts(figure)
    assert [[int(texts.get((row, column), 0)) for column in range(25)] for row in range(25)] == counts.tolist()
    assert "0" not in texts.values()
    np.testing.assert_allclose(
        np.array(recalls(figure), float) / 100, recall_score(labels, predictions, average=None), atol=6e-4
    )


def test_a_single_error_is_visible_beside_a_full_diagonal():
    figure = confusion([0] * 99_999 + [0, 1, 2], [0] * 99_999 + [1, 1, 2], ["a", "b", "c"])
    assert heading(figure)[0] == "Accuracy >99.99 % (n = 100,002, 1 error)"
    assert recalls(figure) == [">99.9", "100.0", "100.0"]
    colours = np.asarray(figure.axes[0].images[0].get_array())
    red, blue = colours[..., 0], colours[..., 2]
    assert (blue - red > 0.5)[np.eye(3, dtype=bool)].all()
    assert red[0, 1] - blue[0, 1] > 0.5
    assert (colours[[0, 1, 1, 2, 2], [2, 0, 2, 0, 1]] == 1).all()


def test_the_smallest_error_does_not_pass_for_an_empty_cell():
    labels, predictions = [0] * 1000 + [1] * 1000, [0] * 999 + [1] + [0] * 1000
    colours = np.asarray(confusion(labels, predictions, ["a", "b"]).axes[0].images[0].get_array())
    assert colours[0, 1].min() < 0.9
    assert colours[1, 1].min() == 1


def test_no_errors_are_no_colour_to_explain():
    assert heading(confusion([0, 1], [0, 1], ["a", "b"])) == [
        "Accuracy 100.00 % (n = 2, 0 errors)",
        "Share of the true class: blue correct",
    ]


@pytest.mark.parametrize(("classes", "numbers", "names"), [(25, 25, 25), (26, 0, 26), (100, 0, 100), (101, 0, 51)])
def test_many_classes_lose_their_numbers_first_and_then_names(classes, numbers, names):
    labels = np.arange(classes)
    figure = confusion(labels, labels, [str(k) for k in labels])
    assert figure.axes[0].images[0].get_array().shape == (classes, classes, 3)
    assert len(cell_texts(figure)) == numbers
    assert (
        len(figure.axes[0].get_yticklabels()) == len(figure.axes[0].get_xticklabels()) == len(recalls(figure)) == names
    )


def test_long_names_lose_their_middle_and_short_ones_nothing():
    labels = np.arange(10)
    written = [label.get_text() for label in confusion(labels, labels, LONG_NAMES).axes[0].get_yticklabels()]
    assert written == [f"a class w…g name {k}" for k in range(10)]
    exact = "eighteen letters !"
    assert confusion([0], [0], [exact]).axes[0].get_yticklabels()[0].get_text() == exact


def test_dollars_in_class_names_are_no_formula(tmp_path):
    names = ["$\\frac$", "$x_{$"]
    save(confusion([0, 1], [1, 1], names), tmp_path / "confusion.png")
    save(mistakes(np.zeros((2, 2, 2, 1)), [0, 1], [1, 1], np.full((2, 2), 0.5), names), tmp_path / "mistakes.png")


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
        confusion(labels, predictions, ["a", "b"])
    with pytest.raises(error, match=message):
        mistakes(np.zeros((2, 4, 4, 1)), labels, predictions, np.full((2, 2), 0.5), ["a", "b"])


def test_mistakes_come_by_confidence_and_carry_both_classes():
    images = np.linspace(0, 1, 5).reshape(5, 1, 1, 1) * np.ones((1, 8, 8, 1))
    probabilities = [[0.9, 0.1, 0], [0.2, 0.6, 0.2], [0.1, 0, 0.9], [0.125, 0.875, 0], [0, 0.4, 0.6]]
    figure = mistakes(images, [0, 0, 1, 2, 1], [0, 1, 2, 1, 2], probabilities, ["3", "5", "8"])
    assert [axes.get_title("left") for axes in figure.axes] == [
        "true 5,\npredicted 8 (90 %)",
        "true 8,\npredicted 5 (88 %)",
        "true 3,\npredicted 5 (60 %)",
        "true 5,\npredicted 8 (60 %)",
    ]
    assert [float(axes.images[0].get_array().max()) for axes in figure.axes] == [0.5, 0.75, 0.25, 1.0]
    assert heading(figure) == ["4 of 4 mistakes, most confident first", "4 mistakes in 5 images (80.0 %)"]


def test_no_wrong_answer_is_called_certain_unless_it_was():
    figure = mistakes(np.zeros((2, 4, 4, 1)), [0, 0], [1, 1], [[0.0, 1.0], [0.001, 0.999]], ["a", "b"])
    assert [axes.get_title("left") for axes in figure.axes] == [
        "true a,\npredicted b (100 %)",
        "true a,\npredicted b (>99 %)",
    ]


def test_the_limit_keeps_the_most_confident_mistakes():
    images, labels, predictions, probabilities, names = mistakes_of(50)
    figure = mistakes(images, labels, predictions, probabilities, names, limit=5)
    strongest = np.sort(probabilities[np.arange(50), predictions])[::-1][:5]
    assert [axes.get_title("left").split("(")[1] for axes in figure.axes] == [f"{100 * p:.0f} %)" for p in strongest]
    assert heading(figure)[0] == "5 of 50 mistakes, most confident first"
    assert len(mistakes(images, labels, predictions, probabilities, names).axes) == 24


def test_only_the_mistakes_that_are_drawn_are_read():
    images, labels, predictions, probabilities, names = mistakes_of(50)
    asked = []

    def read(indices):
        asked.append(indices)
        return images[indices]

    read_later = mistakes(read, labels, predictions, probabilities, names, limit=5)
    assert len(asked) == 1
    assert len(asked[0]) == 5
    known = mistakes(images, labels, predictions, probabilities, names, limit=5)
    for one, other in zip(read_later.axes, known.axes, strict=True):
        assert one.get_title("left") == other.get_title("left")
        np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
    mistakes(read, labels, labels, probabilities, names)
    assert len(asked) == 1
    with pytest.raises(ValueError, match="expected 24 images from the function, got 50"):
        mistakes(lambda _: images, labels, predictions, probabilities, names)


def test_images_are_drawn_row_by_row_on_the_full_scale_of_grey():
    figure = drawn(mistakes(*mistakes_of(8)))
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert all(one.x1 < two.x0 for one, two in pairwise(boxes[:6]))
    assert boxes[6].x0 == boxes[0].x0
    assert boxes[0].y0 - boxes[6].y1 == pytest.approx(0.8 * 150)
    for axes in figure.axes:
        assert axes.images[0].get_clim() == (0, 1)
        assert axes.images[0].get_cmap().name == "gray"


def test_colour_images_keep_their_pixels_and_their_aspect():
    images = np.random.default_rng(0).random((1, 10, 40, 3), dtype=np.float32)
    figure = drawn(mistakes(images, [0], [1], [[0.0, 1.0]], ["a", "b"]))
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), images[0])
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx(4)
    assert box.width > 1.7 * 150
    assert heading(figure) == ["1 of 1 mistake", "1 mistake in 1 image (100.0 %)"]


def test_no_mistakes_are_a_picture_that_says_so():
    figure = mistakes(np.zeros((3, 4, 4, 1)), [0, 1, 1], [0, 1, 1], np.full((3, 2), 0.5), ["a", "b"])
    assert heading(figure) == ["No mistakes", "3 images, all classified correctly"]
    assert not figure.axes


def test_low_precision_arrays_of_jax_are_drawn():
    images, probabilities = jnp.ones((1, 4, 4, 1), jnp.bfloat16), jnp.asarray([[0.25, 0.75]], jnp.bfloat16)
    figure = mistakes(images, jnp.asarray([0]), jnp.asarray([1]), probabilities, ["a", "b"])
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
    mistakes(**good)
    with pytest.raises(error, match=message):
        mistakes(**good | change)


def assert_png(path, figure):
    """The file is a PNG of the size of the figure at 150 dots per inch, with something on it."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = figure.get_size_inches()
        assert picture.size == (int(150 * width), int(150 * height))
        assert [round(dots) for dots in picture.info["dpi"]] == [150, 150]
        assert len(picture.convert("L").getcolors()) > 10


def test_a_figure_is_written_as_a_png_and_nothing_else(tmp_path):
    figures = {
        "curves": curves(run_of(3)),
        "confusion": confusion([0], [0], ["a"]),
        "mistakes": mistakes(*mistakes_of(3)),
    }
    for name, figure in figures.items():
        save(figure, tmp_path / f"{name}.png")
        assert_png(tmp_path / f"{name}.png", figure)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1920, 937)
    save(figures["confusion"], str(tmp_path / "confusion.png"))
    assert sorted(os.listdir(tmp_path)) == ["confusion.png", "curves.png", "mistakes.png"]


def test_others_may_read_the_picture_as_any_new_file(tmp_path):
    save(confusion([0], [0], ["a"]), tmp_path / "confusion.png")
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
        save(confusion([0], [0], ["a"]), path)
    assert os.listdir(tmp_path) == ["confusion.png"]
    assert path.read_bytes() == b"the old picture"


def test_bad_input_leaves_the_old_picture_and_good_input_replaces_it(tmp_path):
    path = tmp_path / "confusion.png"
    path.write_bytes(b"the old picture")
    with pytest.raises(ValueError, match="labels must be in"):
        save(confusion([1], [0], ["a"]), path)
    assert path.read_bytes() == b"the old picture"
    save(confusion([0], [0], ["a"]), path)
    assert_png(path, confusion([0], [0], ["a"]))


def test_other_formats_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a path with the extension .png, got '.*curves.pdf'"):
        save(curves(run_of(2)), tmp_path / "curves.pdf")
    with pytest.raises(FileNotFoundError, match=r"the folder of '.*curves.png' does not exist; create it"):
        save(curves(run_of(2)), tmp_path / "missing" / "curves.png")


@pytest.mark.parametrize("draw", [lambda: curves(run_of(2)), lambda: confusion([0], [0], ["a"])])
def test_without_matplotlib_the_message_says_what_to_install(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxcnn\[cli\]'"):
        draw()


def test_matplotlib_is_imported_by_drawing_only_and_pyplot_never(tmp_path):
    program = f"""
import sys
from jaxcnn.plots import confusion, save
assert not any(name.startswith("matplotlib") for name in sys.modules)
save(confusion([0, 1], [1, 1], ["a", "b"]), {str(tmp_path / "confusion.png")!r})
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, env=environment)


def test_class_names_are_drawn_without_what_cannot_be_printed():
    names = ["\x1b[2J", "a\nb", "plain"]
    axes = confusion([0, 1, 2], [0, 1, 1], names).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["\\x1b[2J", "a\\nb", "plain"]
    figure = mistakes(np.zeros((1, 4, 4, 1), np.float32), [0], [1], [[0.0, 1.0, 0.0]], names)
    assert figure.axes[0].get_title(loc="left") == "true \\x1b[2J,\npredicted a\\nb (100 %)"


def test_the_subtitle_stands_first_and_a_long_one_is_wrapped():
    assert heading(curves(run_of(2), subtitle="lenet5 on digits, seed 0"))[1:] == [
        "lenet5 on digits, seed 0",
        "2 epochs",
    ]
    assert heading(confusion([0], [0], ["a"], subtitle="test set"))[1] == "test set"
    assert heading(mistakes(*mistakes_of(2), subtitle="test set"))[1] == "test set"
    lines = heading(curves(run_of(2), metric=None, subtitle="lenet5 on " + 20 * "/folder"))
    assert "".join(lines[1:-1]) == "lenet5 on " + 20 * "/folder"
    assert len(lines) > 3


def test_characters_that_the_font_lacks_are_escaped(tmp_path):
    names = ["猫", "größe", "$x_{$"]
    figure = confusion([0, 1, 2], [0, 1, 1], names, subtitle="猫 on digits")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["\\u732b", "größe", "$x_{$"]
    assert heading(figure)[1] == "\\u732b on digits"
    # matplotlib warns of characters that it cannot draw, and warnings are errors here.
    save(figure, tmp_path / "confusion.png")
    save(mistakes(np.zeros((1, 4, 4, 1), np.float32), [0], [2], [[0, 0, 1.0]], names), tmp_path / "mistakes.png")
    save(comparison([run_of(2)] * 3, names), tmp_path / "comparison.png")
    save(segmentations(*masks_of(2, 3), names), tmp_path / "masks.png")


def test_curves_of_a_metric_that_was_not_measured_in_training():
    history = [{"epoch": 1, "train_loss": 1, "validation_loss": 2, "validation_mean_IoU": 0.25}]
    figure = curves(history, metric="mean_IoU", best_epoch=1)
    assert heading(figure)[0] == "Best validation mean IoU 25.00 % at epoch 1"
    loss, metric = figure.axes
    assert metric.get_title("left") == "Mean IoU (%)"
    assert [text.get_text() for text in metric.texts] == ["validation", "25.00 %"]
    assert [text.get_text() for text in loss.texts] == ["training", "validation", "epoch 1"]


def test_curves_of_the_losses_alone():
    figure = curves([epoch_row(1, 0.5), epoch_row(2, 0.25)], metric=None, best_epoch=2)
    assert heading(figure)[0] == "Best validation loss 0.25 at epoch 2"
    assert [axes.get_title("left") for axes in figure.axes] == ["Loss"]


# comparison


def test_runs_with_the_same_label_are_their_mean_and_range():
    rng = np.random.default_rng(0)
    runs = [[epoch_row(epoch, *rng.random(2)) for epoch in range(1, 5)] for _ in range(3)]
    figure = comparison([runs[0], run_of(7), runs[1], runs[2]], ["a", "b", "a", "a"], subtitle="lenet5")
    assert heading(figure)[:2] == ["4 runs", "lenet5"]
    assert "mean" in heading(figure)[2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a (3 runs)", "b (1 run)"]
    for axes, name, scale in zip(
        figure.axes, ("train_loss", "validation_loss", "validation_accuracy"), (1, 1, 100), strict=True
    ):
        values = scale * np.array([[row[name] for row in run] for run in runs])
        np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([[1, 2, 3, 4], values.mean(0)], 1))
        corners = axes.collections[0].get_paths()[0].vertices
        for epoch in range(1, 5):
            at = corners[corners[:, 0] == epoch, 1]
            np.testing.assert_allclose([at.min(), at.max()], [values[:, epoch - 1].min(), values[:, epoch - 1].max()])
        assert len(axes.lines[1].get_xdata()) == 7


def test_a_mean_covers_the_epochs_that_all_its_runs_have():
    runs = [[epoch_row(1), epoch_row(2), epoch_row(3)], [epoch_row(2, 3.0), epoch_row(3, None)]]
    axes = comparison(runs, ["a", "a"]).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[2, 2.0]])


def test_runs_with_labels_of_their_own_have_no_band_to_explain():
    figure = comparison([run_of(3)] * 2, ["a", "b"])
    assert heading(figure) == ["2 runs"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_many_runs_differ_in_colour_or_dash():
    lines = comparison([run_of(2)] * 20, list(map(str, range(20)))).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


@pytest.mark.parametrize(
    ("histories", "labels", "message"),
    [
        ([], [], "at least one history and a label for each, got 0 histories and 0 labels"),
        ([run_of(2)], ["a", "b"], "got 1 histories and 2 labels"),
        ([run_of(2), []], ["a", "b"], "history is empty"),
        ([[epoch_row(1)], [epoch_row(2)]], ["a", "a"], "the 2 runs 'a' have none; give them different labels"),
    ],
)
def test_a_comparison_refuses(histories, labels, message):
    with pytest.raises(ValueError, match=message):
        comparison(histories, labels)


# learning_rates


def test_a_search_shows_the_fall_and_not_the_divergence():
    rates, losses = search()
    figure = learning_rates(rates, losses, suggestion=0.01, subtitle="lenet5 on digits")
    assert heading(figure) == ["Suggested learning rate 0.01", "lenet5 on digits", "41 steps"]
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.stack([rates, losses], 1)[:-1])
    assert axes.lines[1].get_xdata() == [0.01, 0.01]
    low, high = axes.get_ylim()
    assert low < np.nanmin(losses) < losses[0] < high < 4
    assert heading(learning_rates(rates, losses))[0] == "Loss against learning rate"


def test_a_search_shows_the_curve_that_decides_and_the_suggestion_on_it():
    rates, losses, smooth = noisy_search()
    figure = learning_rates(rates, losses, smoothed=smooth, suggestion=rates[20])
    assert heading(figure)[1] == "41 steps; grey: loss of each step, blue: average over neighbouring steps"
    (axes,) = figure.axes
    raw, average, line, mark = axes.lines
    np.testing.assert_array_equal(raw.get_ydata(), losses)
    np.testing.assert_array_equal(average.get_xydata(), np.stack([rates, smooth], 1))
    assert raw.get_linewidth() < average.get_linewidth()
    np.testing.assert_array_equal(line.get_xdata(), [rates[20]] * 2)
    np.testing.assert_allclose(mark.get_xydata(), [[rates[20], smooth[20]]])
    assert mark.get_color() == average.get_color() != raw.get_color()


@pytest.mark.parametrize(
    ("smoothed", "message"),
    [
        ([1.0], r"smoothed must have the shape of the rates, \(2,\), got \(1,\)"),
        ([1, np.nan], "must be finite, got nan"),
    ],
)
def test_a_search_refuses_another_average(smoothed, message):
    with pytest.raises(ValueError, match=message):
        learning_rates([1, 2], [1, 2], smoothed=smoothed)


@pytest.mark.parametrize(
    ("rates", "losses", "suggestion", "message"),
    [
        ([1, 2], [1, 2, 3], None, r"the same shape \(steps,\), got \(2,\) and \(3,\)"),
        ([0, 1], [1, 2], None, "rates must increase, be finite and be above 0"),
        ([2, 1], [1, 2], None, "rates must increase, be finite and be above 0"),
        ([1, 2], [1, np.nan], None, "at least two finite losses, got 1"),
        ([1, 2], [1, 2], 3.0, "suggestion must be between 1 and 2, got 3"),
    ],
)
def test_a_search_refuses(rates, losses, suggestion, message):
    with pytest.raises(ValueError, match=message):
        learning_rates(rates, losses, suggestion=suggestion)


# segmentations


def test_masks_are_drawn_in_the_colours_of_the_legend():
    images = np.zeros((1, 2, 2, 1))
    figure = segmentations(images, [[[0, 1], [2, 1]]], [[[0, 1], [1, 1]]], ["a", "b", "c", "never"], subtitle="unet")
    assert heading(figure) == ["Pixel accuracy 75.0 %", "unet", "1 of 1 image"]
    *panels, legend = figure.axes
    assert [axes.get_title("left") for axes in panels] == ["image", "truth", "prediction"]
    squares = {text.get_text(): patch.get_facecolor()[:3] for text, patch in legend_of(legend)}
    assert list(squares) == ["a", "b", "c"]
    truth, guess = (np.asarray(axes.images[0].get_array()) for axes in panels[1:])
    for (row, column), true, predicted in [((0, 0), "a", "a"), ((0, 1), "b", "b"), ((1, 0), "c", "b")]:
        np.testing.assert_allclose(truth[row, column], 0.6 * np.array(squares[true]), atol=0.005)
        np.testing.assert_allclose(guess[row, column], 0.6 * np.array(squares[predicted]), atol=0.005)


def legend_of(axes):
    legend = axes.get_legend()
    return zip(legend.get_texts(), legend.get_patches(), strict=True)


def test_ignored_pixels_do_not_count_and_are_white():
    figure = segmentations(np.ones((1, 1, 2, 3)), [[[255, 0]]], [[[1, 0]]], ["a", "b"], ignore_index=255)
    assert heading(figure)[0] == "Pixel accuracy 100.0 %"
    assert np.asarray(figure.axes[1].images[0].get_array())[0, 0].tolist() == [1, 1, 1]
    assert [text.get_text() for text, _ in legend_of(figure.axes[-1])] == ["a", "b", "ignored"]


def test_the_limit_keeps_the_first_images():
    images, masks, predictions = masks_of(9)
    figure = segmentations(images, masks, predictions, LONG_NAMES, limit=2)
    assert len(figure.axes) == 2 * 3 + 1
    np.testing.assert_allclose(np.asarray(figure.axes[3].images[0].get_array()), images[1], rtol=1e-6)
    assert heading(figure)[1] == "2 of 9 images"


def test_the_colours_of_40_classes_differ():
    masks = np.arange(40).reshape(1, 5, 8)
    figure = segmentations(np.zeros((1, 5, 8, 1)), masks, masks, [str(k) for k in range(40)])
    colours = np.array([patch.get_facecolor()[:3] for _, patch in legend_of(figure.axes[-1])])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(40)
    assert distances.min() > 0.05


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": [[[0, 2]]]}, ValueError, r"masks must be in \[0, 2\), got 2; name all classes"),
        ({"predictions": [[[0, 255]]]}, ValueError, r"predictions must be in \[0, 2\), got 255"),
        ({"masks": [[[0.0, 1.0]]]}, TypeError, "masks must be integers, got float64"),
        ({"masks": [[0, 1]]}, ValueError, r"\(examples, height, width\) = \(1, 1, 2\), got \(1, 2\)"),
        ({"images": np.zeros((1, 1, 2, 2))}, ValueError, r"\(examples, height, width, 1 or 3\)"),
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
    ],
)
def test_segmentations_refuse(change, error, message):
    good = {
        "images": np.zeros((1, 1, 2, 1)),
        "masks": [[[0, 1]]],
        "predictions": [[[0, 1]]],
        "class_names": ["a", "b"],
        "ignore_index": 255,
    }
    segmentations(**good)
    with pytest.raises(error, match=message):
        segmentations(**good | change)
