import numpy as np
import pytest
from PIL import Image


def test_digits_and_their_augmented_forms_are_drawn(jaxcnn, tmp_path):
    path = tmp_path / "pictures.png"
    done = jaxcnn("data", "preview", "digits", "--augment", "shift(2), cutout(3)", "--examples", 3, "--output", path)
    assert (done.status, done.out) == (0, f"3 examples in {path}\n")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_a_picture_is_a_function_of_the_seed(jaxcnn, tmp_path):
    pixels = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        path = tmp_path / f"{name}.png"
        options = ["--augment", "alternating_flip()", "--examples", 2, "--copies", 2, "--seed", seed, "--output", path]
        assert jaxcnn("data", "preview", "digits", *options).status == 0
        pixels.append(np.asarray(Image.open(path)).tobytes())
    assert pixels[0] == pixels[1]
    assert pixels[0] != pixels[2]


def test_masks_are_drawn(jaxcnn, tmp_path):
    path = tmp_path / "shapes.png"
    options = ["--augment", "random_resized_crop(24)", "--examples", 1, "--copies", 2, "--output", path]
    done = jaxcnn("data", "preview", "shapes", *options)
    assert (done.status, done.out) == (0, f"1 example in {path}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "flipp()"], "--augment expects augmentations among affine, "),
        (
            ["--augment", "cutout(40)"],
            "cutout expects size a whole number of pixels from 0 to 32 for this image",
        ),
        (["--examples", "0"], "--examples expects a number of at least 1, got 0"),
        (["--copies", "0"], "--copies expects a number of at least 1, got 0"),
        (["--seed", "-1"], "--seed expects a number of at least 0, got -1"),
        (["--output", "preview.jpg"], "--output expects a file with the extension .png, got preview.jpg"),
        (["--output", "nowhere/preview.png"], "nowhere"),
    ],
)
def test_what_cannot_be_drawn_is_refused(jaxcnn, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    done = jaxcnn("data", "preview", "digits", *options)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_unknown_data_are_named(jaxcnn):
    done = jaxcnn("data", "preview", "digitz")
    assert done.status == 2
    assert done.err.startswith("error: unknown data set 'digitz'; did you mean digits?")


def test_objects_are_drawn(jaxcnn, tmp_path):
    path = tmp_path / "scenes.png"
    options = ["--augment", "flip()", "--examples", 1, "--copies", 1, "--output", path]
    done = jaxcnn("data", "preview", "digit_instances", *options)
    assert (done.status, done.out) == (0, f"1 example in {path}\n")
