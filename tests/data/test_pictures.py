import io
import struct
import types
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from jaxcnn.data import pictures
from jaxcnn.data.pictures import (
    Box,
    FitPicture,
    PictureError,
    picture_size,
    read_mask,
    read_picture,
    read_picture_part,
    resize_picture,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture"


def save(path, image, kind="PNG", **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, kind, **options)
    return path


def tiff(path, pixels, *, photometric=1, sample_format=None, bits=None):
    """Writes an uncompressed grey TIFF by hand: Pillow writes few of the kinds that there are."""
    pixels = np.asarray(pixels)
    sample_format = sample_format or {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    bits = bits or 8 * pixels.itemsize
    height, width = pixels.shape
    short, long = 3, 4
    tags = [(256, long, width), (257, long, height), (258, short, bits), (259, short, 1), (262, short, photometric)]
    tags += [
        (273, long, 8),
        (277, short, 1),
        (278, long, height),
        (279, long, len(content)),
        (339, short, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory)
    return path


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
)
def test_colours_are_read_exactly(path, kind, options):
    np.testing.assert_array_equal(read_picture(save(path, PIXELS, kind, **options), 3), PIXELS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (np.array([[0, 0.25], [0.5, 1]], np.float32), {}, [[0, 0.25], [0.5, 1]]),
        (np.array([[0, 0.25], [0.5, 1]], np.float32), {"photometric": 0}, [[1, 0.75], [0.5, 0]]),
        (np.array([[0, 13107], [32768, 65535]], np.uint16), {}, [[0, 0.2], [32768 / 65535, 1]]),
        (np.array([[0, 13107], [32768, 65535]], np.uint16), {"photometric": 0}, [[1, 0.8], [32767 / 65535, 0]]),
        (np.array([[0, 51], [102, 255]], np.uint8), {}, [[0, 0.2], [0.4, 1]]),
        (np.array([[0, 51], [102, 255]], np.uint8), {"photometric": 0}, [[1, 0.8], [0.6, 0]]),
    ],
    ids=["float", "float, white is 0", "16 bits", "16 bits, white is 0", "8 bits", "8 bits, white is 0"],
)
def test_grey_of_every_depth_is_scaled_to_its_range(path, values, options, expected, channels):
    image = read_picture(tiff(path, values, **options), channels)
    levels = np.rint(255 * np.array(expected)).astype(np.uint8)
    np.testing.assert_array_equal(image, np.repeat(levels[..., None], channels, axis=2), strict=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.array([[0.5, np.nan]], np.float32),
            r"'.*picture', .* floating-point numbers in \[0, 1\], got nan to nan; scale them, and replace NaN",
        ),
        (np.array([[0.5, np.inf]], np.float32), "got 0.5 to inf"),
        (np.array([[0, 255]], np.float32), "got 0 to 255"),
        (np.array([[-0.1, 0.5]], np.float32), "got -0.1 to 0.5"),
        (np.array([[0, 1000]], np.int32), "its numbers are signed or have 32 bits"),
        (np.array([[-5, 1000]], np.int16), "its numbers are signed or have 32 bits"),
        (np.array([[0, 1000]], np.uint32), "its numbers are signed or have 32 bits"),
        (np.array([[-5, 100]], np.int8), "its numbers are signed or have 32 bits"),
    ],
)
def test_numbers_without_a_known_range_are_refused(path, values, message):
    with pytest.raises(PictureError, match=message):
        read_picture(tiff(path, values), 1)


def drawing(ink, kind):
    """A blot of ink on a transparent ground."""
    alpha = np.zeros((6, 9), np.uint8)
    alpha[2:4, 3:7] = 255
    if kind == "palette":
        image = Image.fromarray(np.where(alpha > 0, 1, 0).astype(np.uint8), "P")
        image.putpalette([9, 9, 9, *[ink] * 3])
        return image, {"transparency": 0}
    if kind == "grey key":
        return Image.fromarray(np.where(alpha > 0, ink, 7).astype(np.uint8)), {"transparency": 7}
    bands = [Image.fromarray(np.where(alpha > 0, ink, 7).astype(np.uint8))] * (1 if kind == "LA" else 3)
    return Image.merge(kind, [*bands, Image.fromarray(alpha)]), {}


@pytest.mark.filterwarnings("ignore:.*mode.*parameter is deprecated")
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "grey key"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("ink", "page"), [(0, 1), (120, 1), (180, 1), (200, 0), (255, 0)])
def test_ink_is_seen_on_the_page_that_transparent_pixels_show(path, kind, channels, ink, page):
    image, options = drawing(ink, kind)
    expected = np.full((6, 9, channels), 255 * page, np.uint8)
    expected[2:4, 3:7] = ink
    np.testing.assert_array_equal(read_picture(save(path, image, **options), channels), expected)


def test_16_bit_grey_may_have_a_transparent_value(path):
    values = np.full((6, 9), 500, np.uint16)
    values[2:4, 3:7] = 60000
    image = read_picture(save(path, Image.fromarray(values), transparency=500), 1)
    assert (image[0, 0, 0], image[2, 3, 0]) == (0, round(255 * 60000 / 65535))


def test_a_picture_without_any_ink_is_a_white_page(path):
    np.testing.assert_array_equal(read_picture(save(path, np.zeros((2, 3, 4), np.uint8)), 3), 255)


def test_a_light_picture_without_transparency_stays_as_it_is(path):
    pixels = np.full((2, 3, 4), 250, np.uint8)
    pixels[..., 3] = 255
    np.testing.assert_array_equal(read_picture(save(path, pixels), 1), 250)


TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_noted(path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    expected = TURNS[orientation](PIXELS)
    np.testing.assert_array_equal(read_picture(save(path, PIXELS, exif=exif), 3), expected)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "F"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_of_every_mode_is_turned_as_its_camera_noted(path, orientation, mode, compression):
    if mode == "I;16":
        image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(PIXELS[..., 0].astype(np.float32) / 255)
    elif mode in ("LA", "LAB"):
        bands = [Image.fromarray(np.ascontiguousarray(PIXELS[..., i])) for i in range(len(mode))]
        image = Image.merge(mode, bands)
    else:
        image = Image.fromarray(PIXELS).convert(mode)
    upright = read_picture(save(path, image, "TIFF", compression=compression), 3)
    turned = read_picture(save(path, image, "TIFF", compression=compression, tiffinfo={274: orientation}), 3)
    np.testing.assert_array_equal(turned, TURNS[orientation](upright))


def test_a_rational_number_of_the_camera_without_a_value_does_not_matter(path):
    exif = Image.Exif()
    exif[274] = 3
    exif.get_ifd(0x8769)[37380] = TiffImagePlugin.IFDRational(-1, 3)  # the exposure bias, a signed rational
    save(path, PIXELS, exif=exif)
    content = path.read_bytes()
    assert content.count(struct.pack(">ii", -1, 3)) == 1
    jpeg = save(path, PIXELS, "JPEG", exif=exif, quality=95).read_bytes()
    upright = read_picture(path, 3)
    path.write_bytes(jpeg.replace(struct.pack(">ii", -1, 3), struct.pack(">ii", -1, 0)))
    np.testing.assert_array_equal(read_picture(path, 3), upright)


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_orientation_that_is_none_does_not_matter(path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(read_picture(save(path, PIXELS, exif=exif.tobytes()), 3), PIXELS)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", "\nexif\n 8\nno numbers at all")
    np.testing.assert_array_equal(read_picture(save(path, PIXELS, pnginfo=notes), 3), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_damage_within_the_notes_of_the_camera_never_spoils_a_picture(path, kind):
    exif = Image.Exif()
    exif[271] = "a camera"
    exif.get_ifd(0x8769)[36867] = "2020:01:01 00:00:00"
    content = save(path, PIXELS, kind, exif=exif).read_bytes()
    start = content.index(b"a camera")
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(start - 30, start + 30, 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        assert read_picture(path, 3).size == PIXELS.size


def files():
    for kind, mode in [("PNG", "P"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "L"), ("WEBP", "RGBA")]:
        content = io.BytesIO()
        Image.fromarray(PIXELS).convert(mode).save(content, kind)
        yield kind, content.getvalue()


@pytest.mark.parametrize(("kind", "content"), list(files()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_file_is_a_picture_or_an_error_with_its_name(path, kind, content):
    rng, read, named = np.random.default_rng(len(kind)), 0, 0
    for turn in range(150):
        damaged = bytearray(content[: rng.integers(len(content))] if turn % 3 == 0 else content)
        for place in rng.integers(0, len(damaged) or 1, turn % 3):
            damaged[place : place + 1] = bytes([rng.choice([0, 255, rng.integers(256)])])
        path.write_bytes(damaged)
        try:
            image = read_picture(path, 3)
        except PictureError as error:
            named += str(path) in str(error)
        else:
            read += 1
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
    assert read + named == 150
    assert read
    assert named


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"DDS " + bytes(200), b"\0\0\0 ftypavif" + bytes(200)],
    ids=["EPS", "DDS", "AVIF"],
)
def test_other_kinds_are_not_decoded(path, content, monkeypatch):
    path.write_bytes(content)
    with pytest.raises(
        PictureError, match=r"expected a picture in '.*' \(PNG, JPEG, .*\), got another format or a damaged file"
    ):
        read_picture(path, 3)


def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded(path, monkeypatch):
    content = bytearray(save(path, np.zeros((1, 1), np.uint8), "BMP").read_bytes())
    content[18:26] = struct.pack("<ii", 40_000, 40_000)
    path.write_bytes(content)
    with warnings.catch_warnings(action="error"), pytest.raises(PictureError) as caught:
        read_picture(path, 1)
    assert str(path) in str(caught.value)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 53)
    message = r"at most 53 pixels in '.*', got 6x9; scale it down first"
    with pytest.raises(PictureError, match=message):
        read_picture(save(path, PIXELS), 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow refuses twice as many
    with pytest.raises(PictureError, match=r"expected .* at most 53 pixels .* got more; scale it down"):
        read_picture(path, 3)
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "MAX_PIXELS", 54)
    assert read_picture(path, 1).shape == (6, 9, 1)


def test_other_numbers_of_channels_are_refused(path):
    with pytest.raises(ValueError, match="read_picture expects 1 or 3 channels, got 2"):
        read_picture(path, 2)


def test_the_content_of_a_file_is_read_as_the_file(path):
    content = save(path, PIXELS).read_bytes()
    np.testing.assert_array_equal(read_picture(content, 3), PIXELS)
    assert picture_size(content) == (6, 9)
    mask = PIXELS[..., 0]
    np.testing.assert_array_equal(read_mask(save(path, mask).read_bytes()), mask)
    for damaged, message in ((b"", "an empty file"), (content[:50], "a file that cannot be read"), (b"x", "another")):
        with pytest.raises(PictureError, match=f"the given bytes.*{message}"):
            read_picture(damaged, 3)


def test_a_name_that_no_file_can_have_is_no_picture():
    with pytest.raises(PictureError, match=r"expected a picture, got 'a\\x00b': embedded null"):
        read_picture("a\0b", 3)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("at_least", "scale"), [((60, 120), 1), ((50, 41), 2), ((25, 40), 4), ((10, 15), 8), ((1, 1), 8), ((99, 1), 1)]
)
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_is_large_enough(path, at_least, scale, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    smooth = np.add.outer(np.arange(100), np.arange(160)).astype(np.uint8)
    pixels = np.stack([smooth, 255 - smooth, smooth // 2], axis=2)
    stored = pixels if orientation == 1 else np.rot90(pixels, 1)
    save(path, np.ascontiguousarray(stored), "JPEG", exif=exif, quality=95)
    image = read_picture(path, 3, at_least=at_least)
    assert image.shape == (-(-100 // scale), 160 // scale, 3)
    blocks = pixels[: 100 // scale * scale].reshape(100 // scale, scale, 160 // scale, scale, 3).mean((1, 3))
    assert np.abs(image[: 100 // scale] - blocks).mean() < 3


@pytest.mark.parametrize("shape", [(375, 500), (100, 161), (9, 17), (7, 30), (1, 1)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 20}])
def test_simplejpeg_gives_the_pixels_of_pillow(path, shape, options, monkeypatch):
    pytest.importorskip("simplejpeg")
    height, width = shape
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    save(
        path,
        (noise + np.add.outer(np.arange(height), np.arange(width))[..., None] % 190).astype(np.uint8),
        "JPEG",
        **options,
    )
    scales = [None, *(tuple(max(side // scale, 1) for side in shape) for scale in (2, 3, 4, 8))]
    found = [read_picture(path, 3, at_least=scale) for scale in scales]
    monkeypatch.setattr(pictures, "_simplejpeg", lambda: None)
    for scale, pixels in zip(scales, found, strict=True):
        np.testing.assert_array_equal(pixels, read_picture(path, 3, at_least=scale))


def jpeg(options):
    rows, columns = np.mgrid[:90, :70]
    colours = np.stack([rows * 2, columns * 3, (rows * columns) % 251], axis=2) + np.random.default_rng(0).integers(
        0, 20, (90, 70, 3)
    )
    stream = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).save(stream, "JPEG", **options)
    return stream.getvalue()


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "restarts": {"subsampling": 2, "restart_marker_blocks": 3},
    "a profile": {"icc_profile": b"\xff\xc0" * 40_000},
    "a comment": {"comment": b"\xff\xc0\x00\x11"},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_only_the_upper_rows_of_a_jpeg_are_decoded_if_a_part_needs_no_more(options):
    pytest.importorskip("simplejpeg")
    content = jpeg(options)
    whole = read_picture(content, 3)
    for rows in (1, 2, 15, 16, 17, 33, 47, 63, 73):
        upper = pictures._read(content, 3, None, rows)
        assert rows <= len(upper) < 90
        np.testing.assert_array_equal(upper[:rows], whole[:rows])
        part = resize_picture(whole[rows - 1 : rows, 5:60], (4, 30))
        np.testing.assert_array_equal(read_picture_part(content, 3, (90, 70), (rows - 1, 5, 1, 55), (4, 30)), part)
    for rows in (74, 89, 90):
        np.testing.assert_array_equal(pictures._read(content, 3, None, rows), whole)


WHOLE = {
    "progressive": lambda: jpeg({"progressive": True}),
    "turned": lambda: jpeg({"exif": turned_exif()}),
    "with a long tail": lambda: jpeg({}) + bytes(100),
}


def turned_exif():
    exif = Image.Exif()
    exif[274] = 3
    return exif


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_other_jpeg_files_are_decoded_as_a_whole(make):
    content = make()
    np.testing.assert_array_equal(pictures._read(content, 3, None, 5), read_picture(content, 3))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_part_of_a_jpeg_file_that_was_cut_off_is_refused(share):
    content = jpeg({})
    with pytest.raises(PictureError, match="got a file that cannot be read"):
        read_picture_part(content[: int(share * len(content))], 3, (90, 70), (0, 0, 10, 10), (8, 8))


def test_simplejpeg_decodes_what_it_can_and_pillow_the_rest(path, monkeypatch):
    calls = []

    def decode(content, colours, min_height, min_width):
        calls.append((colours, min_height, min_width))
        if content.endswith(b"damaged"):
            raise ValueError("premature end of file")
        return np.full((min_height, min_width, 3), 7, np.uint8)

    monkeypatch.setattr(pictures, "_simplejpeg", lambda: types.SimpleNamespace(decode_jpeg=decode))
    large = np.full((64, 48, 3), 100, np.uint8)
    assert read_picture(save(path, large, "JPEG"), 3).mean() == 7
    assert read_picture(path, 3, at_least=(20, 20)).shape == (32, 24, 3)
    assert calls == [("RGB", 64, 48), ("RGB", 32, 24)]
    path.write_bytes(path.read_bytes() + b"damaged")
    assert read_picture(path, 3).mean() == 100
    assert len(calls) == 3
    # Grey is luma of the decoded colours, and CMYK is not RGB.
    assert read_picture(path, 1).mean() == 100
    assert read_picture(save(path, large[..., 0], "JPEG"), 3).mean() == 100
    assert read_picture(save(path, large, "PNG"), 3).mean() == 100
    Image.fromarray(large).convert("CMYK").save(path, "JPEG")
    assert abs(read_picture(path, 3).mean() - 100) < 2
    assert read_picture(save(path, large[:7], "JPEG"), 3).mean() == 100
    assert len(calls) == 3


def test_other_formats_are_decoded_whole(path):
    np.testing.assert_array_equal(read_picture(save(path, PIXELS), 3, at_least=(1, 1)), PIXELS)


def test_a_fitted_jpeg_hardly_differs_from_that_of_the_whole_picture(path):
    row, column = np.mgrid[:400, :600] / 50
    waves = np.stack([np.sin(row), np.cos(column), np.sin(row + column)], axis=2)
    save(path, (127.5 + 127 * waves).astype(np.uint8), "JPEG", quality=95)
    for mode in ("crop", "fit", "stretch"):
        fit = FitPicture((48, 56, 3), mode)
        whole, reduced = fit.fitted(read_picture(path, 3)), fit.read(path)
        assert reduced.shape == (48, 56, 3)
        assert np.abs(whole.astype(int) - reduced).mean() < 2


@pytest.mark.parametrize("shape", [(37, 91), (91, 37), (300, 301), (12, 9), (64, 64), (1, 1), (1, 700)])
@pytest.mark.parametrize("shorter", [56, 64])
def test_a_crop_is_that_of_torchvision(shape, shorter):
    """As `Resize(shorter)` and `CenterCrop(56)` do it: the whole picture is resized, and then cropped."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    height, width = (shorter * length // min(shape) for length in shape)
    whole = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    top, left = (round((length - 56) / 2.0) for length in (height, width))
    expected = np.asarray(whole.crop((left, top, left + 56, top + 56)))
    found = FitPicture((56, 56, 3), "crop", 56 / shorter).fitted(pixels)
    assert found.dtype == np.uint8
    # The part is resized, not the whole picture; so the weights of a few pixels are rounded in another way.
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("shape", "place"), [((8, 20), np.s_[:, 6:14]), ((30, 8), np.s_[11:19])])
def test_a_picture_that_need_not_be_resized_is_cropped_exactly(shape, place):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(FitPicture((8, 8, 3), "crop").fitted(pixels), pixels[place])


@pytest.mark.parametrize("target", [(20, 10), (10, 20)])
def test_a_crop_of_any_aspect_ratio_covers_the_image(target):
    pixels = np.full((15, 35, 3), 7, np.uint8)
    np.testing.assert_array_equal(FitPicture((*target, 3), "crop").fitted(pixels), np.full((*target, 3), 7, np.uint8))
    ramp = np.tile(np.linspace(0, 1, 350, dtype=np.float32)[None, :, None], (150, 1, 1))
    cropped = FitPicture((*target, 1), "crop").fitted(ramp)[0, :, 0]
    part = 15 / 35 * target[1] / target[0]
    assert cropped[0] == pytest.approx(0.5 - part / 2, abs=0.04)
    assert cropped[-1] == pytest.approx(0.5 + part / 2, abs=0.04)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("mode", ["crop", "fit", "stretch"])
def test_8_bits_stay_8_bits_and_equal_floats_to_rounding(channels, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 22, channels), dtype=np.uint8)
    fit = FitPicture((9, 11, channels), mode)
    levels = fit.fitted(pixels)
    assert (levels.dtype, levels.shape) == (np.uint8, (9, 11, channels))
    np.testing.assert_array_equal(fit(pixels), levels.astype(np.float32) / 255)
    exact = fit.fitted(pixels / 255)
    assert exact.dtype == np.float32
    # Pillow rounds after each of its two passes.
    np.testing.assert_allclose(levels / 255, exact, atol=1.5 / 255)


def test_a_stretched_picture_is_that_of_torch():
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(0).uniform(size=(13, 17, 3)).astype(np.float32)
    tensor = torch.tensor(np.moveaxis(picture, 2, 0)[None])
    expected = torch.nn.functional.interpolate(tensor, (7, 9), mode="bilinear", antialias=True)[0]
    found = FitPicture((7, 9, 3), "stretch")(picture)
    np.testing.assert_allclose(np.moveaxis(found, 2, 0), expected, atol=1e-5)


def test_a_part_is_resized_as_in_the_whole_picture():
    pixels = np.random.default_rng(0).uniform(size=(40, 60, 1)).astype(np.float32)
    whole = resize_picture(pixels, (20, 24))
    part = resize_picture(pixels, (10, 12), Box(15.0, 10.0, 45.0, 30.0))
    np.testing.assert_allclose(part, whole[5:15, 6:18], atol=1e-5)


def test_a_size_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"a size of at least 1x1, got \(0, 5\)"):
        resize_picture(np.zeros((4, 6, 3), np.uint8), (0, 5))


SIZES = [(1, 1), (1, 7), (5, 6), (97, 61), (224, 224)]


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (33, 50), (130, 301)])
@pytest.mark.parametrize("box", [None, (0.0, 0.0, 0.6, 0.7), (0.21, 0.33, 1.0, 1.0), (0.4, 0.5, 0.401, 0.502)])
def test_pictures_are_resized_as_by_pillow_along_each_axis_with_and_without_a_compiler(shape, box, monkeypatch):
    height, width = shape
    part = (0, 0, width, height) if box is None else tuple(np.multiply(box, (width, height, width, height)).tolist())
    noise = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    kinds = [noise[0], np.full((*shape, 3), 255, np.uint8), noise[0][::-1], noise[0][:, ::-1]]
    kinds += [noise.reshape(2 * height, width, 3)[:height], noise[0].copy(order="F")]

    def expected(pixels, size):
        bilinear = Image.Resampling.BILINEAR
        narrow = Image.fromarray(pixels).resize((size[1], height), bilinear, (part[0], 0, part[2], height))
        return np.asarray(narrow.resize(size[::-1], bilinear, (0, part[1], size[1], part[3])))

    wanted = [expected(np.ascontiguousarray(pixels), size) for pixels in kinds for size in SIZES]
    for resampler in (pictures.resampler, lambda: None):
        monkeypatch.setattr(pictures, "resampler", resampler)
        found = [resize_picture(pixels, size, box and Box(*part)) for pixels in kinds for size in SIZES]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pixels_beside_a_part_of_an_array_are_not_read_into_it():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    part = pixels[5:30, 20:47]
    np.testing.assert_array_equal(resize_picture(part, (20, 20)), resize_picture(part.copy(), (20, 20)))


@pytest.mark.parametrize("box", [(-1, 0, 3, 3), (0, -0.5, 3, 3), (0, 0, 9.01, 3), (0, 0, 3, 6.01), (3, 0, 3, 3)])
def test_a_part_that_is_empty_or_not_inside_the_picture_is_refused(box):
    with pytest.raises(ValueError, match=r"resize_picture expects a box inside a picture of 6x9 pixels, got Box\("):
        resize_picture(PIXELS, (4, 4), Box(*box))


def test_a_part_may_exceed_the_picture_by_a_rounding():
    right = np.nextafter(9.0, 10.0)
    np.testing.assert_array_equal(resize_picture(PIXELS, (4, 4), Box(0, 0, right, 6)), resize_picture(PIXELS, (4, 4)))


@pytest.mark.parametrize("mode", ["crop", "fit", "stretch"])
def test_a_picture_of_the_right_size_stays_as_it_is(mode):
    np.testing.assert_array_equal(FitPicture((6, 9, 3), mode).fitted(PIXELS), PIXELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "cut"}, "expects mode to be one of crop, fit, stretch, got 'cut'"),
        ({"mode": "crop", "crop_fraction": 0.0}, r"crop_fraction in \(0, 1\], got 0"),
        ({"mode": "crop", "crop_fraction": 1.5}, r"crop_fraction in \(0, 1\], got 1.5"),
        ({"crop_fraction": 0.5}, "crop_fraction only with mode 'crop', got 0.5 with 'fit'"),
    ],
)
def test_options_of_a_fit_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FitPicture((8, 8, 3), **options)
