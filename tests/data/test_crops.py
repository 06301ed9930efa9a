import math

import numpy as np
import pytest

from jaxcnn.data import ArraySpec, Batches, RandomResizedCrop, Subset, arrays, image_folder, match_classes, pictures
from jaxcnn.data.cutting import Box

image_module = pytest.importorskip("PIL.Image")


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def by_pillow(array, box, size, resampling):
    part = image_module.fromarray(array.squeeze()).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    narrow = part.resize((size[1], box.height), resampling)  # one axis at a time: the order depends on the version
    return np.asarray(narrow.resize(size[::-1], resampling)).reshape(*size, *array.shape[2:])


@pytest.mark.parametrize("channels", [1, 3])
def test_image_and_mask_are_the_part_that_pillow_cuts_out_and_resizes(channels):
    crop = RandomResizedCrop((24, 32))
    for seed in range(5):
        example = {"image": picture(50, 40, channels), "mask": picture(50, 40)[..., 0], "label": np.int32(3)}
        found = crop(np.random.default_rng(seed), example)
        box = crop.box(np.random.default_rng(seed), 50, 40)
        for name, way in (("image", image_module.Resampling.BILINEAR), ("mask", image_module.Resampling.NEAREST)):
            np.testing.assert_array_equal(found[name], by_pillow(example[name], box, (24, 32), way))
        assert found["label"] == 3
        assert example["image"].shape == (50, 40, channels)


def test_parts_have_areas_and_ratios_of_the_whole_range_and_lie_everywhere():
    crop, rng = RandomResizedCrop((8, 8), scale=(0.1, 0.5), ratio=(0.5, 2.0)), np.random.default_rng(0)
    boxes = np.array([crop.box(rng, 300, 400) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert np.all((top >= 0) & (left >= 0) & (top + height <= 300) & (left + width <= 400))
    shares, ratios = height * width / 120_000, width / height
    assert 0.099 < shares.min() < 0.11
    assert 0.48 < shares.max() < 0.503
    assert np.mean(shares) == pytest.approx(0.3, abs=0.01)
    assert 0.49 < ratios.min() < 0.53
    assert 1.9 < ratios.max() < 2.02
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.04)
    free = (300 - height) > 50
    assert np.mean(top[free] / (300 - height[free])) == pytest.approx(0.5, abs=0.03)


def test_the_whole_picture_is_a_part_too():
    crop = RandomResizedCrop((8, 8), scale=(1, 1), ratio=(1, 1))
    assert crop.box(np.random.default_rng(0), 30, 30) == Box(0, 0, 30, 30)


@pytest.mark.parametrize(
    ("size", "box"),
    [((300, 10), Box(143, 0, 13, 10)), ((10, 300), Box(0, 143, 10, 13)), ((1, 1), Box(0, 0, 1, 1))],
)
def test_a_long_picture_gives_its_centre_as_in_torchvision(size, box):
    """Expected: the fallback of torchvision's RandomResizedCrop.get_params, worked out by hand."""
    crop = RandomResizedCrop((8, 8), scale=(1, 1))
    assert crop.box(np.random.default_rng(0), *size) == box
    assert crop(np.random.default_rng(0), {"image": picture(*size)})["image"].shape == (8, 8, 3)


class Sizes:
    """A source of pictures of many sizes."""

    class_names = ()
    fingerprint = "sizes"

    def __init__(self, *more):
        shapes = {"image": (None, None, 3), "mask": (None, None), "boxes": (4,)}
        self.spec = {name: ArraySpec(shapes[name], np.dtype(np.uint8)) for name in ("image", *more)}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"image": picture(10 + index, 30 - 3 * index, seed=index)}


def test_pictures_of_many_sizes_become_batches_of_one():
    crop = RandomResizedCrop((12, 16))
    batches = Batches(Sizes(), 3, seed=5, prepare=crop, workers=2)
    assert batches.spec["image"] == ArraySpec((12, 16, 3), np.dtype(np.uint8))
    images = np.concatenate([batches[2]["image"], batches[3]["image"]])
    assert (images.shape, images.dtype) == ((6, 12, 16, 3), np.uint8)
    # By hand: epoch 1, in its order.
    order = np.random.default_rng([5, 1]).permutation(6)
    for image, index in zip(images, order.tolist(), strict=True):
        rng = np.random.default_rng(np.random.SeedSequence((5, 1), spawn_key=(index,)))
        np.testing.assert_array_equal(image, crop(rng, Sizes()[index])["image"])


def test_boxes_that_would_not_move_along_are_refused():
    with pytest.raises(ValueError, match="expects examples with 'image' and without 'boxes', got 'image', 'boxes'"):
        Batches(Sizes("boxes"), 3, seed=5, prepare=RandomResizedCrop((12, 16)))
    assert RandomResizedCrop((12, 16)).spec(Sizes("mask").spec)["mask"].shape == (12, 16)


def test_it_prints_as_it_is_written():
    assert repr(RandomResizedCrop((12, 16), scale=(0.25, 1.0))) == "RandomResizedCrop((12, 16), scale=(0.25, 1.0))"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"size": (0, 8)}, r"size as \(height, width\) of positive ints, got \(0, 8\)"),
        ({"size": (8,)}, r"size as \(height, width\) of positive ints, got \(8,\)"),
        ({"size": (8.5, 8)}, r"size as \(height, width\) of positive ints, got \(8.5, 8\)"),
        ({"scale": (0.0, 1.0)}, r"scale as 0 < least <= largest <= 1, got \(0.0, 1.0\)"),
        ({"scale": (0.5, 0.1)}, r"scale as 0 < least <= largest <= 1, got \(0.5, 0.1\)"),
        ({"scale": (0.5, 1.1)}, r"scale as 0 < least <= largest <= 1, got \(0.5, 1.1\)"),
        ({"ratio": (0.0, 1.0)}, r"ratio as 0 < least <= largest, got \(0.0, 1.0\)"),
        ({"ratio": (0.5, math.inf)}, r"ratio as 0 < least <= largest, got \(0.5, inf\)"),
    ],
)
def test_nonsense_is_refused(words, message):
    with pytest.raises(ValueError, match=f"RandomResizedCrop expects {message}"):
        RandomResizedCrop(**{"size": (8, 8), **words})


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_part_of_a_large_jpeg_file_is_decoded_at_a_smaller_scale(tmp_path, monkeypatch, orientation):
    rows, columns = np.mgrid[:320, :480]
    smooth = np.stack([127 + 120 * np.sin(rows / 17), 127 + 120 * np.cos(columns / 23), (rows + columns) / 4], -1)
    exif = image_module.Exif()
    exif[274] = orientation
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        shown = image_module.fromarray(smooth.astype(np.uint8)[:: 1 - 2 * number])
        shown.save(tmp_path / name / "one.jpg", quality=95, exif=exif)
        shown.resize((48, 32)).save(tmp_path / name / "small.jpg", quality=95)
    decoded, read = [], pictures._read

    def reading(*arguments):
        decoded.append(read(*arguments))
        return decoded[-1]

    monkeypatch.setattr(pictures, "_read", reading)
    folder, crop = image_folder(tmp_path), RandomResizedCrop((16, 24), scale=(0.5, 1.0))
    renumbered = match_classes(folder, ("b", "a"))
    for index in range(len(folder)):
        for seed in range(3):
            whole = crop(np.random.default_rng(seed), folder[index])
            part = crop.read(np.random.default_rng(seed), Subset(renumbered, np.array([index])), 0)
            np.testing.assert_allclose(part["image"], whole["image"], atol=12)
            assert np.abs(part["image"].astype(int) - whole["image"]).mean() < 2
            assert part["label"] == 1 - whole["label"]
            if "small" in folder.names[index]:
                np.testing.assert_array_equal(part["image"], whole["image"])
                assert decoded[-1].shape[1:] == (48, 3)
            else:
                assert max(decoded[-1].shape) < 300
    batch = Batches(folder, 2, seed=0, prepare=crop)[0]
    assert batch["image"].shape == (2, 16, 24, 3)


def test_a_mask_keeps_its_image_company_where_parts_are_read():
    source = arrays(image=picture(50, 40)[None], mask=picture(50, 40)[None, ..., 0] % 2)
    crop = RandomResizedCrop((8, 6))
    found = crop.read(np.random.default_rng(0), source, 0)
    expected = crop(np.random.default_rng(0), source[0])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_pictures_smaller_than_the_crop_and_of_one_pixel_are_enlarged(tmp_path):
    for name, size in (("a/0.png", (1, 1)), ("a/1.jpg", (3, 2)), ("b/0.png", (1, 30)), ("b/1.png", (40, 40))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image_module.new("RGB", size, (10, 200, 30)).save(tmp_path / name)
    batches = Batches(image_folder(tmp_path), 4, seed=0, prepare=RandomResizedCrop((8, 6)))
    for step in range(3):
        np.testing.assert_allclose(batches[step]["image"], np.broadcast_to((10, 200, 30), (4, 8, 6, 3)), atol=3)
