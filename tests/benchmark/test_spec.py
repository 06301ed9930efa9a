import jax
import pytest
from user_blocks import pyramid

from jaxcnn.benchmark.program import draw_batch
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import Conv, Function, Sequential
from jaxcnn.models import catalog


@pytest.mark.parametrize("name", ["lenet5", "resnet18_cifar", "mobilenet_v2", "convnext_tiny", "unet"])
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


def test_a_model_whose_result_is_a_dict_is_refused():
    with pytest.raises(ValueError, match="expects a model whose result is one array of logits, got"):
        draw_batch(Spec("flax", pyramid(), (6, 5, 4), 2))


def test_every_contestant_draws_the_same_batch():
    spec = Spec("flax", Conv(3, 4), (4, 4, 3), 2)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), draw_batch(spec), draw_batch(spec)))
