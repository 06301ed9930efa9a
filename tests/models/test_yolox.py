import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from eight_scenes import learn_eight_scenes
from random_weights import random_weights

from jaxcnn import batched
from jaxcnn.layers import Composite, features, fold_batch_norm, freeze, summary
from jaxcnn.models import yolox_nano
from jaxcnn.models.detection.yolox import YOLOX, PathAggregation, yolox, yolox_head


def tiny(num_classes=3, **options):
    """A YOLOX of few channels."""
    return yolox(num_classes, depth=0.33, width=0.125, **options)


def test_a_head_has_a_row_for_each_cell_of_all_levels():
    head = yolox_head(3, (4, 6, 8), 4)
    params, state = random_weights(head, np.float32)
    rng = np.random.default_rng(0)
    levels = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3, 4), (2, 2, 6), (1, 1, 8)))
    outputs, _ = head.apply(params, state, levels, train=False)
    assert {name: leaf.shape for name, leaf in outputs.items()} == {
        "classes": (17, 3),
        "boxes": (17, 4),
        "objectness": (17,),
    }
    # Row 12 + 2 is the cell (1, 0) of the second level.
    stem, _ = head.stems["p4"].apply(params["stems"]["p4"], state["stems"]["p4"], levels[1], train=False)
    hidden, _ = head.box_towers["p4"].apply(params["box_towers"]["p4"], state["box_towers"]["p4"], stem, train=False)
    own = params["boxes"]["p4"]
    expected = hidden[1, 0] @ own["kernel"][0, 0] + own["bias"]
    np.testing.assert_allclose(outputs["boxes"][14], expected, rtol=1e-5, atol=1e-6)


def test_maps_of_any_size_are_joined():
    model = tiny()
    assert isinstance(model.neck, PathAggregation)
    assert model.map_sizes((64, 96)) == ((8, 12), (4, 6), (2, 3))
    assert model.map_sizes((70, 51)) == ((9, 7), (5, 4), (3, 2))
    image = jnp.zeros((70, 51, 3))
    outputs = jax.eval_shape(lambda: model.apply(*model.init(jax.random.key(0)), image, train=False)[0])
    assert outputs["objectness"].shape == (9 * 7 + 5 * 4 + 3 * 2,)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_new_model_expects_an_object_in_one_of_a_hundred_cells(key):
    model = tiny(5)
    outputs, _ = model.apply(*model.init(key), jax.random.uniform(key, (64, 64, 3)), train=False)
    for name in ("objectness", "classes"):
        probabilities = jax.nn.sigmoid(outputs[name])
        assert float(probabilities.mean()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.slow
@pytest.mark.heavy
def test_the_tools_of_layers_know_it():
    model = tiny(depthwise=True)
    params, state = random_weights(model, np.float32)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(40, 32, 3)), jnp.float32)
    expected, _ = model.apply(params, state, image, train=False)
    folded = fold_batch_norm(model, params, state)
    assert "BatchNorm(" not in repr(folded[0])
    again, _ = folded[0].apply(*folded[1:], image, train=False)
    for name, leaf in expected.items():
        np.testing.assert_allclose(again[name], leaf, rtol=1e-3, atol=1e-3 * float(jnp.abs(leaf).max()))
    assert folded[0].task((40, 32)) == model.task((40, 32))
    maps = features(model, params, state, image, at=["stage2", "neck", "head/class_towers/p4/conv1"])
    assert maps["stage2"].shape == (5, 4, 32)
    assert [level.shape for level in maps["neck"]] == [(5, 4, 32), (3, 2, 64), (2, 1, 128)]
    assert maps["head/class_towers/p4/conv1"].shape == (3, 2, 32)
    assert isinstance(freeze(model, "stem|stage1"), Composite)
    assert summary(model, (64, 64, 3)).parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_small_one_is_a_value_like_the_others():
    assert isinstance(yolox_nano(3), YOLOX)
    assert yolox_nano(3) == yolox(3, depth=0.33, width=0.25, depthwise=True)


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_eight_scenes_are_learned():
    model = yolox(10, depth=0.33, width=0.25)
    learned = learn_eight_scenes(model, steps=250, learning_rate=optax.cosine_decay_schedule(3e-3, 250))
    assert learned.figures["ap50"] > 0.99


@pytest.mark.heavy
@pytest.mark.slow
def test_a_training_step_has_finite_gradients_whatever_the_objects():
    model = tiny()
    params, state = model.init(jax.random.key(0))
    task = model.task((32, 32))
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), jnp.float32)

    @jax.jit
    def gradient(batch):
        def loss(params):
            outputs, _ = batched(model)(params, state, images, train=True, key=jax.random.key(1))
            mean = task.loss(outputs, batch)
            return mean.total / jnp.maximum(mean.weight, 1)

        return jax.value_and_grad(loss)(params)

    boxes = np.tile(np.float32([[0, 0, 32, 32], [30, 0, 32, 1], [5, 5, 6, 6]]), (2, 1, 1))
    for valid in (np.ones((2, 3), bool), np.zeros((2, 3), bool), np.array([[True, False, True], [False] * 3])):
        value, gradients = gradient({"boxes": boxes, "classes": np.zeros((2, 3), np.int32), "valid": valid})
        assert np.isfinite(value)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert gradient._cache_size() == 1
