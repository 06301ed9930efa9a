import jax
import numpy as np
import pytest
from user_blocks import pyramid

from jaxcnn.benchmark.program import draw_batch
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import Conv, Function, Sequential
from jaxcnn.models import catalog


@pytest.mark.parametrize(
    "name", ["lenet5", "resnet18_cifar", "mobilenet_v2", "convnext_tiny", "unet", "small_retinanet", "small_maskrcnn"]
)
def test_a_spec_travels_as_one_line(name):
    entry = catalog.CATALOG[name]
    model = catalog.build(name)
    spec = Spec("flax", model, entry.image_shape, 8, "infer", "bfloat16", 2)
    line = spec.to_json()
    assert "\n" not in line
    assert Spec.from_json(line) == spec


def test_a_model_with_a_lambda_is_refused():
    spec = Spec("flax", Function(lambda x: x), (2, 2, 3), 1)
    with pytest.raises(ValueError, match="named ones of modules, not lambdas"):
        spec.to_json()


def test_the_batch_has_a_label_for_each_logit_vector():
    classifier = Spec("flax", catalog.build("lenet5", 7, (32, 32, 1)), (32, 32, 1), 200)
    images, labels = draw_batch(classifier)
    assert (images.shape, images.dtype) == ((200, 32, 32, 1), "float32")
    assert (labels.shape, labels.dtype, labels.min(), labels.max()) == ((200,), "int32", 0, 6)
    assert draw_batch(Spec("flax", Sequential(conv=Conv(1, 2, 3, 2)), (8, 6, 1), 3))[1].shape == (3, 4, 3)


@pytest.mark.parametrize("name", ["small_retinanet", "small_fasterrcnn", "small_maskrcnn"])
def test_a_detector_is_given_objects_of_its_classes(name):
    images, objects = draw_batch(Spec("jaxcnn", catalog.build(name, 3), (128, 96, 3), 25))
    assert images.shape == (25, 128, 96, 3)
    assert objects["boxes"].shape == (25, 8, 4)
    x1, y1, x2, y2 = np.moveaxis(objects["boxes"], -1, 0)
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x1 + 4 < x2).all()
    assert (y1 + 6 < y2).all()
    assert (x2.max() > 90, x2.max() <= 96, y2.max() > 120, y2.max() <= 128) == (True,) * 4
    assert set(objects["classes"].flat) == {0, 1, 2}
    assert objects["valid"].all()
    assert ("masks" in objects) == (name == "small_maskrcnn")
    if "masks" in objects:
        # The pixels whose corner lies in the box.
        areas = (np.ceil(x2) - np.ceil(x1)) * (np.ceil(y2) - np.ceil(y1))
        np.testing.assert_array_equal(objects["masks"].sum((-2, -1)), areas)


def test_a_model_whose_result_is_a_dict_is_refused():
    with pytest.raises(ValueError, match="expects a model whose result is one array of logits, got"):
        draw_batch(Spec("flax", pyramid(), (6, 5, 4), 2))


def test_every_contestant_draws_the_same_batch():
    spec = Spec("flax", Conv(3, 4), (4, 4, 3), 2)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), draw_batch(spec), draw_batch(spec)))
