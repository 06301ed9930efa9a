import io

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Batches, in_memory, mask_folder, split
from jaxcnn.data.pictures import PictureError, picture_size, read_mask, resize_mask, resize_picture


def pixels(seed, shape=(6, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def classes(seed, shape=(6, 8)):
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), shape)


def palette(mask):
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(9).integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def write(folder, count=4, shape=(6, 8), make_mask=palette, first=0):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.fromarray(pixels(i, (*shape, 3))).save(folder / "images" / f"{i:03}.png")
        make_mask(classes(i, shape)).save(folder / "masks" / f"{i:03}.png")
    return folder


@pytest.mark.parametrize("make_mask", [palette, Image.fromarray], ids=["palette", "grey"])
def test_pictures_and_masks_come_back_as_they_were_written(make_mask, tmp_path):
    folder = write(tmp_path, make_mask=make_mask)
    (folder / "images" / ".DS_Store").write_bytes(b"hidden")
    parts = mask_folder(folder)
    assert list(parts) == ["train"]
    source = parts["train"]
    assert len(source) == 4
    assert source.class_names == ("0", "1", "2")
    for i, example in enumerate(source):
        np.testing.assert_array_equal(example["image"], pixels(i))
        np.testing.assert_array_equal(example["mask"], classes(i))
        assert {name: (array.shape, array.dtype) for name, array in example.items()} == {
            name: tuple(spec) for name, spec in source.spec.items()
        }


def test_parts_and_names_of_classes_are_read(tmp_path):
    for name, first in (("train", 0), ("val", 10), ("test", 20)):
        write(tmp_path / name, first=first)
    (tmp_path / "classes.txt").write_text("sky\n tree\n\nhouse\nroad\n")
    parts = mask_folder(str(tmp_path))
    assert list(parts) == ["train", "validation", "test"]
    for part, first in zip(parts.values(), (0, 10, 20), strict=True):
        assert part.class_names == ("sky", "tree", "house", "road")
        np.testing.assert_array_equal(part[1]["image"], pixels(first + 1))
    (tmp_path / "val").rename(tmp_path / "validation")
    assert list(mask_folder(tmp_path)) == ["train", "validation", "test"]
    assert split(parts)["test"] is parts["test"]
    batch = Batches(parts["train"], 2, seed=0)[0]
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (2, 6, 8, 3))
    assert (batch["mask"].dtype, batch["mask"].shape) == (np.uint8, (2, 6, 8))


def test_grey_pictures_have_one_channel(tmp_path):
    folder = write(tmp_path, count=1)
    grey = pixels(7, (6, 8))
    Image.fromarray(grey).save(folder / "images" / "000.png")
    np.testing.assert_array_equal(mask_folder(folder, channels=1)["train"][0]["image"][..., 0], grey)
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        mask_folder(folder, channels=4)


def test_pictures_of_different_sizes_are_resized_to_one(tmp_path):
    write(tmp_path, count=2, shape=(6, 8))
    write(tmp_path, count=2, shape=(12, 8), first=2)
    with pytest.raises(ValueError, match=r"pictures of one size, or a size for all of them.*\n.*6x8\n.*12x8$"):
        mask_folder(tmp_path)
    whole = in_memory(mask_folder(tmp_path, size=(6, 4))["train"])
    assert whole.entries["image"].shape == (4, 6, 4, 3)
    # Halving takes of each pair of pixels the second one: the nearest is a tie.
    np.testing.assert_array_equal(whole.entries["mask"][0], classes(0)[:, 1::2])
    np.testing.assert_array_equal(whole.entries["mask"][2], classes(2, (12, 8))[1::2, 1::2])


def test_resizing_equals_torch():
    torch = pytest.importorskip("torch")
    picture, mask = np.random.default_rng(0).uniform(size=(13, 17, 3)).astype(np.float32), classes(0, (13, 17))
    for size in ((7, 9), (20, 11)):
        expected = torch.nn.functional.interpolate(
            torch.tensor(np.moveaxis(picture, 2, 0)[None]), size, mode="bilinear", antialias=True
        )
        resized = resize_picture(picture, size)
        assert resized.dtype == np.float32
        np.testing.assert_allclose(np.moveaxis(resized, 2, 0), expected[0], atol=1e-5)
        nearest = torch.nn.functional.interpolate(torch.tensor(mask[None, None]), size, mode="nearest-exact")
        np.testing.assert_array_equal(resize_mask(mask, size), nearest[0, 0])


def test_all_faults_are_found_and_the_first_are_listed(tmp_path):
    folder = write(tmp_path, count=6)
    (folder / "masks" / "000.png").unlink()
    (folder / "images" / "001.png").unlink()
    (folder / "images" / "notes.txt").write_text("text")
    (folder / "masks" / "002.png").write_bytes(b"no picture")
    Image.fromarray(classes(0, (5, 5))).save(folder / "masks" / "003.png")
    with pytest.raises(ValueError, match="a picture and a mask of the same name and size for each example") as caught:
        mask_folder(folder)
    _, *faults = str(caught.value).splitlines()
    images, masks = folder / "images", folder / "masks"
    assert faults == [
        f"  {images / 'notes.txt'} is no .png file",
        f"  {images / '000.png'} has no mask {masks / '000.png'}",
        f"  {masks / '001.png'} has no picture {images / '001.png'}",
        f"  expected a picture in {str(masks / '002.png')!r} (PNG), got another format or a damaged file",
        f"  {images / '003.png'} is 6x8, but its mask {masks / '003.png'} is 5x5",
    ]
    Image.fromarray(classes(0, (5, 5))).save(folder / "masks" / "004.png")
    with pytest.raises(ValueError, match=r"is 5x5\n  and 1 more$"):
        mask_folder(folder)


def test_values_out_of_range_are_listed_with_their_files(tmp_path):
    folder = write(tmp_path)
    (folder / "classes.txt").write_text("a\nb\n")
    with pytest.raises(
        ValueError, match=r"masks of the 2 classes in classes.txt, so values from 0 to 1, or 255(.|\n)*000.png has the"
    ) as caught:
        mask_folder(folder)
    assert len(str(caught.value).splitlines()) == 5
    assert str(caught.value).endswith("003.png has the values [2]")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 2], r"every value from 0 to 1, or 255 for none; add a classes.txt(.|\n)*has the values \[2\]"),
        ([0, 254], r"every value from 0 to 1(.|\n)*has the values \[254\]"),
        (
            [0, 255],
            r"at least two classes in .*, got only the values \[0\], and 255 is no class; .* 1 in place of 255",
        ),
        ([255], r"at least two classes in .*, got only the values \[\]"),
    ],
)
def test_classes_that_cannot_be_counted_are_refused(values, message, tmp_path):
    folder = write(tmp_path, count=1)
    mask = np.resize(np.array(values, np.uint8), (6, 8))
    Image.fromarray(mask).save(folder / "masks" / "000.png")
    with pytest.raises(ValueError, match=message):
        mask_folder(folder)


@pytest.mark.parametrize("text", ["", "a\nb\na\n", "\n".join(map(str, range(256)))])
def test_names_of_classes_that_repeat_or_are_none_or_too_many_are_refused(text, tmp_path):
    folder = write(tmp_path)
    (folder / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=r"expected 1 to 255 different names in .*classes.txt', got"):
        mask_folder(folder)


def test_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere'; expected one with the folders 'images'"):
        mask_folder(tmp_path / "nowhere")
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match=r"or 'train' with these in it, and 'val' and 'test'.*got \['val'\]"):
        mask_folder(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"expected PNG files in .*images', got an empty folder"):
        mask_folder(tmp_path)
    Image.fromarray(pixels(0)).save(tmp_path / "images" / "0.png")
    with pytest.raises(FileNotFoundError, match="got no 'masks'"):
        mask_folder(tmp_path)


def test_a_set_may_not_have_two_validation_parts(tmp_path):
    for name in ("train", "val", "validation"):
        write(tmp_path / name, count=1)
    with pytest.raises(ValueError, match=r"one folder for each part in .*, got 'val' and 'validation'; join them"):
        mask_folder(tmp_path)


def test_the_fingerprint_sees_every_change_and_no_move(tmp_path):
    def fingerprint(folder, **options):
        return mask_folder(folder, **options)["train"].fingerprint

    folder = write(tmp_path / "one", shape=(100, 100))
    seen = [fingerprint(folder), fingerprint(folder, size=50), fingerprint(folder, channels=1)]
    assert fingerprint(write(tmp_path / "other", shape=(100, 100))) == seen[0]
    changed = pixels(0, (100, 100, 3))
    # In the middle of a file whose ends alone are read.
    changed[50, 50, 0] ^= 1
    assert len((folder / "images" / "000.png").read_bytes()) > 3 * 4096
    Image.fromarray(changed).save(folder / "images" / "000.png")
    seen.append(fingerprint(folder))
    mask = classes(1, (100, 100))
    mask[50, 50] = (mask[50, 50] + 1) % 3
    palette(mask).save(folder / "masks" / "001.png")
    seen.append(fingerprint(folder))
    for kind in ("images", "masks"):
        (folder / kind / "003.png").rename(folder / kind / "004.png")
    seen.append(fingerprint(folder))
    (folder / "classes.txt").write_text("a\nb\nc\n")
    seen.append(fingerprint(folder))
    assert len(set(seen)) == len(seen)


def test_a_file_that_changes_its_size_later_is_refused(tmp_path):
    source = mask_folder(write(tmp_path))["train"]
    Image.fromarray(pixels(0, (9, 9, 3))).save(tmp_path / "images" / "000.png")
    with pytest.raises(ValueError, match=r"000.png is 9x9, but its mask .*000.png is 6x8"):
        source[0]


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_masks_of_few_bits_are_read_as_stored(tmp_path):
    mask = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
    (tmp_path / "bits.png").write_bytes(png(Image.fromarray(mask.astype(bool))))
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), mask)
    for bits in (1, 2, 4):
        (tmp_path / "palette.png").write_bytes(png(palette(mask), bits=bits))
        found = read_mask(tmp_path / "palette.png")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.zeros((2, 3, 3), np.uint8)), "class indices, as a palette or 8 bits of grey, got colours"),
        (Image.fromarray(np.zeros((2, 3, 4), np.uint8)), "got colours"),
        (Image.fromarray(np.zeros((2, 3), np.uint16)), "got 16 bits"),
        (Image.fromarray(np.zeros((2, 3, 2), np.uint8), "LA"), "got transparency"),
    ],
    ids=["RGB", "RGBA", "16 bits", "LA"],
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_masks_of_other_kinds_are_refused(image, message, tmp_path):
    image.save(tmp_path / "mask.png")
    with pytest.raises(PictureError, match=rf"mask.png', got a file that cannot be read: .*{message}"):
        read_mask(tmp_path / "mask.png")


def test_four_bits_of_grey_are_refused_since_they_would_be_scaled(tmp_path):
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\x12")) + chunk(b"IEND", b"")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(PictureError, match="got fewer bits"):
        read_mask(tmp_path / "mask.png")


def test_a_mask_is_a_png_file(tmp_path):
    Image.fromarray(classes(0)).save(tmp_path / "mask.bmp")
    with pytest.raises(PictureError, match=r"mask.bmp' \(PNG\), got another format"):
        read_mask(tmp_path / "mask.bmp")


def test_the_size_of_a_picture_is_that_of_the_upright_one(tmp_path):
    for orientation, expected in ((1, (6, 8)), (3, (6, 8)), (6, (8, 6))):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels(0)).save(tmp_path / "one.png", exif=exif)
        assert picture_size(tmp_path / "one.png") == expected
