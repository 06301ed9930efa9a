"""A two-stage detector from training to pictures, by commands."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.data import named
from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.models import small_fasterrcnn, small_maskrcnn
from jaxcnn.training.run_folder import RunFolder

pytestmark = pytest.mark.slow


class Thirds:
    """Scenes whose digits have three classes."""

    def __init__(self, scenes):
        self.scenes, self.spec, self.class_names = scenes, scenes.spec, ("a", "b", "c")
        self.fingerprint = f"thirds of {scenes.fingerprint}"

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        example = self.scenes[index]
        return {**example, "classes": example["classes"] % 3}


def few(labels="boxes", wrap=lambda scenes: scenes):
    return {name: wrap(data.Subset(part, np.arange(16))) for name, part in digit_scenes(64, labels=labels).items()}


@pytest.mark.heavy
def test_faster_rcnn_is_trained_evaluated_and_used_and_starts_another(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.setitem(named.NAMES, "digit_scenes", few)
    run, words = tmp_path / "run", ["--data", "digit_scenes", "--batch-size", 8, "--epochs", 1]
    done = jaxcnn("train", "--model", "small_fasterrcnn", *words, "--run-dir", run)
    assert done.status == 0, done.err
    assert RunFolder(run).task == small_fasterrcnn(10).task((64, 64))
    row = RunFolder(run).metrics()[-1]
    assert {"train_objectness_loss", "train_box_loss", "validation_class_loss", "validation_ap50"} <= set(row)
    done = jaxcnn("evaluate", run)
    assert done.status == 0, done.err
    assert "AP50" in done.out
    picture = tmp_path / "photograph.png"
    Image.fromarray(digit_scenes(64)["test"][0]["image"]).save(picture)
    done = jaxcnn("predict", run, picture, "--json", "--overlays", tmp_path / "drawn")
    assert done.status == 0, done.err
    assert json.loads(done.out)
    assert list((tmp_path / "drawn").iterdir())
    monkeypatch.setitem(named.NAMES, "digit_scenes", lambda: few(wrap=Thirds))
    other = tmp_path / "other"
    done = jaxcnn("train", "--model", "small_fasterrcnn", *words, "--run-dir", other, "--init-from", run)
    assert done.status == 0, done.err
    assert RunFolder(other).task == small_fasterrcnn(3).task((64, 64))


@pytest.mark.heavy
def test_mask_rcnn_is_trained_and_evaluated(jaxcnn, tmp_path, monkeypatch):
    monkeypatch.setitem(named.NAMES, "digit_instances", lambda: few("instances"))
    run, words = tmp_path / "run", ["--data", "digit_instances", "--batch-size", 8, "--epochs", 1]
    done = jaxcnn("train", "--model", "small_maskrcnn", *words, "--run-dir", run)
    assert done.status == 0, done.err
    assert RunFolder(run).task == small_maskrcnn(10).task((64, 64))
    assert np.isfinite(RunFolder(run).metrics()[-1]["validation_mask_loss"])
    pytest.importorskip("faster_coco_eval")
    done = jaxcnn("evaluate", run, "--json")
    assert done.status == 0, done.err
    assert set(json.loads(done.out)["coco"]) == {"box", "mask"}
    # A picture of another shape, so that masks go back to it.
    picture, file = tmp_path / "photograph.png", tmp_path / "found.json"
    Image.fromarray(digit_scenes(64)["test"][0]["image"]).resize((96, 80)).save(picture)
    done = jaxcnn("predict", run, picture, "--coco", file)
    assert done.status == 0, done.err
    results = json.loads(file.read_text())
    assert results
    for one in results:
        mask = mask_of(one["segmentation"])
        assert mask.shape == (80, 96)
        left, top, width, height = one["bbox"]
        inside = np.zeros_like(mask)
        # Up to a pixel: a mask has whole pixels of the smaller image.
        rows, columns = (
            slice(max(int(top) - 2, 0), int(top + height) + 3),
            slice(max(int(left) - 2, 0), int(left + width) + 3),
        )
        inside[rows, columns] = True
        assert not (mask & ~inside).any()
    assert any(mask_of(one["segmentation"]).any() for one in results)


def mask_of(run_lengths):
    from faster_coco_eval.core import mask

    return mask.decode(run_lengths).astype(bool)
