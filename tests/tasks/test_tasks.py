"""The tasks against torch and scikit-learn, and the laws that all of them keep."""

import functools
import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn

from jaxcnn.tasks import Classification, MultiLabel, Regression, Segmentation, figures
from jaxcnn.training.metrics import add_sums
from jaxcnn.types import Mean

WEIGHTS = (1.0, 0.25, 2.0, 0.5, 3.0, 1.5, 0.75)
CLASSES = len(WEIGHTS)
N = 12


def draw(task, dtype=np.float32, seed=0):
    """Random outputs and a batch of a task, with weights of examples of which one is 0."""
    random = np.random.default_rng(seed)
    shape = (N, 5, 6, CLASSES) if isinstance(task, Segmentation) else (N, CLASSES)
    outputs = (2 * random.normal(size=shape)).astype(dtype)
    weight = random.uniform(0.5, 2, N).astype(dtype)
    weight[3] = 0
    batch = {"image": np.zeros((N, 1)), "weight": weight}
    if isinstance(task, Segmentation):
        mask = random.integers(0, CLASSES, shape[:-1]).astype(np.uint8)
        mask[random.uniform(size=mask.shape) < 0.2] = 255
        mask[5] = 255
        return outputs, batch | {"mask": mask}
    if isinstance(task, Regression):
        return outputs, batch | {"target": random.normal(size=shape).astype(dtype)}
    if isinstance(task, MultiLabel):
        return outputs, batch | {"label": random.integers(0, 2, shape).astype(np.int32)}
    return outputs, batch | {"label": random.integers(0, CLASSES, N).astype(np.int32)}


TASKS = [
    Classification(),
    Classification(label_smoothing=0.1, class_weights=WEIGHTS),
    Classification(per_class=True),
    MultiLabel(),
    MultiLabel(positive_weights=WEIGHTS, threshold=0.3),
    Regression(),
    Regression("absolute"),
    Regression("huber", huber_delta=0.5),
    Segmentation(CLASSES),
    Segmentation(CLASSES, class_weights=WEIGHTS, label_smoothing=0.1, dice_weight=0.7),
]
each_task = pytest.mark.parametrize("task", TASKS, ids=repr)


@functools.partial(jax.jit, static_argnums=0)
def measured(task, outputs, batch):
    return {"loss": task.loss(outputs, batch), **task.metrics(outputs, batch)}


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(task, outputs, batch):
    return jax.value_and_grad(lambda outputs: task.loss(outputs, batch).total)(outputs)


def rows(tree, which):
    return jax.tree.map(lambda array: array[which], tree)


def assert_close(actual, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), actual, expected)


@each_task
def test_a_task_is_a_value(task):
    assert pickle.loads(pickle.dumps(task)) == task
    assert hash(task) == hash(eval(repr(task)))
    assert task.objective.figure in task.report(measured(task, *draw(task)))


@each_task
def test_parts_of_a_batch_add_up_to_the_batch(task):
    outputs, batch = draw(task)
    parts = [measured(task, rows(outputs, which), rows(batch, which)) for which in (slice(0, 5), slice(5, N))]
    assert_close(jax.tree.map(operator.add, *parts), measured(task, outputs, batch))


@each_task
def test_an_example_of_weight_0_does_not_count_whatever_it_holds(task):
    outputs, batch = draw(task)
    kept = np.arange(N) != 3
    for name, filler in {"label": -1, "mask": 200, "target": np.nan}.items():
        if name in batch and not isinstance(task, MultiLabel):
            batch[name][3] = filler
    _, gradient = loss_and_gradient(task, outputs, batch)
    np.testing.assert_array_equal(gradient[3], 0)
    assert np.all(np.isfinite(gradient))
    expected = measured(task, rows(outputs, kept), rows(batch, kept))
    outputs[3] = np.nan
    assert_close(measured(task, outputs, batch), expected)


@each_task
def test_a_weight_of_2_is_the_example_twice(task):
    outputs, batch = draw(task)
    twice = {**batch, "weight": np.where(np.arange(N) == 2, 2, 1).astype(np.float32)}
    again = np.r_[np.arange(N), 2]
    plain = {name: array for name, array in batch.items() if name != "weight"}
    assert_close(measured(task, outputs, twice), measured(task, rows(outputs, again), rows(plain, again)))


@each_task
def test_without_weights_all_examples_weigh_1(task):
    outputs, batch = draw(task)
    plain = {name: array for name, array in batch.items() if name != "weight"}
    ones = {**batch, "weight": np.ones(N, bool)}
    assert_close(measured(task, outputs, plain), measured(task, outputs, ones), rtol=1e-6)


@each_task
@pytest.mark.usefixtures("float64")
def test_the_gradient_is_that_of_finite_differences(task):
    outputs, batch = draw(task, np.float64)
    direction = np.random.default_rng(1).normal(size=outputs.shape)

    _, gradient = loss_and_gradient(task, outputs, batch)
    after, before = (loss_and_gradient(task, outputs + step * direction, batch)[0] for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(gradient * direction), (after - before) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [
        (Classification(), "label", CLASSES),
        (Classification(class_weights=WEIGHTS), "label", -1),
        (MultiLabel(), "label", 2),
        (MultiLabel(), "label", -1),
        (Segmentation(CLASSES), "mask", CLASSES),
        (Segmentation(CLASSES, ignore_index=None), "mask", 255),
        (Segmentation(CLASSES, class_weights=WEIGHTS, dice_weight=1.0), "mask", 254),
    ],
)
def test_a_label_out_of_range_makes_the_loss_and_its_gradient_nan(task, name, value):
    outputs, batch = draw(task)
    batch = {key: array for key, array in batch.items() if key != "weight"}
    if task == Segmentation(CLASSES, ignore_index=None):
        batch["mask"] = batch["mask"] % CLASSES
    assert np.isfinite(loss_and_gradient(task, outputs, batch)[0])
    batch[name].reshape(-1)[0] = value
    total, gradient = loss_and_gradient(task, outputs, batch)
    assert np.isnan(total)
    bad = np.isnan(np.asarray(gradient)).reshape(N, -1)
    assert bad[0].any()
    assert not bad[1:].any()


@pytest.mark.parametrize(
    "options",
    [{}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.2}, {"class_weights": WEIGHTS, "label_smoothing": 0.2}],
)
@pytest.mark.parametrize("shares", [False, True])
def test_classification_against_torch(options, shares):
    torch = pytest.importorskip("torch")
    task, random = Classification(**options), np.random.default_rng(0)
    outputs, batch = draw(task)
    batch = {"label": random.dirichlet(np.ones(CLASSES), N).astype(np.float32) if shares else batch["label"]}
    mean = task.loss(jnp.asarray(outputs), batch)
    labels = torch.from_numpy(batch["label"] if shares else batch["label"].astype(np.int64))
    weights = torch.tensor(options["class_weights"]) if "class_weights" in options else None

    def expected(reduction):
        return torch.nn.functional.cross_entropy(
            torch.from_numpy(outputs),
            labels,
            weights,
            label_smoothing=options.get("label_smoothing", 0.0),
            reduction=reduction,
        ).item()

    np.testing.assert_allclose(mean.total, expected("sum"), rtol=1e-5)
    if not shares:
        np.testing.assert_allclose(mean.value, expected("mean"), rtol=1e-5)


def test_the_weight_of_shares_is_the_mean_of_those_of_the_classes():
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32)
    mean = Classification(class_weights=(1.0, 3.0, 7.0)).loss(jnp.zeros((2, 3)), {"label": shares})
    np.testing.assert_allclose(mean.weight, 2.0 + 7.0)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_multi_label_against_torch(weights):
    torch = pytest.importorskip("torch")
    outputs, batch = draw(MultiLabel())
    mean = MultiLabel(positive_weights=weights).loss(jnp.asarray(outputs), {"label": batch["label"]})
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(outputs),
        torch.from_numpy(batch["label"]).float(),
        pos_weight=None if weights is None else torch.tensor(weights),
    )
    np.testing.assert_allclose(mean.value, expected.item(), rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "function", "options"),
    [
        (Regression(), "mse_loss", {}),
        (Regression("absolute"), "l1_loss", {}),
        (Regression("huber", huber_delta=0.4), "huber_loss", {"delta": 0.4}),
    ],
)
def test_regression_against_torch(task, function, options):
    torch = pytest.importorskip("torch")
    outputs, batch = draw(task)
    mean = task.loss(jnp.asarray(outputs), {"target": batch["target"]})
    expected = getattr(torch.nn.functional, function)(
        torch.from_numpy(outputs), torch.from_numpy(batch["target"]), **options
    )
    np.testing.assert_allclose(mean.value, expected.item(), rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.2, "class_weights": WEIGHTS}]
)
def test_the_cross_entropy_of_segmentation_against_torch(options):
    torch = pytest.importorskip("torch")
    task = Segmentation(CLASSES, **options)
    outputs, batch = draw(task)
    mean = task.loss(jnp.asarray(outputs), {"mask": batch["mask"]})
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(outputs).permute(0, 3, 1, 2),
        torch.from_numpy(batch["mask"].astype(np.int64)),
        torch.tensor(options["class_weights"]) if "class_weights" in options else None,
        ignore_index=255,
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    np.testing.assert_allclose(mean.value, expected.item(), rtol=1e-5)


def test_the_dice_loss_is_its_definition_image_by_image():
    plain, with_dice = Segmentation(CLASSES), Segmentation(CLASSES, dice_weight=0.7)
    outputs, batch = draw(plain)
    expected = 0.0
    for logits, mask, weight in zip(outputs, batch["mask"], batch["weight"], strict=True):
        counted = mask != 255
        if not counted.any():
            continue
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        scores = []
        for index in np.unique(mask[counted]):
            p, t = probabilities[counted][:, index], (mask[counted] == index).astype(float)
            scores.append(1 - 2 * np.sum(p * t) / (p.sum() + t.sum()))
        expected += 0.7 * weight * counted.sum() * np.mean(scores)
    one, other = plain.loss(jnp.asarray(outputs), batch), with_dice.loss(jnp.asarray(outputs), batch)
    np.testing.assert_allclose(other.total - one.total, expected, rtol=1e-4)
    np.testing.assert_allclose(other.weight, one.weight)


def test_classification_metrics_against_scikit_learn():
    outputs, batch = draw(Classification())
    numbers = figures(Classification().metrics(jnp.asarray(outputs), batch))
    labels, weight = batch["label"], batch["weight"]
    np.testing.assert_allclose(
        numbers["accuracy"], sklearn.accuracy_score(labels, outputs.argmax(1), sample_weight=weight), rtol=1e-6
    )
    np.testing.assert_allclose(
        numbers["top5_accuracy"],
        sklearn.top_k_accuracy_score(labels, outputs, k=5, sample_weight=weight, labels=range(CLASSES)),
        rtol=1e-6,
    )
    assert "top5_accuracy" not in Classification().metrics(jnp.asarray(outputs)[:, :5], batch)


def test_of_several_largest_logits_the_first_is_the_prediction():
    sums = Classification().metrics(jnp.array([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0]]), {"label": np.array([1, 2])})
    assert float(sums["accuracy"].total) == 1


def test_the_label_of_shares_is_the_largest():
    shares = np.array([[0.4, 0.6], [0.9, 0.1]], np.float32)
    sums = Classification().metrics(jnp.array([[0.0, 1.0], [0.0, 1.0]]), {"label": shares})
    assert sums["accuracy"] == Mean(1, 2)


def test_classes_of_a_classification_against_scikit_learn():
    task = Classification(per_class=True)
    outputs, batch = draw(task)
    sums = task.metrics(jnp.asarray(outputs), batch)
    expected = sklearn.precision_recall_fscore_support(
        batch["label"],
        outputs.argmax(1),
        labels=range(CLASSES),
        sample_weight=batch["weight"],
        zero_division=np.nan,
    )
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(sums[name].value, values, rtol=1e-5)
    np.testing.assert_allclose(sums["recall"].weight, expected[3], rtol=1e-5)


def test_multi_label_metrics_against_scikit_learn():
    task = MultiLabel(threshold=0.6)
    outputs, batch = draw(task)
    batch["label"][:, 2] = 0
    sums = task.metrics(jnp.asarray(outputs), batch)
    predicted = 1 / (1 + np.exp(-outputs)) >= 0.6
    options = {"sample_weight": batch["weight"], "zero_division": np.nan}
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(batch["label"], predicted, **options)
    np.testing.assert_allclose(sums["precision"].value, precision, rtol=1e-5)
    np.testing.assert_allclose(sums["recall"].value, recall, rtol=1e-5)
    np.testing.assert_allclose(sums["f1"].value, f1, rtol=1e-5)
    np.testing.assert_allclose(task.report(sums)["mean_f1"], np.nanmean(f1), rtol=1e-5)
    assert np.isnan(recall[2])
    np.testing.assert_allclose(task.report(sums)["mean_recall"], np.nanmean(recall), rtol=1e-5)
    np.testing.assert_allclose(
        sums["subset_accuracy"].value,
        sklearn.accuracy_score(batch["label"], predicted, sample_weight=batch["weight"]),
        rtol=1e-5,
    )


def test_regression_figures_against_scikit_learn():
    task = Regression()
    outputs, batch = draw(task)
    numbers = task.report(task.metrics(jnp.asarray(outputs), batch))
    options = {"sample_weight": batch["weight"]}
    np.testing.assert_allclose(
        numbers["rmse"], np.sqrt(sklearn.mean_squared_error(batch["target"], outputs, **options)), rtol=1e-5
    )
    np.testing.assert_allclose(
        numbers["mae"], sklearn.mean_absolute_error(batch["target"], outputs, **options), rtol=1e-5
    )


def test_segmentation_metrics_against_scikit_learn():
    task = Segmentation(CLASSES)
    outputs, batch = draw(task)
    outputs[..., 4] = -100  # never predicted
    mask = batch["mask"]
    mask[mask == 4] = 1  # and not there
    sums = task.metrics(jnp.asarray(outputs), batch)
    counted = mask != 255
    truth, predicted = mask[counted], outputs.argmax(-1)[counted]
    weight = np.broadcast_to(batch["weight"][:, None, None], mask.shape)[counted]
    options = {"sample_weight": weight, "labels": range(CLASSES), "average": None, "zero_division": np.nan}
    iou = sklearn.jaccard_score(truth, predicted, **options | {"zero_division": 0})
    occurring = np.arange(CLASSES) != 4
    np.testing.assert_allclose(sums["iou"].value[occurring], iou[occurring], rtol=1e-5)
    assert sums["iou"].weight[4] == 0
    np.testing.assert_allclose(sums["dice"].value, sklearn.f1_score(truth, predicted, **options), rtol=1e-5)
    numbers = task.report(sums)
    np.testing.assert_allclose(numbers["mean_iou"], iou[occurring].mean(), rtol=1e-5)
    np.testing.assert_allclose(
        numbers["pixel_accuracy"], sklearn.accuracy_score(truth, predicted, sample_weight=weight), rtol=1e-5
    )


def test_segmentation_metrics_of_several_batches_are_those_of_one_confusion_matrix():
    task, matrix, sums = Segmentation(CLASSES), np.zeros((CLASSES, CLASSES)), {}
    for seed in range(3):
        random = np.random.default_rng(seed)
        outputs = random.normal(size=(2, 5, 6, CLASSES)).astype(np.float32)
        mask = random.choice([0, 1, 2, 3, 255], size=(2, 5, 6))
        for row, column in zip(mask.ravel(), outputs.argmax(-1).ravel(), strict=True):
            if row != 255:
                matrix[row, column] += 1
        sums = add_sums(sums, task.metrics(jnp.asarray(outputs), {"mask": mask}))
    shared, areas = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
    np.testing.assert_array_equal(sums["iou"].total, shared)
    np.testing.assert_array_equal(sums["iou"].weight, areas - shared)
    np.testing.assert_array_equal(sums["dice"].value, 2 * shared / areas)
    assert sums["pixel_accuracy"].value == shared.sum() / matrix.sum()


def eroded(region, times):
    """Removes, several times, the pixels of a region that have a neighbour outside of it or of the image."""
    for _ in range(times):
        around = np.pad(region, 1)
        rows, columns = region.shape
        region = np.all([around[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    return region


@pytest.mark.parametrize(("width", "times"), [(0.02, 1), (0.05, 2), (0.08, 3)])
def test_the_boundary_iou_is_that_of_bands_along_the_outlines(width, times):
    # A diagonal of 37 pixels: 0.02, 0.05 and 0.08 of it are 0.7, 1.9 and 3.0 pixels.
    random = np.random.default_rng(0)
    blobs = random.normal(size=(3, 6, 4, 3)).repeat(5, 1).repeat(6, 2)
    outputs = blobs + random.normal(size=blobs.shape) * 0.3
    mask = blobs.argmax(-1)
    mask[1, 4:9, 3:20] = 255
    weight = np.array([1.0, 2.0, 0.0], np.float32)
    shared, union = np.zeros(3), np.zeros(3)
    for truth, predicted, w in zip(mask, outputs.argmax(-1), weight, strict=True):
        for k in range(3):
            one, other = truth == k, (predicted == k) & (truth != 255)
            bands = [region & ~eroded(region, times) for region in (one, other)]
            shared[k] += w * np.sum(bands[0] & bands[1])
            union[k] += w * np.sum(bands[0] | bands[1])
    task = Segmentation(3, boundary_width=width)
    sums = task.metrics(jnp.asarray(outputs), {"mask": mask, "weight": weight})
    np.testing.assert_array_equal(sums["boundary_iou"].total, shared)
    np.testing.assert_array_equal(sums["boundary_iou"].weight, union)
    assert task.report(sums)["mean_boundary_iou"] == pytest.approx(np.mean(shared / union))
    assert "boundary_iou" not in Segmentation(3).metrics(jnp.asarray(outputs), {"mask": mask})


def test_decoding():
    logits = np.array([[0.0, np.log(3)]], np.float32)
    np.testing.assert_allclose(Classification().decode(jnp.asarray(logits)), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(MultiLabel().decode(jnp.asarray(logits)), [[0.5, 0.75]], rtol=1e-6)
    np.testing.assert_array_equal(Regression().decode(jnp.asarray(logits)), logits)
    mask = Segmentation(2).decode(jnp.asarray(logits)[None, None])
    assert (mask.dtype, mask.tolist()) == (jnp.int32, [[[1]]])


def test_figures_of_no_weight_are_nan():
    numbers = figures({"loss": Mean(0.0, 0.0), "iou": Mean(np.zeros(3), np.zeros(3))})
    assert all(np.isnan(number) for number in numbers.values())


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (ValueError, lambda: Classification(label_smoothing=1.0), r"label_smoothing in \[0, 1\), got 1.0"),
        (TypeError, lambda: Classification(class_weights=[1.0, 2.0]), r"class_weights as a tuple"),
        (ValueError, lambda: Classification(class_weights=(1.0, -1.0)), r"class_weights of at least 0"),
        (ValueError, lambda: Classification(class_weights=(0.0, 0.0)), r"class_weights of at least 0.* not all 0"),
        (ValueError, lambda: MultiLabel(threshold=1.0), r"threshold in \(0, 1\), got 1.0"),
        (ValueError, lambda: MultiLabel(positive_weights=(float("nan"),)), "positive_weights of at least 0"),
        (ValueError, lambda: Regression("cubic"), r"error among \('squared', 'absolute', 'huber'\), got 'cubic'"),
        (ValueError, lambda: Regression("huber", huber_delta=0.0), "huber_delta above 0, got 0.0"),
        (ValueError, lambda: Segmentation(1), "at least 2 classes, the background included, got 1"),
        (ValueError, lambda: Segmentation(2, dice_weight=-1.0), "dice_weight of at least 0, got -1.0"),
        (ValueError, lambda: Segmentation(2, boundary_width=1.0), r"a boundary_width in \(0, 1\), got 1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(error, make, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("task", "shape", "batch", "message"),
    [
        (Classification(), (2, 3), {"image": 0}, r"Classification expects a batch with 'label', got \['image'\]"),
        (MultiLabel(), (2, 3), {"label": np.zeros((2, 2))}, r"MultiLabel expects .* got \(2, 3\) and \(2, 2\)"),
        (Regression(), (2, 3), {"target": np.zeros(2)}, r"Regression expects .* got \(2, 3\) and \(2,\)"),
        (Segmentation(3), (2, 4, 4, 2), {"mask": np.zeros((2, 4, 4), int)}, r"width, 3\) and .* got \(2, 4, 4, 2\)"),
        (Segmentation(3), (2, 4, 4, 3), {"mask": np.zeros((2, 4, 3), int)}, r"got \(2, 4, 4, 3\) and \(2, 4, 3\)"),
        (
            Classification(),
            (2, 3),
            {"label": np.zeros(2, int), "weight": np.ones((2, 1))},
            r'expects "weight" of shape \(2,\), got \(2, 1\)',
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused(task, shape, batch, message):
    with pytest.raises(ValueError, match=message):
        task.loss(jnp.zeros(shape), batch)


def test_masks_of_numbers_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="expects masks of integers, got float32"):
        Segmentation(2).loss(jnp.zeros((1, 2, 2, 2)), {"mask": np.zeros((1, 2, 2), np.float32)})
