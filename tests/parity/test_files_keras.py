"""The files of Keras itself: what it saves of a published architecture is read to the bit, by names of layers."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxcnn.interop.files.keras_file import read_keras

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed")

# Keras chooses its backend once, so it has a process of its own. It needs no gradients here.
PROGRAM = """
import sys
import keras
import numpy as np

folder, name = sys.argv[1:]
model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=5)
weights = model.weights
model.set_weights([np.random.default_rng(i).normal(size=w.shape).astype("float32") for i, w in enumerate(weights)])
np.savez(f"{folder}/weights.npz", **{w.path: w.numpy() for w in weights})
model.save(f"{folder}/model.h5")
model.save_weights(f"{folder}/model.weights.h5")
model.save(f"{folder}/model.keras")
"""


@pytest.mark.parametrize(
    ("name", "layer"), [("MobileNet", "conv_dw_3/kernel"), ("ResNet50", "conv3_block1_0_bn/moving_mean")]
)
def test_an_application_that_keras_saved_is_read_to_the_bit(name, layer, tmp_path):
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), name], check=True, env={**os.environ, "KERAS_BACKEND": "numpy"}
    )
    tensors = read_keras(tmp_path / "model.h5")
    with np.load(tmp_path / "weights.npz") as expected:
        assert set(tensors) == set(expected.files)
        assert layer in tensors
        for key in expected.files:
            assert tensors[key].shape == expected[key].shape
            np.testing.assert_array_equal(np.asarray(tensors[key]), expected[key], err_msg=key)
    for other in ("model.weights.h5", "model.keras"):
        with pytest.raises(ValueError, match="whose weights have no names of layers"):
            read_keras(tmp_path / other)
