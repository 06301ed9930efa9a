import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn import load
from jaxcnn.interop.preprocessing import Preprocessing
from jaxcnn.interop.weights import save_torch
from jaxcnn.layers import Conv, Function, Sequential
from jaxcnn.models.catalog import CATALOG, Entry
from jaxcnn.tasks import Segmentation
from jaxcnn.training.run_folder import RunFolder


def segmenter(num_classes=2, *, in_channels=3):
    """A small model that gives logits for each pixel."""
    return Sequential(conv=Conv(in_channels, 8), relu=Function(jax.nn.relu), head=Conv(8, num_classes, 1))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 40 pictures of 8x8 pixels with a bright rectangle, and their masks."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(40):
        mask = np.zeros((8, 8), np.uint8)
        top, left = rng.integers(0, 4, 2)
        mask[top : top + 4, left : left + 5] = 1
        pixels = rng.integers(0, 100, (8, 8, 3)) + 150 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("ground\nobject\n")
    return folder


@pytest.fixture(scope="session")
def segmented(finish, pictures):
    """A finished run on these pictures, not to be changed."""
    options = ["--batch-size", 6, "--epochs", 12, "--learning-rate", 0.05, "--augment", "crop-flip"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOG, "segmenter", Entry(segmenter, (8, 8, 3), 2, ("in_channels",), 0, 0, 1, "segmentation"))
        words = ["train", "--model", "segmenter", "--data", pictures, *options]
        return finish(lambda run: [*words, "--run-dir", run], pictures=True)


def test_the_task_is_that_of_the_data(segmented):
    folder, output = RunFolder(segmented), segmented.with_name("output").read_text()
    assert folder.config["task"] == "Segmentation(2)"
    assert folder.config["class_names"] == ["ground", "object"]
    assert folder.result()["test_mean_iou"] > 0.7
    figure = f"{folder.result()['test_mean_iou']:.2%}"
    assert re.search(rf"best epoch \d+: validation mean IoU \d+\.\d\d%\ntest mean IoU {figure}\npictures", output)
    for name in ("curves.png", "masks.png"):
        with Image.open(segmented / name) as image:
            assert np.asarray(image.convert("L"), float).std() > 5


def test_evaluate_measures_outlines_where_it_is_asked_to(jaxcnn, segmented):
    done = jaxcnn("evaluate", segmented, "--boundary-iou")
    assert re.search(r"mean boundary IoU \d+\.\d\d%", done.out)
    assert re.search(r"class +IoU +dice +boundary IoU\n", done.out)


def test_evaluate_shows_every_class(jaxcnn, segmented):
    done = jaxcnn("evaluate", segmented)
    result = RunFolder(segmented).result()
    first, empty, headings, _, *rows = done.out.splitlines()
    for name, words in (("pixel_accuracy", "pixel accuracy"), ("mean_iou", "mean IoU"), ("mean_dice", "mean dice")):
        assert f"{words} {result[f'test_{name}']:.2%}" in first
    assert first.endswith(f"loss {result['test_loss']:.4f}")
    assert empty == ""
    assert headings.split() == ["class", "IoU", "dice"]
    each = {row.split()[0]: float(row.split()[1].rstrip("%")) for row in rows}
    assert list(each) == ["ground", "object"]
    assert np.mean(list(each.values())) == pytest.approx(100 * result["test_mean_iou"], abs=0.01)


def test_predict_writes_masks_and_overlays(jaxcnn, segmented, pictures, tmp_path):
    files = [pictures / "images" / f"{number}.png" for number in (3, 4)]
    (tmp_path / "other").mkdir()
    shutil.copy(files[1], tmp_path / "other" / "3.png")  # of the name of another one
    done = jaxcnn("predict", segmented, *files, tmp_path / "other" / "3.png", "--masks", tmp_path / "out")
    assert done.status == 0
    lines = done.out.splitlines()
    assert re.fullmatch(rf"{files[0]}  +ground \d+\.\d%  object \d+\.\d%", lines[0])
    assert lines[3] == f"masks and overlays: {tmp_path}/out"
    names = ["3-2_mask.png", "3-2_overlay.png", "3_mask.png", "3_overlay.png", "4_mask.png", "4_overlay.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    found = np.asarray(Image.open(tmp_path / "out" / "3_mask.png"))
    truth = np.asarray(Image.open(pictures / "masks" / "3.png"))
    assert (found.dtype, found.shape) == (np.uint8, (8, 8))
    assert np.mean(found == truth) > 0.8
    picture, overlay = (np.asarray(Image.open(path)) for path in (files[0], tmp_path / "out" / "3_overlay.png"))
    # The background is as it was, the object is not.
    assert (np.abs(picture.astype(int) - overlay)[found == 0] <= 1).all()
    assert (picture != overlay)[found == 1].any()


def test_a_classifier_is_refused_for_masks(jaxcnn, pictures, tmp_path):
    done = jaxcnn("train", "--model", "small_cnn", "--data", pictures, "--batch-size", 6, "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert done.err == (
        "error: expected a model for data with masks, such as small_unet, got small_cnn, which is for classification\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_published_weights_are_trained_for_other_classes(jaxcnn, pictures, tmp_path):
    name = "lraspp_mobilenet_v3_large"
    model = CATALOG[name].build(21)
    params, state = model.init(jax.random.key(0))
    save_torch(tmp_path / "weights.pth", model, params, state, architecture=f"torchvision/{name}")
    network = load(tmp_path / "weights.pth", model=name)
    assert (network.task, network.preprocessing) == (Segmentation(21), Preprocessing(520, None))
    words = ["--init-from", tmp_path / "weights.pth", "--batch-size", 6, "--epochs", 1, "--augment", "none"]
    done = jaxcnn("train", "--model", name, "--data", pictures, *words, "--run-dir", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    run = RunFolder(tmp_path / "run")
    assert run.config["task"] == "Segmentation(2)"
    assert run.config["model"].startswith("Normalized(")
    trained = load(tmp_path / "run")
    assert trained.params["head"]["fine"]["kernel"].shape == (1, 1, 40, 2)
    image = np.zeros((9, 7, 3), np.float32)
    assert trained(image[None]).shape == (1, 9, 7, 2)
    # A run goes on from another one, and from its normalization.
    words[1] = tmp_path / "run"
    done = jaxcnn("train", "--model", name, "--data", pictures, *words, "--run-dir", tmp_path / "next")
    assert (done.status, done.err) == (0, "")
    assert RunFolder(tmp_path / "next").config["model"] == run.config["model"]
