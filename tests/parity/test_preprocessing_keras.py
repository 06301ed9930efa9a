"""Photographs are prepared as Keras loads them and as `preprocess_input` of its applications does."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxcnn.interop.preprocessing import keras_preprocessing

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed")

# Keras chooses its backend once, so it has a process of its own.
PROGRAM = """
import sys
import keras
import numpy as np

folder = sys.argv[1]
modules = {"tf": "mobilenet_v2", "torch": "densenet", "caffe": "resnet50", "none": "efficientnet"}
arrays = {}
for interpolation in ("nearest", "bilinear", "bicubic"):
    image = keras.utils.load_img(f"{folder}/image.png", target_size=(97, 224), interpolation=interpolation)
    for mode, module in modules.items():
        preprocess_input = getattr(keras.applications, module).preprocess_input
        arrays[f"{mode} {interpolation}"] = preprocess_input(keras.utils.img_to_array(image))
np.savez(f"{folder}/prepared.npz", **arrays)
"""


def test_images_are_loaded_and_prepared_as_keras_does(tmp_path):
    image = np.asarray(load_sample_images().images[0])[:301, :403]
    Image.fromarray(image).save(tmp_path / "image.png")
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, env=environment)
    with np.load(tmp_path / "prepared.npz") as expected:
        for mode, scale in (("tf", 2 / 255), ("torch", 4.5 / 255), ("caffe", 1), ("none", 1)):
            for interpolation in ("nearest", "bilinear", "bicubic"):
                actual = keras_preprocessing(mode, (97, 224), interpolation)(image)
                assert actual.dtype == np.float32
                np.testing.assert_allclose(
                    actual,
                    expected[f"{mode} {interpolation}"],
                    rtol=0,
                    atol=1e-3 * scale,
                    err_msg=f"{mode} {interpolation}",
                )
