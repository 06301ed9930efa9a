"""The pictures of a run."""

import types

import jax
import numpy as np
from PIL import Image

from jaxcnn import data
from jaxcnn.cli import pictures
from jaxcnn.cli.options import Train
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.tasks import Classification
from jaxcnn.training.runs import EVAL_BATCH_SIZE


class Counting:
    """A source that notes how many images are read at once."""

    def __init__(self, source):
        self.source = source
        self.spec, self.class_names, self.fingerprint = source.spec, source.class_names, source.fingerprint
        self.most = 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]

    def gather(self, indices, names):
        if "image" in names:
            self.most = max(self.most, len(indices))
        return self.source.gather(indices, names)


def test_a_large_test_set_is_drawn_without_holding_its_images(tmp_path):
    count = EVAL_BATCH_SIZE + 40
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 4), np.uint8)
    test = Counting(data.arrays(image=images, label=np.arange(count) % 10))
    layer = Sequential(flatten=Flatten(), head=Dense(8 * 8 * 4, 10))
    params, state = layer.init(jax.random.key(0))
    folder = types.SimpleNamespace(path=tmp_path, task=Classification())
    result = types.SimpleNamespace(params=params, state=state, history=[], best_epoch=0)
    pictures.draw(folder, Train(model="mlp"), test, layer, result)
    assert test.most == EVAL_BATCH_SIZE
    for name in ("confusion", "mistakes"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG"
