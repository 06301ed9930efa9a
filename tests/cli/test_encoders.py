"""Segmentation models with encoders on the command line, from weights of a classifier or of a whole model."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn as library
from jaxcnn import trees
from jaxcnn.cli import names, transfer
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Train
from jaxcnn.interop.weights import save_torch
from jaxcnn.models import catalog
from jaxcnn.models.normalized import normalized
from jaxcnn.tasks import Segmentation
from jaxcnn.training.run_folder import RunFolder


def drawn(name, num_classes):
    """Returns a model of the catalog with its parameters and state."""
    model = catalog.build(name, num_classes)
    return model, *jax.jit(model.init)(jax.random.key(3))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A file of a ResNet-18, as torchvision publishes it."""
    path = tmp_path_factory.mktemp("classifier") / "resnet18.pth"
    save_torch(path, *drawn("resnet18", 10), architecture="torchvision/resnet18")
    return path


@pytest.fixture(scope="module")
def smp_folder(tmp_path_factory):
    """A folder as `save_pretrained` of segmentation_models_pytorch writes it, with 3 classes."""
    folder = tmp_path_factory.mktemp("smp")
    save_torch(folder / "model.safetensors", *drawn("unet_resnet18", 3), architecture="smp/Unet-resnet18")
    config = {"_model_class": "Unet", "encoder_name": "resnet18", "classes": 3, "encoder_weights": "imagenet"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def started(source, model="unet_resnet18", **options):
    """Returns the first parameters and state of a training with 2 classes, the weights, and the notes."""
    notes, options = [], Train(model=model, init_from=str(source), **options)
    found = transfer.read_source(options, 3, notes.append)
    layer = normalized(names.build_model(options.model, 2, (32, 32, 3)), found.normalization)
    params, state = transfer.first_parameters(options, layer, jax.random.key(0), found)
    return trees.named_leaves(params), trees.named_leaves(state), found, notes


@pytest.mark.slow
@pytest.mark.heavy
def test_weights_of_a_classifier_start_the_encoder(classifier):
    params, state, source, notes = started(classifier)
    assert notes == ["weights of resnet18 for the backbone; the other layers are new"]
    for leaves, given in ((params, source.params), (state, source.state)):
        of_encoder = {name.removeprefix("encoder/") for name in leaves if name.startswith("encoder/")}
        assert of_encoder == {name for name in given if not name.startswith("head/")}
        for name in of_encoder:
            np.testing.assert_array_equal(leaves[f"encoder/{name}"], given[name])
    assert params["head/kernel"].shape == (3, 3, 16, 2)
    assert source.normalization.mean == (0.485, 0.456, 0.406)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_folder_of_the_library_starts_all_but_the_head(smp_folder):
    params, _, source, notes = started(smp_folder)
    assert notes == []
    for name, leaf in params.items():
        assert name.startswith("head/") or np.array_equal(leaf, source.params[name]), name
    assert source.normalization.std == (0.229, 0.224, 0.225)
    network = library.load(smp_folder)
    assert (network.layer, network.task) == (catalog.build("unet_resnet18", 3), Segmentation(3))


@pytest.mark.slow
@pytest.mark.heavy
def test_other_weights_are_refused(classifier, smp_folder, tmp_path):
    with pytest.raises(CommandError, match=r"(?s)weights of unet_resnet34.*nor of its backbone: .* resnet34"):
        started(classifier, model="unet_resnet34")
    with pytest.raises(CommandError, match="--head keep expects weights of unet_resnet18, got those of its backbone"):
        started(classifier, head="keep")
    with pytest.raises(CommandError, match=r"expected weights of 'unet_resnet34' .* got smp/Unet-resnet18"):
        started(smp_folder, model="unet_resnet34")


@pytest.mark.heavy
@pytest.mark.slow
def test_a_model_with_an_encoder_goes_all_the_way(jaxcnn, classifier, tmp_path):
    """Trained from a classifier, evaluated, shown, exported, and its masks predicted."""
    rng, data, run = np.random.default_rng(0), tmp_path / "data", tmp_path / "run"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for number in range(12):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 4 + number : 16 + number] = 1
        pixels = rng.integers(0, 100, (32, 32, 3)) + 150 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(data / "images" / f"{number}.png")
        Image.fromarray(mask).save(data / "masks" / f"{number}.png")
    words = ["train", "--model", "unet_resnet18", "--data", data, "--run-dir", run, "--init-from", classifier]
    done = jaxcnn(*words, "--epochs", 2, "--batch-size", 4, "--augment", "none", "--freeze", "encoder/.*")
    assert done.status == 0, done.err
    assert "weights of resnet18 for the backbone" in done.out
    assert RunFolder(run).config["task"] == "Segmentation(2)"
    assert jaxcnn("evaluate", run).status == 0
    assert jaxcnn("summary", "unet_resnet18").status == 0
    assert jaxcnn("predict", run, data / "images" / "3.png", "--masks", tmp_path / "out").status == 0
    assert np.asarray(Image.open(tmp_path / "out" / "3_mask.png")).shape == (32, 32)
    assert jaxcnn("export", run, "--output", tmp_path / "model.stablehlo", "--platforms", "cpu").status == 0
    network = library.load(run)
    image = np.asarray(rng.uniform(size=(1, 64, 32, 3)), np.float32)
    np.testing.assert_allclose(network.fold((32, 32, 3))(image), network(image), atol=1e-3)
