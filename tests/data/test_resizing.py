import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn import data
from jaxcnn.data import (
    Batches,
    FitPicture,
    Subset,
    arrays,
    choose_classes,
    eval_batches,
    image_folder,
    in_memory,
    split,
    unit_pixels,
)
from jaxcnn.data.resizing import Resized, choose_to_keep, resized
from jaxcnn.data.sources import picture_index
from jaxcnn.data.sources.source import ArraySpec, preprocessing_of
from jaxcnn.models import mlp
from jaxcnn.training import Recipe
from jaxcnn.training.run_folder import RunFolder
from jaxcnn.training.trained_model import load_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(picture_index, "cache_folder", lambda: folder)


@pytest.fixture
def photographs(tmp_path):
    """Six pictures of each of three classes, of many sizes: the first class is red, and so on."""
    rng = np.random.default_rng(0)
    for number, name in enumerate("rgb"):
        for i in range(6):
            height, width = rng.integers(10, 40, 2)
            pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
            pixels[..., number] += 150
            (tmp_path / "photographs" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "photographs" / name / f"{i}.{('png', 'jpg')[i % 2]}", quality=95)
    return tmp_path / "photographs"


class Counted:
    """A source of images of many sizes that counts how often each is read."""

    class_names = ("a", "b")
    fingerprint = "counted"

    def __init__(self, sizes, dtype=np.uint8, channels=3):
        self.sizes, self.dtype, self.channels = sizes, np.dtype(dtype), channels
        self.read = [0] * len(sizes)

    @property
    def spec(self):
        return {"image": ArraySpec((None, None, self.channels), self.dtype), "label": ArraySpec((), np.dtype(np.int32))}

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.read[index] += 1
        levels = np.random.default_rng(index).integers(0, 256, (*self.sizes[index], 3), dtype=np.uint8)
        image = levels if self.dtype == np.uint8 else levels.astype(self.dtype) / 255
        return {"image": image, "label": np.asarray(index % 2, np.int32)}


SIZES = [(5, 9), (12, 8), (8, 8), (1, 1), (30, 20)]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mode", ["crop", "fit", "stretch"])
def test_every_road_gives_the_fitted_images(mode, dtype, keep):
    plain = Counted(SIZES, dtype)
    source = resized(plain, 8, mode=mode, keep=keep)
    assert source.spec["image"] == ArraySpec((8, 8, 3), np.dtype(dtype))
    fit = FitPicture((8, 8, 3), mode)
    expected = np.stack([fit.fitted(plain[i]["image"]) for i in range(5)])
    order = np.array([4, 0, 3, 3, 1, 2])
    for _ in range(2):
        found = data.gather(source, order)
        np.testing.assert_array_equal(found["image"], expected[order], strict=True)
        np.testing.assert_array_equal(found["label"], order % 2)
        for i in range(5):
            example = source[i]
            np.testing.assert_array_equal(example["image"], expected[i], strict=True)
            assert example["label"] == i % 2
    np.testing.assert_array_equal(in_memory(source).entries["image"], expected)


@pytest.mark.parametrize("keep", [False, True])
def test_images_are_read_once_if_they_are_kept(keep):
    plain = Counted(SIZES)
    source = resized(plain, (4, 6), keep=keep)
    np.testing.assert_array_equal(data.gather(source, np.arange(5), ["label"])["label"], [0, 1, 0, 1, 0])
    labels = sum(plain.read)
    for epoch in range(3):
        data.gather(source, np.arange(5), ["image"])
        assert sum(plain.read) - labels == (5 if keep else 5 * (epoch + 1))


def test_images_that_are_kept_cannot_be_changed_from_outside():
    source = resized(Counted(SIZES), 8, keep=True)
    before = source[0]["image"].copy()
    source[0]["image"][:] = 0
    data.gather(source, np.arange(1))["image"][:] = 0
    np.testing.assert_array_equal(source[0]["image"], before)


def test_threads_that_read_together_see_the_same_images(photographs):
    source = resized(image_folder(photographs), 16, keep=True)
    expected = in_memory(resized(image_folder(photographs), 16, keep=False)).entries["image"]
    order = np.random.default_rng(0).integers(0, len(source), 300)
    with ThreadPoolExecutor(8) as pool:
        for index, example in zip(order, pool.map(lambda i: source[int(i)], order), strict=True):
            np.testing.assert_array_equal(example["image"], expected[index])


def test_images_that_are_kept_are_not_sent_to_other_processes(photographs):
    source = resized(image_folder(photographs), 64, keep=True)
    in_memory(source)
    content = pickle.dumps(source)
    assert len(content) < 10_000
    np.testing.assert_array_equal(pickle.loads(content)[7]["image"], source[7]["image"])


def test_the_fingerprint_is_that_of_source_and_fit(photographs):
    source = image_folder(photographs)
    prints = {
        resized(source, *size, **options).fingerprint
        for size, options in (
            ((8,), {}),
            (((8, 9),), {}),
            ((8,), {"mode": "fit"}),
            ((8,), {"crop_fraction": 0.5}),
        )
    }
    assert len(prints) == 4
    assert resized(source, 8, keep=True).fingerprint == resized(source, (8, 8), keep=False).fingerprint


def test_batches_and_evaluation_take_it(photographs):
    parts = split(resized(image_folder(photographs), 16))
    batch = Batches(parts["train"], 5, seed=0)[0]
    assert batch["image"].shape == (5, 16, 16, 3)
    assert batch["image"].dtype == np.uint8
    for image, label in zip(batch["image"], batch["label"], strict=True):
        assert parts["train"].class_names[label] == "rgb"[image.mean((0, 1)).argmax()]
    assert sum(int(one["weight"].sum()) for one in eval_batches(parts["test"], 4)) == len(parts["test"])


def test_parts_are_fitted_alike_and_decided_together(photographs, caplog):
    parts = split(image_folder(photographs))
    with caplog.at_level(logging.DEBUG, "jaxcnn"):
        found = resized(parts, 8)
    assert list(found) == ["train", "validation", "test"]
    assert len({part.preprocessing for part in found.values()}) == 1
    assert [record.getMessage()[:55] for record in caplog.records] == [
        "images are kept in memory: 18 take 3.5 kB, at most an e"
    ]


def test_only_images_that_fit_into_memory_are_kept(monkeypatch):
    monkeypatch.setattr("jaxcnn.data.resizing.memory_bytes", lambda: 8 * 5 * 192)
    assert choose_to_keep(5, (8, 8, 3), np.dtype(np.uint8)) == (
        True,
        "5 take 1.0 kB, at most an eighth of the memory of 7.7 kB",
    )
    assert resized(Counted(SIZES), 8).keep
    assert not choose_to_keep(6, (8, 8, 3), np.dtype(np.uint8)).keep
    assert not choose_to_keep(5, (8, 8, 3), np.dtype(np.float32)).keep
    assert not resized({"train": Counted(SIZES), "test": Counted(SIZES)}, 8)["train"].keep
    monkeypatch.setattr("jaxcnn.data.resizing.memory_bytes", lambda: 2 * 10**12)
    reason = choose_to_keep(10**7, (224, 224, 3), np.dtype(np.uint8)).reason
    assert reason == "10,000,000 take 1,505.3 GB, more than an eighth of the memory of 2,000.0 GB"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (arrays(image=np.zeros((2, 4, 4, 3)), mask=np.eye(4, dtype=int)[None].repeat(2, 0)), {}, "without 'mask', got"),
        (arrays(label=[0, 1]), {}, "resized expects examples with 'image' and without 'mask', got 'label'"),
        (Counted(SIZES, channels=None), {}, "images of one number of channels, got some that differ; make them grey"),
        (Counted(SIZES), {"mode": "cut"}, "mode to be one of crop, fit, stretch"),
        (Counted(SIZES), {"crop_fraction": 2.0}, r"crop_fraction in \(0, 1\]"),
    ],
)
def test_what_cannot_be_resized_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        resized(source, 8, **options)


def test_what_fitted_the_images_is_known_after_every_step(photographs):
    source = resized(image_folder(photographs), 8, mode="stretch")
    fit = FitPicture((8, 8, 3), "stretch")
    for one in (
        source,
        Subset(source, np.arange(3)),
        in_memory(source),
        choose_classes(source, ["b", "r"]),
        choose_classes(in_memory(source), ["b", "r"]),
        data.match_classes(source, ("g", "b", "r")),
        data.few(in_memory(source), 2, seed=0),
        *split(source).values(),
    ):
        assert preprocessing_of(one) == fit
    assert preprocessing_of(arrays(label=[0, 1])) is None
    chosen = choose_classes(source, ["b", "r"])
    assert not isinstance(chosen, data.Arrays)
    np.testing.assert_array_equal(data.gather(chosen, np.arange(12), ["label"])["label"], [0] * 6 + [1] * 6)
    assert isinstance(source, Resized)


def train(source, folder):
    recipe = Recipe(epochs=1, batch_size=6, augment="none", warmup_epochs=0)
    # Optax's Adam needs standard promotion.
    with jax.numpy_dtype_promotion("standard"):
        jaxcnn.train(mlp(3, image_size=12, in_channels=3, hidden=(8,)), source, recipe, folder=folder)


@pytest.mark.parametrize("mode", ["crop", "fit", "stretch"])
def test_a_photograph_is_predicted_as_it_was_trained(photographs, tmp_path, mode):
    source = resized(image_folder(photographs), 12, mode=mode)
    train(source, tmp_path / "run")
    assert RunFolder(tmp_path / "run").preprocessing == source.preprocessing
    network = jaxcnn.load(tmp_path / "run")
    assert network.preprocessing == load_model(tmp_path / "run").info.preprocessing == source.preprocessing
    (whole,) = eval_batches(source, len(source))
    expected = np.exp(np.asarray(network(unit_pixels(whole["image"]))))
    expected /= expected.sum(1, keepdims=True)
    found = network.predict(*(source.source.path(i) for i in range(len(source))), top=3)
    for row, one in zip(expected, found, strict=True):
        np.testing.assert_allclose([one[name] for name in network.class_names], row, rtol=1e-5)


def test_a_run_with_an_unknown_preprocessing_is_refused(photographs, tmp_path):
    train(resized(image_folder(photographs), 12), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.config["preprocessing"] = "Conv(3, 4)"
    with pytest.raises(ValueError, match=r"expected the preprocessing of a run in .*config.json, got: 'Conv\(3, 4\)'"):
        _ = folder.preprocessing
