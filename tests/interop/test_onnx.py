import json
import os
import subprocess
import sys
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from random_weights import random_weights

from jaxcnn.interop import onnx
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Function,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    Pad,
    Resize,
    Sequential,
)
from jaxcnn.models import catalog, unet
from jaxcnn.models.convnext import convnext
from jaxcnn.models.resnet import ZeroPadShortcut

# The converter's own imports and shapes warn; what it gives is compared.
pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

RELU = Function(jax.nn.relu)

MODELS = {
    "lenet5": (catalog.CATALOG["lenet5"].build(), (32, 32, 1)),
    "small_cnn": (catalog.CATALOG["small_cnn"].build(), (32, 32, 3)),
    "resnet20": (catalog.CATALOG["resnet20"].build(), (32, 32, 3)),
    "resnet18": (catalog.CATALOG["resnet18"].build(10), (64, 64, 3)),
    "mobilenet_v2": (catalog.CATALOG["mobilenet_v2"].build(10), (32, 32, 3)),
    "convnext": (convnext((1, 2), (16, 32), 10), (32, 32, 3)),
    "unet": (unet(2, width=8, depth=2), (16, 24, 3)),
    "mean pool": (
        Sequential(
            pool=AvgPool(3, strides=2, padding=1, count_include_pad=False), norm=BatchNorm(3), max=GlobalMaxPool()
        ),
        (9, 8, 3),
    ),
    "large windows": (
        Sequential(pool=MaxPool(7, 2, "SAME", dilation=2), resize=Resize((5, 9)), most=AdaptiveMaxPool((2, 3))),
        (12, 13, 3),
    ),
    "borders": (
        Sequential(pad=Pad(1, "reflect"), up=ConvTranspose(3, 4, 3, 2, 1, border="circular"), mean=AdaptiveAvgPool(4)),
        (7, 8, 3),
    ),
    "zero pad": (Sequential(shortcut=ZeroPadShortcut(3, 5, 2), mean=GlobalAvgPool()), (8, 9, 3)),
}


def evaluated(model, params, state, images):
    one = jax.jit(lambda image: model.apply(params, state, image, train=False)[0])
    return np.stack([one(jnp.asarray(image)) for image in images])


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Standard promotion, which the converter counts on."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_what_jaxcnn_computes(name):
    model, shape = MODELS[name]
    params, state = random_weights(model, np.float32)
    exported = onnx.export_onnx(model, params, state, shape)
    session = onnxruntime.InferenceSession(exported.content, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(7).normal(size=(3, *shape)).astype(np.float32)
    (got,) = session.run(None, {session.get_inputs()[0].name: images})
    want = evaluated(model, params, state, images)
    assert got.shape == want.shape
    assert np.ptp(want) > 0
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


LOAD = """
import sys

sys.modules["jax"] = sys.modules["jaxcnn"] = None
import json
import numpy as np

images = np.load("images.npy")
with open("model.onnx.json") as file:
    exec("\\n".join(json.load(file)["load"]))
np.save("logits.npy", logits)
"""


def test_a_saved_file_runs_without_jax(tmp_path):
    model = Sequential(conv=Conv(3, 6, 3, 2), norm=BatchNorm(6), relu=RELU, pool=MaxPool(3, 2, 1), mean=GlobalAvgPool())
    params, state = random_weights(model, np.float32)
    exported = onnx.export_onnx(model, params, state, (12, 16, 3), class_names=tuple("abcdef"))
    _, beside = exported.save(tmp_path / "model.onnx")
    description = json.loads(beside.read_text())
    assert (description["file"], description["format"]) == ("model.onnx", "onnx")
    assert description["input"]["shape"] == ["b", 12, 16, 3]
    assert description["class_names"] == list("abcdef")
    assert description["versions"]["onnxruntime"] == onnxruntime.__version__
    images = np.random.default_rng(7).normal(size=(4, 12, 16, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-P", "-c", LOAD], check=True, cwd=tmp_path, env=environment)
    want = evaluated(model, params, state, images)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_padding_that_the_conversion_drops_is_found(monkeypatch):
    def cropped(x, filling, *, padding_config):
        """Pads, and then forgets the top and left sides: the shape is right, the windows are not."""
        padded = onnx._pad(x, filling, padding_config=[(0, before + after, 0) for before, after, _ in padding_config])
        return padded

    model = Sequential(conv=Conv(3, 4), pool=MaxPool(3, 2, 1), mean=GlobalAvgPool())
    make = partial(onnx.export_onnx, model, *random_weights(model, np.float32), (12, 12, 3))
    make()
    monkeypatch.setitem(onnx._RULES, lax.pad_p, cropped)
    with pytest.raises(
        ValueError, match=r"got a difference of .* for a batch of 1: jax2onnx converted the model wrongly"
    ):
        make()


def rank_four_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), ((1, 1), (1, 1), (0, 0)))


def asks_the_host(x):
    return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="broadcast_all")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (rank_four_max_pool, "export expects a model that onnxruntime can run after the conversion, got "),
        (asks_the_host, "export expects a model that jax2onnx can convert, got "),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused(function, message):
    model = Sequential(function=Function(function))
    with pytest.raises(ValueError, match=message):
        onnx.export_onnx(model, {"function": {}}, {"function": {}}, (8, 8, 3))
