"""Detectors in the benchmark: a step of ours and of torchvision's."""

import jax
import optax
import pytest

from jaxcnn.benchmark.peers import make_program
from jaxcnn.benchmark.peers.ours import make_model
from jaxcnn.benchmark.program import Untranslatable, draw_batch
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import count_parameters
from jaxcnn.models import catalog
from jaxcnn.training import make_train_state, make_train_step


def spec_of(name, contestant="jaxcnn", *, mode="train", size=None):
    shape = (size, size, 3) if size else catalog.CATALOG[name].image_shape
    return Spec(contestant, catalog.build(name, 5), shape, 2, mode, name=name)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("name", ["small_retinanet", "small_maskrcnn", "yolox_nano"])
def test_a_detector_steps(name, mode):
    program = make_program(spec_of(name, mode=mode, size=128 if name == "yolox_nano" else None))
    for _ in range(2):
        program.step()
    program.wait()
    result = program._result
    if mode == "train":
        assert 0 < float(result[1]) < 100
    else:
        assert result["boxes"].shape[0] == 2
        assert {"classes", "scores", "valid"} < set(result)


@pytest.mark.slow
@pytest.mark.heavy
def test_the_loss_is_that_of_the_training_step_of_users():
    spec = spec_of("small_retinanet")
    program = make_program(spec)
    program.step()
    images, objects = draw_batch(spec)
    model, optimizer = make_model(spec), optax.sgd(1e-3)
    state = make_train_state(model.params, model.state, optimizer)
    _, metrics = make_train_step(spec.model, optimizer, spec.task)(
        state, {"image": images, **objects}, jax.random.key(0)
    )
    assert float(program._result[1]) == pytest.approx(metrics.mean_loss, rel=1e-4)


@pytest.mark.parametrize("peer", ["torch", "flax", "equinox", "keras"])
def test_a_detector_is_not_translated(peer):
    with pytest.raises(Untranslatable, match="got a detector; its peer is torchvision"):
        make_program(spec_of("small_retinanet", peer))


def test_torchvision_is_a_peer_of_its_own_detectors_alone():
    pytest.importorskip("torchvision_peer")
    for name in ("small_retinanet", "lenet5"):
        with pytest.raises(Untranslatable, match=f"has no detector {name}"):
            make_program(spec_of(name, "torchvision"))


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(("name", "size"), [("retinanet_resnet50_fpn", 96), ("ssdlite320_mobilenet_v3_large", None)])
def test_torchvision_trains_the_same_detector(name, size):
    torch = pytest.importorskip("torchvision_peer").torch
    threads = torch.get_num_threads()
    program = make_program(spec_of(name, "torchvision", size=size))
    assert program.parameters == count_parameters(spec_of(name).model)
    weights = [parameter for group in program._optimizer.param_groups for parameter in group["params"]]
    before = [weight.detach().clone() for weight in weights]
    program.step()
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in weights)
    assert sum(not torch.equal(*pair) for pair in zip(before, weights, strict=True)) > len(weights) / 2
    torch.set_num_threads(threads)
