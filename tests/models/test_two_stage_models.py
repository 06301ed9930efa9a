import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from eight_scenes import learn_eight_scenes
from random_weights import random_weights

from jaxcnn import batched
from jaxcnn.evaluation import paste_masks
from jaxcnn.layers import Backbone, BatchNorm, Conv, Sequential, StackedConv, features, fold_batch_norm, freeze, summary
from jaxcnn.models import small_fasterrcnn, small_maskrcnn
from jaxcnn.models.blocks import relu
from jaxcnn.models.detection.faster_rcnn import FasterRCNN, region_head, region_tower
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.mask_rcnn import MaskHead, MaskRCNN, mask_tower
from jaxcnn.models.detection.region_proposals import region_proposals
from jaxcnn.models.normalized import Normalization, normalized
from jaxcnn.ops.matching import IGNORED
from jaxcnn.tasks import RegionDetection
from jaxcnn.training import make_eval_step, make_predict_step, make_train_state, make_train_step

SIZE = (32, 24)


def tiny(kind=FasterRCNN, *, norm=None, **options):
    """A two-stage detector of a few convolutions, with strides 4 and 8."""
    body = Sequential(
        stem=Conv(3, 4, 3, 4, 1), fine=Conv(4, 6, 3, use_bias=False), norm=BatchNorm(6), coarse=Conv(6, 8, 3, 2, 1)
    )
    few = {"candidates": (40, 30), "slots": (30, 20)}
    return kind(
        Backbone(body, at=["norm", "coarse"]),
        feature_pyramid((6, 8), 5, first=2, extra_input="pooled", norm=norm),
        region_head(3, 12),
        rpn=region_proposals(5, ((6.0,), (12.0,), (20.0,)), **few),
        tower=region_tower(5, features=12, norm=norm),
        **{"strides": (4, 8), "canonical_size": 64.0, "anchor_samples": 16, "region_samples": 12, **options},
    )


def objects(*counts, slots=4, seed=0):
    """Draws the objects of images; slots without one hold nonsense."""
    rng = np.random.default_rng(seed)
    corner, span = rng.uniform(0, 12, (len(counts), 4, 2)), rng.uniform(5, 11, (len(counts), 4, 2))
    boxes = np.full((len(counts), slots, 4), np.nan, np.float32)
    boxes[:, :4] = np.concatenate([corner, corner + span], -1)
    valid = np.arange(slots) < np.array(counts)[:, None]
    return {
        "boxes": np.where(valid[..., None], boxes, np.nan),
        "classes": np.where(valid, np.arange(slots) % 3, 99).astype(np.int32),
        "valid": valid,
    }


def drawn_images(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(count, *SIZE, 3)), jnp.float32)


def loss_and_gradient(model):
    """Returns a compiled function of parameters, state and batch, and the list of its traces."""
    task, traces = model.task(SIZE), []

    @jax.jit
    def compute(params, state, batch):
        traces.append(1)

        def loss(params):
            x = task.training_input(batch["image"], batch)
            outputs, _ = batched(model)(params, state, x, train=True, key=jax.random.key(3))
            mean = task.loss(outputs, batch)
            return mean.total / mean.weight

        return jax.value_and_grad(loss)(params)

    return compute, traces


def test_a_pooled_level_is_every_second_pixel():
    neck = feature_pyramid((3, 5), 4, first=2, extra_input="pooled")
    assert neck.outputs.names == ("p2", "p3")
    rng = np.random.default_rng(0)
    maps = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((13, 9, 3), (7, 5, 5)))
    levels, _ = neck.apply(*random_weights(neck, np.float32), maps, train=False)
    assert [level.shape for level in levels] == [(13, 9, 4), (7, 5, 4), (4, 3, 4)]
    np.testing.assert_array_equal(levels[2], levels[1][::2, ::2])


def test_stacked_maps_are_convolved_one_by_one():
    layer = StackedConv(2, 3, padding=1, height=4)
    params, state = layer.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (12, 5, 2))
    y, _ = layer.apply(params, state, x, train=False)
    plain = Conv(2, 3, padding=1)
    for i in range(3):
        part, _ = plain.apply(params, state, x[4 * i : 4 * i + 4], train=False)
        np.testing.assert_allclose(y[4 * i : 4 * i + 4], part, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="StackedConv expects maps of 4 rows each, got 10 rows"):
        layer.apply(params, state, x[:10], train=False)


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("train", [True, False])
def test_proposals_are_those_of_a_loop(train):
    maps = ((8, 6), (4, 3))
    rpn = region_proposals(4, ((6.0,), (12.0,)), candidates=(30, 12), slots=(25, 7), iou_threshold=0.5)
    rpn = dataclasses.replace(rpn, score_threshold=0.3)
    rng = np.random.default_rng(0)
    logits, deltas = rng.normal(size=180).astype(np.float32), 0.4 * rng.normal(size=(180, 4)).astype(np.float32)
    outputs = {"objectness": jnp.asarray(logits), "deltas": jnp.asarray(deltas)}
    found = jax.jit(lambda outputs: rpn.propose(outputs, SIZE, maps, train=train))(outputs)
    kept, first = [], 0
    for (rows, columns), size in zip(maps, (6.0, 12.0), strict=True):
        level = []
        for place in range(rows * columns):
            for k, ratio in enumerate((0.5, 1.0, 2.0)):
                i = first + 3 * place + k
                x, y = place % columns * (24 // columns), place // columns * (32 // rows)
                half = np.array([round(size / ratio**0.5 / 2), round(size * ratio**0.5 / 2)])
                centre = np.array([x, y]) + deltas[i, :2] * 2 * half
                reach = np.exp(deltas[i, 2:]) * half
                box = np.clip([*(centre - reach), *(centre + reach)], 0, [24, 32, 24, 32])
                level.append((1 / (1 + np.exp(-logits[i])), box))
        first += 3 * rows * columns
        level = sorted(level, key=lambda pair: -pair[0])[: 30 if train else 12]
        level = [(score, box) for score, box in level if score >= 0.3 and min(box[2] - box[0], box[3] - box[1]) >= 1e-3]
        own = []
        for score, box in level:
            if all(overlap(box, other) <= 0.5 for _, other in own):
                own.append((score, box))
        kept += own
    kept = sorted(kept, key=lambda pair: -pair[0])[: 25 if train else 7]
    assert found.valid.sum() == len(kept) > 5
    np.testing.assert_allclose(found.boxes[: len(kept)], [box for _, box in kept], rtol=1e-4, atol=1e-4)
    assert not found.boxes[len(kept) :].any()


def test_training_samples_anchors_and_regions_and_adds_the_objects():
    model = tiny(sampling="first")
    params, state = model.init(jax.random.key(0))
    batch = objects(2, 0)
    x = model.task(SIZE).training_input(drawn_images(2), batch)
    outputs, _ = jax.jit(lambda x: batched(model)(params, state, x, train=True, key=jax.random.key(0)))(x)
    anchors, regions = (np.asarray(outputs[name]) for name in ("anchor_matches", "region_matches"))
    # At most half, and a quarter, belong to an object; 16 anchors count, and 12 regions.
    assert ((anchors != IGNORED).sum(1) == 16).all()
    assert 0 < (anchors[0] >= 0).sum() <= 8
    assert not (anchors[1] >= 0).any()
    assert ((regions != IGNORED).sum(1) == 12).all()
    assert 2 <= (regions[0] >= 0).sum() <= 3
    for slot in range(2):
        distance = np.abs(np.asarray(outputs["proposals"][0]) - batch["boxes"][0, slot]).max(1)
        assert distance.min() == 0
        assert regions[0, distance.argmin()] == slot
    assert outputs["classes"].shape == (2, 12, 4)
    assert outputs["boxes"].shape == (2, 12, 4, 4)


def test_the_key_chooses_the_samples():
    model = tiny()
    params, state = model.init(jax.random.key(0))
    x = model.task(SIZE).training_input(drawn_images(2), objects(2, 3))
    run = jax.jit(lambda key: batched(model)(params, state, x, train=True, key=key)[0]["anchor_matches"])
    one, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    with pytest.raises(ValueError, match="FasterRCNN draws random numbers and expects a key in training, got none"):
        jax.eval_shape(lambda: batched(model)(params, state, x, train=True))


def test_sampling_is_random_or_the_first():
    with pytest.raises(ValueError, match=r"FasterRCNN expects a sampling among \('random', 'first'\), got 'last'"):
        tiny(sampling="last")


@pytest.mark.slow
@pytest.mark.heavy
def test_slots_without_an_object_change_nothing_and_need_no_new_program():
    model = tiny()
    params, state = model.init(jax.random.key(0))
    compute, traces = loss_and_gradient(model)
    image = drawn_images(2)
    value, gradient = compute(params, state, {"image": image, **objects(2, 3)})
    assert np.isfinite(value)
    for counts in ((0, 0), (0, 4), (4, 1)):
        other, gradients = compute(params, state, {"image": image, **objects(*counts)})
        assert np.isfinite(other)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert len(traces) == 1
    more, gradients = compute(params, state, {"image": image, **objects(2, 3, slots=9)})
    assert float(more) == pytest.approx(float(value), rel=1e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6 * float(jnp.abs(one).max()))
    empty = {name: array[:, :0] for name, array in objects(0, 0).items()}
    nothing, _ = compute(params, state, {"image": image, **empty})
    none, _ = compute(params, state, {"image": image, **objects(0, 0)})
    assert float(nothing) == pytest.approx(float(none), rel=1e-6)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_training_step_hands_the_objects_to_the_model():
    model = normalized(tiny(), Normalization((0.5,) * 3, (0.2,) * 3))
    task, optimizer = model.body.task(SIZE), optax.sgd(0.01)
    step = make_train_step(model, optimizer, task, precision="bfloat16")
    batch = {"image": drawn_images(2), **objects(2, 3)}
    train_state, metrics = step(make_train_state(*model.init(jax.random.key(0)), optimizer), batch, jax.random.key(1))
    assert set(metrics.sums) == {"loss", "objectness_loss", "proposal_loss", "class_loss", "box_loss"}
    assert np.isfinite(metrics.mean_loss)
    parts = [float(mean.value) for name, mean in metrics.sums.items() if name != "loss"]
    assert metrics.mean_loss == pytest.approx(sum(parts), rel=1e-5)
    sums = make_eval_step(model, dataclasses.replace(task, measures_precision=True))(
        train_state.params, train_state.state, batch
    )
    assert np.isfinite(sums["loss"].value)
    assert set(task.report({name: mean for name, mean in sums.items() if name != "loss"})) >= {"ap50", "box_loss"}
    with pytest.raises(ValueError, match="RegionDetection expects a batch with 'boxes', got"):
        step(train_state, {"image": batch["image"]}, jax.random.key(1))


def test_boxes_stay_float32_in_bfloat16():
    model = tiny(sampling="first")
    params, state = model.init(jax.random.key(0))
    x = model.task(SIZE).training_input(drawn_images(1).astype(jnp.bfloat16), objects(2))
    outputs, _ = jax.eval_shape(lambda x: batched(model)(params, state, x, train=True, key=jax.random.key(0)), x)
    assert outputs["proposals"].dtype == jnp.float32
    assert outputs["classes"].dtype == outputs["deltas"].dtype == jnp.bfloat16


def test_detections_are_the_best_classes_of_the_proposals():
    model = tiny(score_threshold=0.2)
    task, rng = model.task(SIZE), np.random.default_rng(0)
    logits = rng.normal(size=(1, 6, 4)).astype(np.float32) * 2
    corners = rng.uniform(0, 10, (1, 6, 2))
    outputs = {
        "objectness": np.zeros((1, sum(task.level_sizes)), np.float32),
        "deltas": np.zeros((1, sum(task.level_sizes), 4), np.float32),
        "proposals": np.concatenate([corners, corners + rng.uniform(3, 9, (1, 6, 2))], -1).astype(np.float32),
        "valid": np.array([[True] * 5 + [False]]),
        "classes": logits,
        "boxes": rng.normal(size=(1, 6, 4, 4)).astype(np.float32),
    }
    found = jax.jit(task.decode)(outputs)
    wanted = []
    for i in range(5):
        p = np.exp(logits[0, i]) / np.exp(logits[0, i]).sum()
        left, top, right, bottom = outputs["proposals"][0, i]
        for label in range(3):
            dx, dy, dw, dh = outputs["boxes"][0, i, 1 + label] / [10, 10, 5, 5]
            x, y = (left + right) / 2 + dx * (right - left), (top + bottom) / 2 + dy * (bottom - top)
            w, h = (right - left) * np.exp(dw) / 2, (bottom - top) * np.exp(dh) / 2
            box = np.clip([x - w, y - h, x + w, y + h], 0, [24, 32, 24, 32])
            if p[1 + label] > 0.2:
                wanted.append((p[1 + label], label, box))
    kept = []
    for score, label, box in sorted(wanted, key=lambda row: -row[0]):
        if all(label != other or overlap(box, before) <= 0.5 for _, other, before in kept):
            kept.append((score, label, box))
    count = int(found["valid"].sum())
    assert count == len(kept) > 3
    np.testing.assert_allclose(found["scores"][0, :count], [row[0] for row in kept], rtol=1e-5)
    np.testing.assert_array_equal(found["classes"][0, :count], [row[1] for row in kept])
    np.testing.assert_allclose(found["boxes"][0, :count], [row[2] for row in kept], rtol=1e-4, atol=1e-4)


def test_the_task_says_what_outputs_it_expects():
    model = tiny()
    task = model.task(SIZE)
    assert isinstance(task, RegionDetection)
    outputs = jax.eval_shape(
        lambda key: batched(model)(*model.init(key), jnp.zeros((1, *SIZE, 3)), train=False)[0], jax.random.key(0)
    )
    batch = objects(2)
    with pytest.raises(ValueError, match=r"RegionDetection expects outputs with .* as FasterRCNN gives, got none of"):
        task.loss({name: outputs[name] for name in ("boxes", "classes")}, batch)
    with pytest.raises(ValueError, match=r"expects objectness \(batch, 504\), .* for images of 64x32, got \(1, "):
        model.task((64, 32)).loss(outputs, batch)


@pytest.mark.slow
@pytest.mark.heavy
def test_the_tools_of_layers_know_two_stage_detectors():
    model = tiny(norm=BatchNorm)
    params, state = random_weights(model, np.float32)
    image = drawn_images(1)[0]
    expected, _ = model.apply(params, state, image, train=False)
    folded = fold_batch_norm(model, params, state)
    assert "BatchNorm(" not in repr(folded[0])
    again, _ = folded[0].apply(*folded[1:], image, train=False)
    for name in ("objectness", "deltas", "proposals"):
        scale = float(jnp.abs(expected[name]).max())
        np.testing.assert_allclose(again[name], expected[name], rtol=1e-3, atol=1e-3 * scale)
    maps = features(model, params, state, image, at=["fine", "tower/convs/conv2", "tower"])
    assert maps["fine"].shape == (8, 6, 6)
    assert maps["tower/convs/conv2"].shape == (20 * 7, 7, 5)
    assert maps["tower"].shape == (20, 12)
    frozen = freeze(model, "stem|fine|norm")
    assert isinstance(frozen, FasterRCNN)
    assert summary(model, (*SIZE, 3)).parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert relu in dict(model.tower.dense.layers).values()


def masked(*counts, slots=4):
    """Returns `objects` with masks: the left half of each box."""
    batch = objects(*counts, slots=slots)
    left, top, right, bottom = (batch["boxes"][..., i, None, None] for i in range(4))
    x, y = np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0])[:, None] + 0.5
    return {**batch, "masks": (x > left) & (x < (left + right) / 2) & (y > top) & (y < bottom)}


def tiny_masks(**options):
    """`tiny` with masks."""
    detector = tiny(**options)
    fields = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector)}
    head = MaskHead(detector.head, Conv(5, 4, 1))
    return MaskRCNN(**{**fields, "head": head}, mask_tower=mask_tower(5))


@pytest.mark.slow
@pytest.mark.heavy
def test_the_loss_of_masks_is_that_of_numpy():
    model = tiny_masks(sampling="first", max_detections=6)
    params, state = model.init(jax.random.key(0))
    task, batch = model.task(SIZE), masked(2, 0)
    x = task.training_input(drawn_images(2), batch)
    outputs, _ = jax.jit(lambda x: batched(model)(params, state, x, train=True, key=jax.random.key(0)))(x)
    assert outputs["masks"].shape == (2, 3, 28, 28, 4)
    parts = jax.jit(task.metrics)(outputs, batch)
    errors = []
    for match, box, logits in zip(
        np.asarray(outputs["region_matches"][0]),
        np.asarray(outputs["proposals"][0]),
        np.asarray(outputs["masks"][0], float),
        strict=False,
    ):
        if match >= 0:
            target = cut_out(batch["masks"][0, match].astype(float), box.astype(float))
            own = logits[..., 1 + batch["classes"][0, match]]
            errors.append(np.mean(np.logaddexp(0, own) - target * own))
    assert len(errors) >= 2
    # The second image has no object.
    assert float(parts["mask_loss"].value) == pytest.approx(np.mean(errors) / 2, rel=1e-5)
    with pytest.raises(ValueError, match=r"MaskDetection expects masks \(batch, slots, 32, 24\), got \(2, 4, 8, 8\)"):
        task.loss(outputs, {**batch, "masks": batch["masks"][..., :8, :8]})


def cut_out(mask, box):
    """Averages bilinear samples in 28x28 bins of a box, as many in each as it is wide in pixels, rounded up."""
    sides = []
    for first, last, size in ((box[1], box[3], SIZE[0]), (box[0], box[2], SIZE[1])):
        extent = max(last - first, 1.0)
        count = int(np.ceil(extent / 28))
        weights = np.zeros((28, size))
        for i in range(28):
            for k in range(count):
                at = first + extent / 28 * (i + (k + 0.5) / count)
                if at <= size:
                    at = np.clip(at, 0, size - 1)
                    low = int(at)
                    weights[i, low] += (1 - at + low) / count
                    if low + 1 < size:
                        weights[i, low + 1] += (at - low) / count
        sides.append(weights)
    return sides[0] @ mask @ sides[1].T


@pytest.mark.slow
@pytest.mark.heavy
def test_masks_are_those_of_the_detections():
    model = tiny_masks(score_threshold=0.0, max_detections=6)
    params, state = random_weights(model, np.float32)
    images = drawn_images(2)
    outputs, _ = jax.jit(lambda x: batched(model)(params, state, x, train=False))(images)
    task = model.task(SIZE)
    found = jax.jit(task.decode)(outputs)
    assert found["box_masks"].shape == (2, 6, 28, 28)
    assert found["valid"].all()
    # The boxes are those of the same task without masks.
    plain = jax.jit(tiny(score_threshold=0.0, max_detections=6).task(SIZE).decode)(outputs)
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5, atol=1e-5)
    losses = jax.jit(task.metrics)(outputs, masked(3, 1))
    assert all(np.isfinite(mean.value) for mean in losses.values())
    with pytest.raises(
        ValueError, match=r"expects max_detections=6 of its task, got 9; make a model with it: dataclas"
    ):
        model.task(SIZE, max_detections=9)
    with pytest.raises(ValueError, match=r"expects agnostic=False of its task, got True; make a model with it"):
        model.task(SIZE, agnostic=True)
    assert tiny_masks(agnostic=True).task(SIZE).agnostic


@pytest.mark.heavy
@pytest.mark.slow
def test_masks_have_finite_gradients_whatever_the_objects():
    model = tiny_masks()
    params, state = model.init(jax.random.key(0))
    compute, traces = loss_and_gradient(model)
    for counts in ((2, 3), (0, 0), (4, 1)):
        value, gradients = compute(params, state, {"image": drawn_images(2), **masked(*counts)})
        assert np.isfinite(value)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert len(traces) == 1


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_small_detector_of_masks_learns_eight_scenes():
    model = dataclasses.replace(small_maskrcnn(10), region_samples=32)
    learned = learn_eight_scenes(
        model, steps=150, learning_rate=optax.cosine_decay_schedule(2e-3, 150), labels="instances"
    )
    assert learned.figures["ap50"] > 0.95
    batch = learned.batch
    predictions = make_predict_step(model, learned.task)(learned.params, learned.state, batch["image"])
    overlaps = []
    for i in range(8):
        masks = paste_masks(predictions["box_masks"][i], predictions["boxes"][i], (64, 64))
        for slot in np.flatnonzero(batch["valid"][i]):
            truth = np.asarray(batch["masks"][i, slot])
            both = [np.sum(mask & truth) / max(np.sum(mask | truth), 1) for mask in masks]
            overlaps.append(max(both))
    assert np.median(overlaps) > 0.6


def test_masks_are_pasted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    masks, boxes = rng.uniform(size=(3, 28, 28)), np.array([[2.0, 3, 16, 25], [-4, 10.5, 9.2, 40], [0, 0, 0, 0]])
    pasted = paste_masks(masks, boxes, SIZE)
    for mask, (left, top, right, bottom), result in zip(masks, boxes, pasted, strict=True):
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                inside = left < column + 0.5 < right and top < row + 0.5 < bottom
                value = 0.0
                if inside:
                    x = (column + 0.5 - left) / (right - left) * 28 - 0.5
                    y = (row + 0.5 - top) / (bottom - top) * 28 - 0.5
                    x, y = np.clip(x, 0, 27), np.clip(y, 0, 27)
                    i, j = int(min(y, 26)), int(min(x, 26))
                    value = (
                        mask[i, j] * (1 - y + i) * (1 - x + j)
                        + mask[i + 1, j] * (y - i) * (1 - x + j)
                        + mask[i, j + 1] * (1 - y + i) * (x - j)
                        + mask[i + 1, j + 1] * (y - i) * (x - j)
                    )
                assert result[row, column] == (value >= 0.5)
    with pytest.raises(ValueError, match=r"paste_masks expects masks \(slots, height, width\) and boxes \(slots, 4\)"):
        paste_masks(masks, boxes[:2], SIZE)


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_small_two_stage_detector_learns_eight_scenes():
    learned = learn_eight_scenes(small_fasterrcnn(10), steps=200, learning_rate=1e-3)
    assert learned.losses["loss"] < 0.5
    assert learned.figures["ap50"] > 0.99
