import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_scenes import learn_eight_scenes
from random_weights import random_weights

from jaxcnn import batched, ops
from jaxcnn.layers import Backbone, Composite, Conv, Sequential, Zip, features, fold_batch_norm, freeze, summary
from jaxcnn.models import small_retinanet
from jaxcnn.models.detection.detector import Detector
from jaxcnn.models.detection.feature_pyramid import FeaturePyramid, feature_pyramid
from jaxcnn.models.detection.retinanet import retinanet_head
from jaxcnn.models.detection.ssd import unit_length


def convolved(x, params, strides=1):
    side = params["kernel"].shape[0] // 2
    return ops.conv(x, params["kernel"], params["bias"], strides=strides, padding=((side, side), (side, side)))


@pytest.mark.parametrize("extra_input", ["backbone", "pyramid"])
def test_a_pyramid_is_that_of_the_paper(extra_input):
    neck = feature_pyramid((3, 5), 4, extra_input=extra_input)
    params, state = random_weights(neck, np.float32)
    rng = np.random.default_rng(0)
    c3, c4 = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((13, 9, 3), (7, 5, 5)))
    levels, _ = neck.apply(params, state, (c3, c4), train=False)
    top = convolved(c4, params["laterals"]["p4"])
    # The nearest pixel of the coarser map: row floor(i * 7 / 13), column floor(j * 5 / 9).
    enlarged = np.array([[top[i * 7 // 13, j * 5 // 9] for j in range(9)] for i in range(13)])
    below = convolved(c3, params["laterals"]["p3"]) + enlarged
    p4 = convolved(top, params["outputs"]["p4"])
    p6 = convolved(c4 if extra_input == "backbone" else p4, params["extra"]["p6"], 2)
    p7 = convolved(jnp.maximum(p6, 0), params["extra"]["p7"], 2)
    expected = (convolved(below, params["outputs"]["p3"]), p4, p6, p7)
    assert [level.shape[:2] for level in levels] == [(13, 9), (7, 5), (4, 3), (2, 2)]
    for got, want in zip(levels, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_pyramid_refuses_another_input_of_its_extra_levels():
    neck = feature_pyramid((3, 5), 4)
    message = r"FeaturePyramid expects an extra_input among \('backbone', 'pyramid'\), got 'p5'"
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(neck.laterals, neck.outputs, extra_input="p5")


def test_zip_refuses_other_numbers_of_maps():
    layer = Zip(a=Conv(3, 4, 1), b=Conv(3, 4, 1))
    weights = layer.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"Zip expects a tuple of maps, one for each of \('a', 'b'\), got 1 of them"):
        layer.apply(*weights, (jnp.zeros((2, 2, 3)),), train=False)
    with pytest.raises(ValueError, match=r"Zip expects a tuple of maps, .* got dict"):
        layer.apply(*weights, {"a": 1, "b": 2}, train=False)


def test_a_head_reads_each_level_alike_and_each_anchor_in_a_row():
    head = retinanet_head(3, 4, anchors=2, depth=1)
    params, state = random_weights(head, np.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)), jnp.float32)
    outputs, _ = head.apply(params, state, (x, x), train=False)
    assert {name: leaf.shape for name, leaf in outputs.items()} == {"classes": (24, 3), "boxes": (24, 4)}
    hidden = jnp.maximum(convolved(x, params["class_tower"]["conv1"]), 0)
    logits = convolved(hidden, params["class_logits"])
    # Place (1, 0), anchor 1, class 2: the third row of places has two anchors before it for each place.
    assert outputs["classes"][2 * 2 + 1, 2] == pytest.approx(float(logits[1, 0, 3 + 2]), rel=1e-5)
    np.testing.assert_array_equal(outputs["boxes"][:12], outputs["boxes"][12:])


def test_a_new_detector_expects_an_object_in_one_of_a_hundred_places(key):
    model = small_retinanet(5)
    image = jax.random.uniform(key, (64, 64, 3))
    outputs, _ = model.apply(*model.init(key), image, train=False)
    scores = jax.nn.sigmoid(outputs["classes"])
    assert float(scores.mean()) == pytest.approx(0.01, rel=0.2)
    assert float(scores.std()) < 0.01


def test_a_detector_without_a_task_says_what_it_needs():
    body = Sequential(a=Conv(3, 4), b=Conv(4, 4, strides=2))
    model = Detector(Backbone(body, at=["a", "b"]), feature_pyramid((4, 4), 4), retinanet_head(2, 4))
    with pytest.raises(NotImplementedError, match=r"Detector expects a method task\(self, image_size, \*\*options\)"):
        model.task((8, 8))
    with pytest.raises(ValueError, match="Detector"):
        model.apply(*model.init(jax.random.key(0)), jnp.zeros((2, 8, 8, 3)), train=False)


def test_the_tools_of_layers_know_detectors():
    model = small_retinanet(3)
    params, state = random_weights(model, np.float32)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(40, 32, 3)), jnp.float32)
    expected, _ = model.apply(params, state, image, train=False)
    folded = fold_batch_norm(model, params, state)
    assert "BatchNorm(" not in repr(folded[0])
    again, _ = folded[0].apply(*folded[1:], image, train=False)
    for name, leaf in expected.items():
        np.testing.assert_allclose(again[name], leaf, rtol=1e-3, atol=1e-3 * float(jnp.abs(leaf).max()))
    assert folded[0].task((40, 32)) == model.task((40, 32))
    maps = features(model, params, state, image, at=["stage2", "neck", "head/class_tower#2/conv1"])
    assert maps["stage2"].shape == (5, 4, 128)
    assert [level.shape for level in maps["neck"]] == [(5, 4, 64), (3, 2, 64)]
    assert maps["head/class_tower#2/conv1"].shape == (3, 2, 64)
    frozen = freeze(model, "stem|stage1")
    assert isinstance(frozen, Composite)
    assert summary(model, (64, 64, 3)).parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_unit_length_is_that_of_torch_at_zeros_too():
    x = jnp.asarray([[[3.0, 4.0], [0.0, 0.0]]])
    np.testing.assert_allclose(unit_length(x)[0], [[0.6, 0.8], [0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(unit_length(x)))(x)
    assert jnp.isfinite(gradient).all()


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_small_detector_learns_eight_scenes():
    learned = learn_eight_scenes(small_retinanet(10), steps=200, learning_rate=1e-3)
    assert learned.losses["loss"] < 0.2
    assert learned.figures["ap50"] > 0.99


@pytest.mark.heavy
@pytest.mark.slow
def test_a_training_step_has_finite_gradients_whatever_the_objects():
    model = small_retinanet(3)
    params, state = model.init(jax.random.key(0))
    task = model.task((32, 32))
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), jnp.float32)

    @jax.jit
    def gradient(batch):
        def loss(params):
            outputs, _ = batched(model)(params, state, images, train=True, key=jax.random.key(1))
            mean = task.loss(outputs, batch)
            return mean.total / mean.weight

        return jax.value_and_grad(loss)(params)

    boxes = np.tile(np.float32([[0, 0, 32, 32], [30, 0, 32, 1], [5, 5, 6, 6]]), (2, 1, 1))
    for valid in (np.ones((2, 3), bool), np.zeros((2, 3), bool), np.array([[True, False, True], [False] * 3])):
        value, gradients = gradient({"boxes": boxes, "classes": np.zeros((2, 3), np.int32), "valid": valid})
        assert np.isfinite(value)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert gradient._cache_size() == 1
