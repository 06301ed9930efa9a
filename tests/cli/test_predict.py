import csv
import json
import os
import re
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import predict
from jaxcnn.data import FitPicture
from jaxcnn.tasks import Classification
from jaxcnn.training.run_folder import RunFolder


def some_pixels(height=8, width=8, channels=()):
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def raw_png(path, rows, bits, kind):
    """Writes a PNG from the bytes of its rows, for the kinds that Pillow cannot write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, samples = rows.shape[0], {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">IIBBBBB", rows.shape[1] // samples, height, bits, kind, 0, 0, 0)
    scanlines = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture
def png(tmp_path):
    return tmp_path / "image.png"


def test_a_grey_image_of_the_right_size_is_read_exactly(png):
    pixels = some_pixels()
    image = predict.read_image(save(png, pixels), FitPicture((8, 8, 1)))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], pixels.astype(np.float32) / 255)


def test_a_colour_image_of_the_right_size_is_read_exactly(png):
    pixels = some_pixels(8, 8, (3,))
    np.testing.assert_array_equal(
        predict.read_image(save(png, pixels), FitPicture((8, 8, 3))), pixels.astype(np.float32) / 255
    )


def test_a_grey_image_gives_a_colour_model_three_equal_channels(png):
    pixels = some_pixels()
    image = predict.read_image(save(png, pixels), FitPicture((8, 8, 3)))
    np.testing.assert_array_equal(image, np.repeat(pixels[..., None], 3, axis=2).astype(np.float32) / 255)


def test_a_colour_image_gives_a_grey_model_its_luma(png):
    pixels = some_pixels(8, 8, (3,))
    image = predict.read_image(save(png, pixels), FitPicture((8, 8, 1)))
    # ITU-R 601-2, as Pillow documents it.
    np.testing.assert_allclose(image[..., 0], pixels @ [0.299, 0.587, 0.114] / 255, atol=1.01 / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white(png, channels):
    pixels = some_pixels(8, 8, (4,))
    pixels[..., 3] = np.where(np.arange(8) < 4, 0, 255)
    image = predict.read_image(save(png, pixels), FitPicture((8, 8, channels)))
    opaque = predict.read_image(save(png, pixels[..., :3]), FitPicture((8, 8, channels)))
    np.testing.assert_array_equal(image[:, :4], 1)
    np.testing.assert_array_equal(image[:, 4:], opaque[:, 4:])


def test_half_transparent_pixels_are_blended_with_white(png):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 64
    np.testing.assert_allclose(predict.read_image(save(png, pixels), FitPicture((8, 8, 1))), 191 / 255, atol=1.01 / 255)


def test_grey_with_transparency_is_blended_too(png):
    grey, alpha = some_pixels(), np.where(np.arange(64).reshape(8, 8) % 2, 255, 0).astype(np.uint8)
    save(png, Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]))
    image = predict.read_image(png, FitPicture((8, 8, 1)))
    np.testing.assert_array_equal(image[..., 0], np.where(alpha == 255, grey, 255).astype(np.float32) / 255)


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_is_looked_up(png, transparent):
    places = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
    colours = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30], [255, 255, 255]], np.uint8)
    image = Image.fromarray(places).convert("P")
    image.putdata(places.ravel().tolist())
    image.putpalette(colours.ravel().tolist())
    expected = colours[places]
    if transparent:
        expected = np.where(places[..., None] == 1, 255, expected)
    save(png, image, **({"transparency": 1} if transparent else {}))
    with Image.open(png) as file:
        assert file.mode == "P"
    np.testing.assert_array_equal(predict.read_image(png, FitPicture((8, 8, 3))), expected.astype(np.float32) / 255)


def test_black_and_white_is_0_and_1(png):
    bits = some_pixels() > 127
    np.testing.assert_array_equal(
        predict.read_image(save(png, Image.fromarray(bits)), FitPicture((8, 8, 1)))[..., 0], bits
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_not_clipped(png, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    image = predict.read_image(raw_png(png, pixels, 16, 0), FitPicture((8, 8, channels)))
    for channel in range(channels):
        np.testing.assert_array_equal(image[..., channel], np.rint(pixels / 257).astype(np.float32) / 255)


@pytest.mark.parametrize(("kind", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_and_transparency_are_read_to_8_bits(png, kind, samples):
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8, samples)).astype(np.uint16)
    if kind in (4, 6):
        pixels[..., -1] = 65535
    image = predict.read_image(raw_png(png, pixels.reshape(8, -1), 16, kind), FitPicture((8, 8, 3)))
    colours = pixels[..., :3] if samples > 2 else pixels[..., :1]
    np.testing.assert_allclose(image, np.broadcast_to(colours / 65535, (8, 8, 3)), atol=1.01 / 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_read(tmp_path, mode):
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.add.outer(ramp // 2, ramp // 2)[..., None], 3, axis=2)).convert(mode)
    read = predict.read_image(save(tmp_path / "image.jpg", image, quality=95), FitPicture((32, 32, 1)))
    np.testing.assert_allclose(read[..., 0], np.add.outer(ramp // 2, ramp // 2) / 255, atol=0.03)


def test_a_picture_is_turned_as_its_camera_noted(tmp_path):
    pixels = np.tile(np.repeat(np.array([0, 255], np.uint8), 8), (16, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    read = predict.read_image(save(tmp_path / "image.jpg", pixels, quality=95, exif=exif), FitPicture((16, 16, 1)))
    np.testing.assert_allclose(read[:8], 0, atol=0.05)
    np.testing.assert_allclose(read[8:], 1, atol=0.05)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (500, 20), (20, 500), (1000, 1000)])
@pytest.mark.parametrize("grey", [0, 100, 255])
def test_an_even_image_of_any_size_stays_even(png, size, grey):
    image = predict.read_image(save(png, np.full(size, grey, np.uint8)), FitPicture((8, 12, 1)))
    assert image.shape == (8, 12, 1)
    np.testing.assert_allclose(image, grey / 255, atol=1e-6)


def test_a_picture_of_another_aspect_stands_in_the_middle_of_its_own_ground(png):
    # A white square on dark ground, left in a wide picture; the dark rows above and below are new.
    pixels = np.full((8, 24), 51, np.uint8)
    pixels[2:6, 3:9] = 255
    image = predict.read_image(save(png, pixels), FitPicture((24, 24, 1)))[..., 0]
    expected = np.full((24, 24), 0.2)
    expected[10:14, 3:9] = 1
    np.testing.assert_allclose(image, expected, atol=1e-6)
    image = predict.read_image(save(png, pixels.T.copy()), FitPicture((24, 24, 1)))[..., 0]
    np.testing.assert_allclose(image, expected.T, atol=1e-6)


def test_a_large_picture_is_averaged_down_not_sampled(png):
    # Two columns of every eight are white, and lie just where samples would be taken.
    pixels = np.tile(np.array([0, 0, 0, 255, 255, 0, 0, 0], np.uint8), (64, 8))
    image = predict.read_image(save(png, pixels), FitPicture((8, 8, 1)))[:, 1:-1]
    np.testing.assert_allclose(image, 0.25, atol=0.02)


def test_a_larger_digit_keeps_its_shape(png, digits8):
    pixels = digits8[0][0]
    image = predict.read_image(save(png, np.kron(pixels, np.ones((16, 16), np.uint8))), FitPicture((8, 8, 1)))
    assert np.corrcoef(image.ravel(), pixels.ravel())[0, 1] > 0.97


def test_a_very_long_picture_does_not_fill_the_memory(png):
    # 1 x 10,000 pixels: a square around it would hold 100 million.
    line = np.zeros((1, 10_000), np.uint8)
    line[:, 5_000:] = 255
    save(png, line)
    tracemalloc.start()
    image = predict.read_image(png, FitPicture((8, 8, 1)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.shape == (8, 8, 1)
    assert peak < 50e6


def test_a_model_of_other_channels_has_no_image_files(jaxcnn, png, monkeypatch):
    info = SimpleNamespace(image_shape=(8, 8, 2), task=Classification())
    monkeypatch.setattr(predict.trained, "load", lambda run, layer: SimpleNamespace(info=info))
    done = jaxcnn("predict", "run", save(png, some_pixels()))
    assert done.status == 2
    assert done.err == "error: predict reads images of 1 or 3 channels, but the model of the run takes 2\n"


def answer(line):
    """Splits "image.png  7 98.1%  1 1.2%" into the name and the classes with their percents."""
    name, *classes = re.split(r"  +", line)
    return name, [(c.split(" ")[0], float(c.split(" ")[1].rstrip("%"))) for c in classes]


def test_saved_digits_get_the_classes_that_the_arrays_get(jaxcnn, finished, saved, splits, tmp_path):
    test = splits["test"]
    leaves = saved(finished).leaves
    arrays = {name: np.frombuffer(content, dtype).reshape(shape) for name, (dtype, shape, content) in leaves.items()}
    y = test.images.reshape(60, -1)
    for name in ("dense1", "dense2", "head"):
        y = y @ arrays[f"best/params/{name}/kernel"] + arrays[f"best/params/{name}/bias"]
        y = y if name == "head" else np.maximum(y, 0)
    probabilities = np.exp(y) / np.exp(y).sum(1, keepdims=True)

    files = [
        save(tmp_path / f"{k}.png", np.round(image[..., 0] * 255).astype(np.uint8))
        for k, image in enumerate(test.images)
    ]
    done = jaxcnn("predict", finished, *files)
    assert done.status == 0
    lines = done.out.splitlines()
    assert len(lines) == 60
    for file, line, expected in zip(files, lines, probabilities, strict=True):
        name, classes = answer(line)
        assert name == str(file)
        assert [c for c, _ in classes] == [str(k) for k in np.argsort(-expected)[:3]]
        assert [p for _, p in classes] == pytest.approx(np.sort(100 * expected)[::-1][:3], abs=0.051)


@pytest.mark.parametrize(("top", "shown"), [(1, 1), (10, 10), (99, 10)])
def test_top_says_how_many_classes_are_printed(jaxcnn, finished, png, top, shown):
    done = jaxcnn("predict", finished, save(png, some_pixels()), "--top", top)
    _, classes = answer(done.out.rstrip("\n"))
    assert len(classes) == shown
    percents = [percent for _, percent in classes]
    assert percents == sorted(percents, reverse=True)
    if shown == 10:
        assert sum(percents) == pytest.approx(100, abs=0.5)


def test_inverting_exchanges_light_and_dark(jaxcnn, finished, digits8, tmp_path):
    light = save(tmp_path / "light.png", digits8[0][0])
    dark = save(tmp_path / "dark.png", 255 - digits8[0][0])
    plain, inverted = jaxcnn("predict", finished, light), jaxcnn("predict", finished, dark, "--invert")
    assert answer(plain.out.strip())[1] == answer(inverted.out.strip())[1]
    assert answer(jaxcnn("predict", finished, dark).out.strip())[1] != answer(plain.out.strip())[1]


def test_the_names_of_the_classes_are_printed(jaxcnn, words, no_pictures, digits8, tmp_path):
    names = np.array([f"digit-{k}" for k in range(10)])
    np.savez(tmp_path / "named.npz", images=digits8[0], labels=digits8[1], class_names=names)
    options = ["--data", tmp_path / "named.npz", "--epochs", 1, "--augment", "none"]
    jaxcnn(*words(tmp_path / "run", *options))
    done = jaxcnn("predict", tmp_path / "run", save(tmp_path / "image.png", digits8[0][0]), "--top", 10)
    assert sorted(name for name, _ in answer(done.out.strip())[1]) == sorted(names)


CUT = "cannot be read: "
NO_PICTURES = {
    "missing": (lambda path, whole: None, "got {path!r}: No such file or directory"),
    "empty": (lambda path, whole: path.write_bytes(b""), "in {path!r}, got an empty file"),
    "text": (
        lambda path, whole: path.write_bytes(b"hello"),
        "in {path!r} (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got another format or a damaged file",
    ),
    "cut": (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), "in {path!r}, got a file that " + CUT),
    "folder": (lambda path, whole: path.mkdir(), "in the folder {path!r}, got none"),
    "pipe": (lambda path, whole: os.mkfifo(path), "got {path!r}, which is not a regular file"),
    "postscript": (
        lambda path, whole: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
        "in {path!r} (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got another format or a damaged file",
    ),
}


def test_files_that_are_no_pictures_are_named_and_the_others_predicted(jaxcnn, finished, tmp_path):
    good = save(tmp_path / "good.png", some_pixels(64, 64))
    for name, (make, _) in NO_PICTURES.items():
        make(tmp_path / name, good.read_bytes())
    done = jaxcnn("predict", finished, *(tmp_path / name for name in NO_PICTURES), good, good)
    assert done.status == 1
    assert [answer(line)[0] for line in done.out.splitlines()] == [str(good)] * 2
    *errors, count = done.err.splitlines()
    for (name, (_, message)), error in zip(NO_PICTURES.items(), errors, strict=True):
        assert error.startswith("error: expected ")
        assert message.format(path=str(tmp_path / name)) in error
    assert count == f"{len(NO_PICTURES)} of {len(NO_PICTURES) + 2} images could not be read"


def test_without_any_picture_only_the_errors_are_printed(jaxcnn, finished, tmp_path):
    done = jaxcnn("predict", finished, tmp_path / "none.png")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"error: expected a picture, got {str(tmp_path / 'none.png')!r}: No such file or directory\n"


@pytest.fixture
def pictures(tmp_path, digits8):
    """A folder of digits, with folders in it, and with files that are no pictures."""
    folder = tmp_path / "pictures"
    for name in (".hidden", "b/deep", "empty"):
        (folder / name).mkdir(parents=True)
    names = ["2.PNG", "10.png", "b/1.png", "b/deep/1.png", "c.jpeg", ".hidden/1.png", ".1.png"]
    for name, image in zip(names, digits8[0], strict=False):
        save(folder / name, image)
    (folder / "b" / "0.png").write_text("no picture")
    (folder / "b" / "notes.txt").write_text("no picture either")
    return folder


FOUND = ["10.png", "2.PNG", "c.jpeg", "b/0.png", "b/1.png", "b/deep/1.png"]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_folders_are_searched_at_any_depth_in_the_order_of_names(jaxcnn, finished, pictures, batch_size):
    good = [str(pictures / name) for name in FOUND if name != "b/0.png"]
    done = jaxcnn("predict", finished, pictures, "--batch-size", batch_size)
    assert done.status == 1
    assert [answer(line)[0] for line in done.out.splitlines()] == good
    assert done.err.splitlines()[1] == "1 of 6 images could not be read"
    lines = [re.sub(" +", " ", line) for line in done.out.splitlines()]
    assert lines == [re.sub(" +", " ", jaxcnn("predict", finished, name).out.rstrip("\n")) for name in good]


def test_json_has_the_probabilities_of_all_classes_and_the_errors(jaxcnn, finished, saved, pictures):
    done = jaxcnn("predict", finished, pictures, "--json", "--batch-size", 2)
    assert done.status == 1
    records = json.loads(done.out)
    assert [record["file"] for record in records] == [str(pictures / name) for name in FOUND]
    assert list(records[3]) == ["file", "error"]
    assert "b/0.png" in records[3].pop("error")
    leaves = saved(finished).leaves
    arrays = {name: np.frombuffer(content, dtype).reshape(shape) for name, (dtype, shape, content) in leaves.items()}
    for record in records[:3] + records[4:]:
        y = predict.read_image(Path(record["file"]), FitPicture((8, 8, 1))).reshape(-1)
        for name in ("dense1", "dense2", "head"):
            y = y @ arrays[f"best/params/{name}/kernel"] + arrays[f"best/params/{name}/bias"]
            y = y if name == "head" else np.maximum(y, 0)
        expected = np.exp(y) / np.exp(y).sum()
        assert [row["class"] for row in record["classes"]] == [str(k) for k in np.argsort(-expected)]
        np.testing.assert_allclose(
            [row["probability"] for row in record["classes"]], np.sort(expected)[::-1], rtol=1e-4
        )


def test_csv_has_a_row_for_each_image_and_class(jaxcnn, finished, pictures, tmp_path):
    done = jaxcnn("predict", finished, pictures, "--csv", "--top", 2, "--output", tmp_path / "out.csv")
    assert (done.status, done.out) == (1, "")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "rank", "class", "probability", "error"]
    records = json.loads(jaxcnn("predict", finished, pictures, "--json", "--top", 2).out)
    assert [
        (row["file"], row["rank"], row["class"], float(row["probability"])) for row in rows if not row["error"]
    ] == [
        (record["file"], str(rank), each["class"], each["probability"])
        for record in records
        for rank, each in enumerate(record.get("classes", []), start=1)
    ]
    [bad] = [row for row in rows if row["error"]]
    assert bad["file"].endswith("b/0.png")
    assert bad["class"] == ""


def test_names_in_json_are_exact_and_those_in_csv_are_one_line(jaxcnn, finished, digits8, tmp_path):
    path = save(tmp_path / os.fsdecode(b'caf\xe9,"\n\x1b[2J.png'), digits8[0][0])
    done = jaxcnn("predict", finished, path, "--json", "--top", 1)
    assert json.loads(done.out)[0]["file"] == str(path)
    assert done.out.isascii()
    out = jaxcnn("predict", finished, path, "--csv", "--top", 1).out
    _, row = csv.reader(out.splitlines())
    assert row[0] == f'{tmp_path}/caf\\xe9,"\\n\\x1b[2J.png'


def test_memory_does_not_grow_with_the_number_of_images(jaxcnn, finished, digits8, tmp_path, monkeypatch):
    read, written = [], []
    one = save(tmp_path / "image.png", digits8[0][0])
    read_image = predict.read_image
    monkeypatch.setattr(predict, "read_image", lambda *arguments: read.append(len(written)) or read_image(*arguments))
    monkeypatch.setattr("jaxcnn.cli.predictions.say", lambda text, flush: written.extend(text.splitlines()))
    jaxcnn("predict", finished, *[one] * 40, "--batch-size", 4)
    assert len(written) == len(read) == 40
    # One batch is computed, one waits and one is being read.
    assert all(count - done <= 3 * 4 for count, done in enumerate(read))


def test_an_output_that_cannot_be_written_is_refused(jaxcnn, finished, png, tmp_path):
    done = jaxcnn("predict", finished, save(png, some_pixels()), "--output", tmp_path / "missing" / "out.txt")
    assert done.status == 2
    assert "does not exist" in done.err


@pytest.mark.skipif(os.getuid() == 0, reason="does not apply: the superuser may read every folder")
def test_a_folder_that_may_not_be_read_is_named(jaxcnn, finished, pictures):
    (pictures / "b").chmod(0)
    done = jaxcnn("predict", finished, pictures)
    (pictures / "b").chmod(0o700)
    assert done.status == 1
    assert f"got '{pictures / 'b'}': Permission denied" in done.err


def test_masks_and_overlays_keep_their_places_and_never_replace_each_other(jaxcnn, segmenter, masked, tmp_path):
    folder = tmp_path / "pictures"
    for place in ("one", "two"):
        (folder / place).mkdir(parents=True)
        shutil.copy(masked / "images" / f"0{len(place) % 2}.png", folder / place / "x.png")
    save(folder / "one" / "x.bmp", np.zeros((20, 10, 3), np.uint8))
    done = jaxcnn("predict", segmenter, folder, folder / "one" / "x.bmp", "--masks", tmp_path / "masks", "--json")
    assert done.status == 0
    records = json.loads(done.out)
    names = ["one/x", "one/x-2", "two/x", "x"]
    assert [record["mask"] for record in records] == [str(tmp_path / "masks" / f"{name}_mask.png") for name in names]
    weights = RunFolder(segmenter).read_best()[0]["params"]
    for record in records:
        image = predict.read_image(Path(record["file"]), FitPicture((8, 8, 3)))
        expected = (image @ np.asarray(weights["head/kernel"])[0, 0] + np.asarray(weights["head/bias"])).argmax(2)
        with Image.open(record["mask"]) as file:
            np.testing.assert_array_equal(np.asarray(file), expected)
        shares = {row["class"]: row["share"] for row in record["classes"]}
        assert shares["bright"] == pytest.approx(expected.mean(), rel=1e-5)
        with Image.open(record["overlay"]) as file:
            np.testing.assert_array_equal(np.asarray(file)[expected == 0], np.rint(255 * image[expected == 0]))


def test_masks_are_in_the_run_by_default(jaxcnn, segmenter, masked, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(segmenter, run)
    done = jaxcnn("predict", run, masked / "images" / "00.png")
    assert done.status == 0
    line, where = done.out.splitlines()
    assert re.fullmatch(r".*00\.png  (dark|bright) \d\d\.\d%  (dark|bright) \d\d\.\d%", line)
    assert where == f"masks and overlays: {run / 'masks'}"
    assert sorted(path.name for path in (run / "masks").iterdir()) == ["00_mask.png", "00_overlay.png"]


def test_names_of_files_and_classes_are_escaped(jaxcnn, words, no_pictures, digits8, tmp_path):
    names = ["\x1b[2Jred", "a\nb", "[bold]c[/bold]", "\u202ed", "\x9be", *"fghij"]
    np.savez(tmp_path / "named.npz", images=digits8[0], labels=digits8[1], class_names=np.array(names))
    trained = jaxcnn(
        *words(tmp_path / "\x1b]0;run", "--data", tmp_path / "named.npz", "--epochs", 1, "--augment", "none")
    )
    assert trained.status == 0
    assert "\\x1b]0;run" in trained.out
    files = [save(tmp_path / name, digits8[0][0], format="PNG") for name in ("\x1b[31mred\n", os.fsdecode(b"caf\xe9"))]
    broken = tmp_path / os.fsdecode(b"brok\xe9n")
    broken.write_bytes(b"no picture")
    done = jaxcnn("predict", tmp_path / "\x1b]0;run", *files, tmp_path / "\x1b[2J", broken, "--top", 10)
    assert [answer(line)[0] for line in done.out.splitlines()] == [
        f"{tmp_path}/\\x1b[31mred\\n",
        f"{tmp_path}/caf\\xe9",
    ]
    assert {name for name, _ in answer(done.out.splitlines()[0])[1]} == {
        "\\x1b[2Jred",
        "a\\nb",
        "[bold]c[/bold]",
        "\\u202ed",
        "\\x9be",
        *"fghij",
    }
    assert len(done.err.splitlines()) == 3
    assert f"'{tmp_path}/brok\\xe9n'" in done.err
    assert all(character.isprintable() or character == "\n" for character in trained.out + done.out + done.err)


def test_no_images_and_no_classes_are_refused(jaxcnn, finished, png):
    assert jaxcnn("predict", finished).err == (
        "error: predict expects image files or folders, got none: jaxcnn predict RUN image.png ...\n"
    )
    assert jaxcnn("predict", finished, png, "--top", 0).err == "error: --top expects a number at least 1, got 0\n"
    assert "--batch-size expects a number" in jaxcnn("predict", finished, png, "--batch-size", 0).err
    assert "exclude each other" in jaxcnn("predict", finished, png, "--json", "--csv").err


def test_a_folder_that_is_no_run_is_refused(jaxcnn, tmp_path):
    done = jaxcnn("predict", tmp_path, Path("image.png"))
    assert done.status == 2
    assert done.err == (
        f"error: expected the folder of a run, with a config.json, got {tmp_path}; create one with `jaxcnn train`\n"
    )
