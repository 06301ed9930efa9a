import importlib.util

import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.benchmark import loading

pytest.importorskip("PIL")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return loading.photographs(tmp_path_factory.mktemp("photographs"), count=6, batch_size=2)


def test_photographs_are_jpeg_files_of_one_size(files):
    from PIL import Image

    for number in range(6):
        with Image.open(files.source.path(number)) as image:
            assert (image.format, image.size) == ("JPEG", (500, 375))
    example = files.source[5]
    assert (example["image"].shape, example["image"].dtype, example["label"]) == ((375, 500, 3), np.uint8, 5)
    batch = data.Batches(files.source, 2, seed=0, prepare=files.prepare)[0]
    assert batch["image"].shape == (2, 224, 224, 3)


@pytest.mark.parametrize("small", [True, False])
def test_loaders_deliver_every_image_and_are_measured_in_turns(files, small, monkeypatch):
    workload = loading.small_images(count=6, batch_size=2) if small else files
    seconds, told = iter(range(1000)), []
    # Every look at the clock is a second later: an epoch of 6 images takes one.
    monkeypatch.setattr(loading.time, "perf_counter", lambda: float(next(seconds)))
    records = loading.race_loaders(workload, peers=("numpy",), rounds=2, report=told.append)
    names = ["jaxcnn", *([] if small else ["decoder"]), "numpy"]
    assert [(record["contestant"], record["status"]) for record in records] == [(name, "measured") for name in names]
    assert [text.rpartition(": ")[2] for text in told] == [
        f"{name}, round {k} of 2" for k in range(3) for name in names
    ]
    for record in records:
        assert record["images_per_second"]["median"] == pytest.approx(6)
        assert record["images_per_second"]["n"] == 2
        assert record["ratio"] is None if record["contestant"] == "jaxcnn" else record["ratio"]["median"] == 1


def test_what_cannot_be_imported_is_missing(files, monkeypatch):
    def broken(workload):
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setitem(loading._MAKERS, "torch", broken)
    records = loading.race_loaders(loading.small_images(count=4, batch_size=2), peers=("torch",), rounds=1)
    assert [record["status"] for record in records] == ["measured", "missing"]
    assert records[1]["reason"] == "No module named 'torchvision'"

    def absent(workload):
        raise ModuleNotFoundError("No module named 'grain'")

    monkeypatch.setitem(loading._MAKERS, "grain", absent)
    records = loading.race_loaders(loading.small_images(count=4, batch_size=2), peers=("grain",), rounds=1)
    assert records[1]["reason"] == "No module named 'grain'; pip install grain"
    with pytest.raises(ValueError, match="expects peers among numpy, torch, grain, got keras"):
        loading.race_loaders(files, peers=("keras",))


def test_the_crops_of_numpy_are_parts_of_the_padded_image_as_it_is_or_mirrored():
    image = np.arange(1, 8 * 8 + 1, dtype=np.uint8).reshape(8, 8, 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    parts = {part.tobytes() for i in range(9) for j in range(9) for part in [padded[i : i + 8, j : j + 8]]} | {
        part[:, ::-1].tobytes() for i in range(9) for j in range(9) for part in [padded[i : i + 8, j : j + 8]]
    }
    found = {crop.tobytes() for crop in loading._cropped(np.repeat(image[None], 200, 0), np.random.default_rng(0))}
    assert found <= parts
    assert len(found) > 80


@pytest.mark.skipif(
    not importlib.util.find_spec("grain"), reason="does not apply: Grain is only a peer of the benchmark"
)
@pytest.mark.parametrize("small", [True, False])
def test_grain_delivers_every_image(files, small):
    workload = loading.small_images(count=6, batch_size=2) if small else files
    assert loading._grain(workload)(0) == 6


needs_torchvision = pytest.mark.skipif(
    not importlib.util.find_spec("torchvision"), reason="does not apply: torchvision is only a peer of the benchmark"
)


@pytest.mark.slow
@needs_torchvision
def test_torch_transforms_give_images_of_the_same_size(files):
    examples = loading.TorchExamples(files.source)
    assert (len(examples), examples[1].numpy().shape, examples[1].numpy().dtype) == (6, (224, 224, 3), np.uint8)
    small = loading.TorchExamples(loading.small_images(count=4).source)
    assert small[1].numpy().shape == (32, 32, 3)


@pytest.mark.heavy
@pytest.mark.slow
@needs_torchvision
def test_torch_delivers_every_image_from_its_processes(files):
    assert loading._torch(files)(0) == 6


def test_a_torchvision_that_fails_otherwise_is_not_mended(monkeypatch):
    imported = []

    def broken(name):
        imported.append(name)
        raise RuntimeError("another fault")

    monkeypatch.setattr(loading.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="another fault"):
        loading.import_torchvision()
    assert imported == ["torchvision"]
