"""Test-time augmentation and whitened first weights in `train`, and what reads such a run."""

import jax
import numpy as np
import pytest

import jaxcnn as library
from jaxcnn.layers import MeanOverViews
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.trained_model import load_model

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """60 pictures of 10x10 pixels in two classes: light above or below."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 120, (60, 10, 10, 3), np.uint8)
    images[labels == 0, :5] += 90
    images[labels == 1, 5:] += 90
    path = tmp_path_factory.mktemp("colours") / "colours.npz"
    np.savez(path, images=images, labels=labels)
    return path


def words(data, run, *more):
    options = ("--model", "whitened_cnn", "--batch-size", 12, "--learning-rate", 0.01, "--augment", "flip()")
    return ["train", "--data", data, *options, "--epochs", 2, "--run-dir", run, *more]


@pytest.mark.heavy
@pytest.mark.slow
def test_a_run_with_views_and_whitening_is_evaluated_and_resumed_as_it_was_trained(
    jaxcnn, colours, tmp_path, at_step, ctrl_c, rows
):
    options = ("--views", "mirror-shift", "--whiten", "whiten", "--freeze", "whiten", "--optimizer", "muon")
    done = jaxcnn(*words(colours, tmp_path / "whole", *options))
    assert done.status == 0, done.err
    trained = load_model(tmp_path / "whole")
    assert isinstance(trained.layer, MeanOverViews)
    # Frozen: what the patches of the training set gave, which a drawn kernel does not have.
    kernel = np.asarray(trained.params["whiten"]["kernel"])
    np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
    figures = RunFolder(tmp_path / "whole").result()
    done = jaxcnn("evaluate", tmp_path / "whole")
    assert f"accuracy {figures['test_accuracy']:.2%}" in done.out
    at_step({2: ctrl_c})
    assert "stopped after step 2" in jaxcnn(*words(colours, tmp_path / "stopped", *options, "--workers", 0)).out
    at_step({})
    assert jaxcnn("train", "--run-dir", tmp_path / "stopped", "--resume", "--workers", 3).status == 0
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    # Without a checkpoint the first weights are computed again.
    again = tmp_path / "again"
    at_step({2: ctrl_c})
    jaxcnn(*words(colours, again, *options))
    at_step({})
    for checkpoint in (again / "checkpoints").iterdir():
        checkpoint.rename(tmp_path / checkpoint.name)
    done = jaxcnn("train", "--run-dir", again, "--resume")
    assert done.status == 0, done.err
    assert "starting again" in done.out
    assert rows(again) == rows(tmp_path / "whole")
    image = np.load(colours)["images"][0]
    net = library.load(tmp_path / "whole")
    np.testing.assert_allclose(*(net(np.stack([one]) / np.float32(255)) for one in (image, image[:, ::-1])), atol=1e-5)
    jax.clear_caches()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--whiten", "group1/conv1"], "whitened expects the path of a convolution with a bias, got 'group1/conv1'"),
        (["--whiten", "whiten", "--random-resized-crop"], "--whiten expects images of one size, got --random-resized"),
        (["--freeze", "whiten"], "--freeze has an effect only with --init-from or --whiten; give both, or omit it"),
        (
            ["--training-size", 8],
            "--training-size has an effect only with --random-resized-crop; give both",
        ),
        (
            ["--training-size", 1, 2, 3, "--random-resized-crop"],
            "training_size expects one number, or height and",
        ),
        (
            ["--training-size", 0, "--random-resized-crop"],
            "RandomResizedCrop expects size as (height, width)",
        ),
        (["--workers", -1], "--workers expects a number of at least 0, got -1"),
    ],
)
def test_options_without_a_meaning_are_refused(jaxcnn, colours, tmp_path, options, message):
    done = jaxcnn(*words(colours, tmp_path / "run", *options))
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


def test_views_of_masks_are_refused(jaxcnn, masked, tmp_path):
    words = ("train", "--model", "small_unet", "--data", masked, "--views", "mirror", "--run-dir", tmp_path / "run")
    done = jaxcnn(*words)
    assert done.status == 2
    assert "--views expects a task of whole images, whose answer does not move with the pixels, got Segm" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.heavy
def test_training_images_may_be_smaller_than_those_of_evaluation(jaxcnn, colours, tmp_path):
    sizes = ("--random-resized-crop", "--training-size", 9, "--image-size", 12)
    done = jaxcnn(*words(colours, tmp_path / "run", *sizes))
    assert done.status == 0, done.err
    config = RunFolder(tmp_path / "run").config
    assert config["prepare"] == "RandomResizedCrop((9, 9))"
    assert config["image_shape"] == [12, 12, 3]
    assert jaxcnn("evaluate", tmp_path / "run").status == 0
