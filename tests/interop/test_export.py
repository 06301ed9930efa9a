import json
import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from random_weights import random_weights

from jaxcnn import batched, ops
from jaxcnn.interop.export import _least, export_stablehlo, image_sizes
from jaxcnn.interop.onnx import export_onnx
from jaxcnn.layers import (
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Function,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    Residual,
    Sequential,
    fold_batch_norm,
)
from jaxcnn.models import catalog, unet

RELU = Function(jax.nn.relu)

# The other models are these with more or wider blocks.
QUICK = {"mlp"}
SLOW = {"densenet121", "efficientnet_b0", "lenet5", "lenet5_1998", "mobilenet_v2"}
SLOW |= {"alexnet", "convnext_tiny", "googlenet", "inception_v3", "mobilenet_v1", "squeezenet1_1"}
SLOW |= {"mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet20", "resnet50_v2", "resnext50_32x4d"}
SLOW |= {"shufflenet_v2_x0_5", "small_cnn", "unet", "xception"}


def small_net():
    return Sequential(
        conv=Conv(3, 8, 3, 2, 1, use_bias=False),
        norm=BatchNorm(8),
        relu=RELU,
        block=Residual(Sequential(depthwise=Conv(8, 8, groups=8), pointwise=Conv(8, 8, 1))),
        pool=MaxPool(3, strides=2, padding=1),
        up=ConvTranspose(8, 8, 2, 2),
        mean=GlobalAvgPool(),
        head=Dense(8, 5),
    )


def some_images(*shape, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def evaluated(model, params, state, images, dtype=jnp.float32):
    """What jaxcnn computes, image by image, without compiling the batch."""
    one = jax.jit(lambda image: model.apply(params, state, image.astype(dtype), train=False)[0].astype(jnp.float32))
    return np.stack([one(jnp.asarray(image)) for image in images])


def assert_close(actual, expected, tolerance=2e-6):
    assert np.shape(actual) == np.shape(expected)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def custom_calls(content):
    """The calls that a program makes, but for the checks of its sizes."""
    calls = re.findall(r"custom_call @(\w+)", export.deserialize(content).mlir_module())
    return set(calls) - {"shape_assertion"}


LOAD = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "jaxcnn":
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
try:
    import jaxcnn
    raise SystemExit("jaxcnn can be imported")
except ImportError:
    pass

import json, os
import numpy as np

with np.load("arguments.npz") as arguments:
    batches = [arguments[name] for name in sorted(arguments)]
with open("model.stablehlo.json") as file:
    lines = json.load(file)["load"]
results = []
for images in batches:
    exec("\\n".join(lines))
    results.append(np.asarray(logits))
if len(sys.argv) > 1:
    import jax
    for images in batches[1:]:
        results.append(jax.grad(lambda images: jax.numpy.sum(jax.numpy.sin(program.call(images))))(images))
np.savez("results.npz", *results)
assert not [name for name in sys.modules if name.startswith("jaxcnn")]
"""


def reloaded(folder, batches, *, gradients=False):
    """Runs a saved program in a fresh process that cannot import jaxcnn, by the lines of its description."""
    np.savez(folder / "arguments.npz", *batches)
    words = [sys.executable, "-P", "-c", LOAD, *(["gradients"] if gradients else [])]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(words, check=True, cwd=folder, env=environment | {"JAX_PLATFORMS": "cpu"})
    with np.load(folder / "results.npz") as results:
        return [results[f"arr_{i}"] for i in range(len(results))]


def test_a_saved_program_runs_without_jaxcnn_on_batches_and_images_of_any_size(tmp_path):
    model = small_net()
    params, state = random_weights(model, np.float32)
    exported = export_stablehlo(model, params, state, (16, 16, 3), gradients=True)
    exported.save(tmp_path / "model.stablehlo")
    batches = [some_images(1, 16, 16, 3), some_images(4, 9, 14, 3, seed=2)]
    first, second, gradient = reloaded(tmp_path, batches, gradients=True)
    assert_close(first, evaluated(model, params, state, batches[0]))
    assert_close(second, evaluated(model, params, state, batches[1]))
    expected = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(batched(model)(params, state, x, train=False)[0]))))
    assert_close(gradient, expected(batches[1]), 1e-5)
    assert custom_calls(exported.content) == set()


def test_a_program_for_other_weights_would_be_seen(tmp_path):
    model = small_net()
    params, state = random_weights(model, np.float32)
    program = export.deserialize(export_stablehlo(model, params, state, (16, 16, 3), platforms=("cpu",)).content)
    images = some_images(2, 16, 16, 3)
    other = jax.tree.map(lambda leaf: 1.001 * leaf, params)
    assert_close(program.call(images), evaluated(model, params, state, images))
    with pytest.raises(AssertionError):
        assert_close(program.call(images), evaluated(model, other, state, images))


@pytest.mark.slow
def test_one_program_serves_other_weights():
    model = small_net()
    params, state = random_weights(model, np.float32)
    exported = export_stablehlo(
        model, params, state, (16, 16, 3), weights="arguments", gradients=True, platforms=("cpu",)
    )
    program = export.deserialize(exported.content)
    other, images = random_weights(model, np.float32, seed=3), some_images(2, 12, 10, 3)
    assert_close(program.call(*other, images), evaluated(model, *other, images))
    assert exported.load[-1] == "logits = program.call(params, state, images)"

    def loss(run, params):
        return jnp.sum(jnp.sin(run(params)))

    gradient = jax.grad(partial(loss, lambda params: program.call(params, state, images)))(params)
    forward = partial(loss, lambda params: batched(model)(params, state, images, train=False)[0])
    expected = jax.jit(jax.grad(forward))(params)
    for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert_close(got, want, 1e-5)


def test_batch_norms_are_folded_unless_gradients_are_wanted():
    model = small_net()
    params, state = random_weights(model, np.float32)
    make = partial(export_stablehlo, model, params, state, (16, 16, 3), platforms=("cpu",), symbolic_size=False)
    texts = {fold: export.deserialize(make(fold=fold).content).mlir_module() for fold in (True, False)}
    # What is left of a batch norm is its factor, from the running variance.
    assert ("sqrt" in texts[False], "sqrt" in texts[True]) == (True, False)
    assert make().description["batch_norms_folded"] is True
    assert make(gradients=True).description["batch_norms_folded"] is False
    with pytest.raises(ValueError, match="export expects fold=False with weights='arguments'"):
        make(weights="arguments", fold=True)


def test_a_program_computes_in_another_dtype():
    model = small_net()
    params, state = fold_batch_norm(model, *random_weights(model, np.float32))[1:]
    model = fold_batch_norm(model, *random_weights(model, np.float32))[0]
    exported = export_stablehlo(
        model, params, state, (16, 16, 3), dtype=jnp.bfloat16, platforms=("cpu",), symbolic_size=False
    )
    images = some_images(2, 16, 16, 3)
    logits = export.deserialize(exported.content).call(images)
    assert logits.dtype == jnp.float32
    assert_close(logits, evaluated(model, params, state, images, jnp.bfloat16), 0.02)
    assert "bf16" in export.deserialize(exported.content).mlir_module()


def test_the_description_says_what_is_in_the_file(tmp_path):
    model = small_net()
    exported = export_stablehlo(
        model,
        *random_weights(model, np.float32),
        (16, 16, 3),
        class_names=("a", "b", "c", "d", "e"),
        preprocessing="divide by 255",
    )
    path, beside = exported.save(tmp_path / "model.stablehlo")
    assert path.read_bytes() == exported.content
    description = json.loads(beside.read_text())
    versions = description.pop("versions")
    assert (versions["jax"], set(versions)) == (jax.__version__, {"python", "jaxcnn", "jax", "jaxlib"})
    program = export.deserialize(exported.content)
    assert description.pop("calling_convention_version") == program.calling_convention_version
    assert description == {
        "file": "model.stablehlo",
        "format": "stablehlo",
        "input": {
            "shape": ["b", "h", "w", 3],
            "dtype": "float32",
            "layout": "batch, height, width, channels",
            "sizes": "images of any size of at least 1x1 pixels",
        },
        "output": {"shape": ["b", 5], "dtype": "float32"},
        "class_names": ["a", "b", "c", "d", "e"],
        "preprocessing": "divide by 255",
        "compute_dtype": "float32",
        "batch_norms_folded": True,
        "arguments": "images",
        "gradients": False,
        "platforms": ["cpu", "cuda", "tpu"],
        "load": [
            "import pathlib, jax.export",
            'program = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())',
            "logits = program.call(images)",
        ],
    }


def test_a_program_does_not_tell_the_folders_of_the_machine_that_made_it():
    model = Sequential(conv=Conv(1, 2), relu=RELU)
    before = jax.config.values["jax_hlo_source_file_canonicalization_regex"]
    content = export_stablehlo(model, *random_weights(model, np.float32), (8, 8, 1), gradients=True).content
    assert b"conv.py" in content
    assert os.fsencode(os.path.dirname(ops.__file__)) not in content
    assert b"site-packages" not in content
    assert jax.config.values["jax_hlo_source_file_canonicalization_regex"] == before


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    model = Sequential(pool=GlobalAvgPool())
    exported = export_stablehlo(model, {"pool": {}}, {"pool": {}}, (4, 4, 1), platforms=("cpu",))
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="model"):
        exported.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(FileNotFoundError):
        exported.save(tmp_path / "missing" / "model")


def test_a_model_of_one_size_says_which_layer_is_the_reason():
    model = Sequential(conv=Conv(3, 4), relu=RELU, flatten=Flatten(), head=Dense(8 * 8 * 4, 5))
    trees = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(
        ValueError,
        match=r"symbolic_size=True expects a model that supports images of any size, got one that does not: "
        r"dense expects 256 features .*\(in layer 'head'\); pass symbolic_size=False",
    ):
        image_sizes(model, *trees, (8, 8, 3), True)
    sizes = image_sizes(model, *trees, (8, 8, 3))
    assert (sizes.shape, sizes.constraints) == ("b, 8, 8, 3", ())
    assert re.match(r"images of 8x8 pixels only: dense expects 256 features .*\(in layer 'head'\)$", sizes.text)
    assert image_sizes(model, *trees, (8, 8, 3), False).text == "images of 8x8 pixels"


@pytest.mark.parametrize(
    ("layer", "shape", "constraints", "text"),
    [
        (Conv(3, 4, 5, padding="VALID"), "b, h, w, 3", ("h >= 5", "w >= 5"), "of at least 5x5 pixels"),
        (Conv(3, 4, 5), "b, h, w, 3", ("h >= 1", "w >= 1"), "of at least 1x1 pixels"),
        (unet(2, width=2), "b, 16*h, 16*w, 3", ("h >= 1", "w >= 1"), "multiples of 16"),
    ],
    ids=["valid", "same", "unet"],
)
def test_the_sizes_that_a_model_takes_are_found(layer, shape, constraints, text):
    sizes = image_sizes(layer, *jax.eval_shape(layer.init, jax.random.key(0)), (32, 32, 3))
    assert (sizes.shape, sizes.constraints) == (shape, constraints)
    assert text in sizes.text


@pytest.mark.parametrize("least", [1, 2, 3, 17, 64, 65, 99, 100])
def test_the_least_size_is_found_in_few_traces(least):
    asked = []

    def is_enough(number):
        asked.append(number)
        return number >= least

    assert _least(100, is_enough) == least
    assert len(set(asked)) == len(asked) <= 14


def test_images_that_are_too_small_are_refused():
    model = Sequential(conv=Conv(1, 2, 5, padding="VALID"), pool=GlobalMaxPool())
    program = export.deserialize(
        export_stablehlo(model, *random_weights(model, np.float32), (16, 16, 1), platforms=("cpu",)).content
    )
    assert program.call(some_images(1, 5, 9, 1)).shape == (1, 2)
    with pytest.raises(ValueError, match="refining shapes"):
        program.call(some_images(1, 4, 9, 1))


def test_other_options_are_refused():
    model = Sequential(pool=GlobalAvgPool())
    make = partial(export_stablehlo, model, {"pool": {}}, {"pool": {}}, (4, 4, 1))
    with pytest.raises(ValueError, match=r"export expects platforms among \('cpu', .*\), got \('gpu',\)"):
        make(platforms=("gpu",))
    with pytest.raises(ValueError, match="export expects platforms among"):
        make(platforms=())
    with pytest.raises(ValueError, match="export expects weights 'baked' or 'arguments', got 'none'"):
        make(weights="none")


def test_flatbuffers_are_named_where_they_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    model = Sequential(pool=GlobalAvgPool())
    with pytest.raises(ImportError, match=r"expects flatbuffers to be installed; pip install 'jaxcnn\[export\]'"):
        export_stablehlo(model, {"pool": {}}, {"pool": {}}, (4, 4, 1))


def test_the_program_for_any_size_stays_short_with_a_large_depthwise_kernel():
    def operations(kernel_size):
        layer = Conv(8, 8, kernel_size, padding=kernel_size // 2, groups=8)
        content = export_stablehlo(layer, *layer.init(jax.random.key(0)), (32, 32, 8), platforms=("cpu",)).content
        return export.deserialize(bytearray(content)).mlir_module().count(" stablehlo.")

    assert operations(7) < operations(3)


@pytest.mark.parametrize(
    "name",
    [
        *sorted(QUICK),
        *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.heavy]) for name in sorted(SLOW)),
    ],
)
def test_models_of_every_family_compute_the_same_exported(name):
    entry = catalog.CATALOG[name]
    shape = (64, 64, 3) if entry.image_shape[0] > 32 else entry.image_shape
    shape = (96, 96, 3) if name in ("inception_v3", "xception") else shape
    model = catalog.build(name, 7, shape)
    params, state = random_weights(model, np.float32)
    exported = export_stablehlo(model, params, state, shape, platforms=("cpu",))
    open_size = exported.description["input"]["shape"][1] != shape[0]
    assert open_size == (name not in {"lenet5", "lenet5_1998", "mlp", "small_cnn"})
    # Found by proof here, by hand there.
    least = entry.min_size if open_size else shape[0]
    assert f" {least}x{least} pixels" in exported.description["input"]["sizes"]
    program = export.deserialize(exported.content)
    other = (shape[0] + 32, shape[1], shape[2]) if open_size else shape
    for images in (some_images(1, *shape), some_images(2, *other)):
        assert_close(program.call(images), evaluated(model, params, state, images), 2e-5)
    assert custom_calls(exported.content) == set()


KERNELS = {"dense": (3, 3, 4, 6), "grouped": (3, 2, 2, 6), "depthwise": (3, 3, 1, 8), "pointwise": (1, 1, 4, 6)}
GROUPS = {"dense": 1, "grouped": 2, "depthwise": 4, "pointwise": 1}


def convolution(kind, op=ops.conv, **options):
    random = np.random.default_rng(4)
    kernel = jnp.asarray(random.standard_normal(KERNELS[kind]), jnp.float32)
    return kernel, lambda x, kernel: op(x, kernel, groups=GROUPS[kind], **options)


OPS = {
    "conv, same": convolution("dense", strides=2),
    "conv, dilated": convolution("dense", padding="VALID", dilation=2),
    "conv, grouped": convolution("grouped", strides=(1, 2)),
    "conv, depthwise": convolution("depthwise", strides=2, padding=1),
    "conv, pointwise": convolution("pointwise", strides=2, padding=0),
    "conv, circular": convolution("dense", border="circular"),
    "conv, reflect": convolution("dense", border="reflect"),
    "transposed": convolution("dense", ops.conv_transpose, strides=2, padding=1, output_padding=1),
    "transposed, depthwise": convolution("depthwise", ops.conv_transpose, strides=2),
    "max pool, ceil": (None, partial(ops.max_pool, window_shape=3, strides=2, padding=1, ceil_mode=True)),
    "max pool, same": (None, partial(ops.max_pool, window_shape=3, strides=2, padding="SAME")),
    "mean pool, ceil": (None, partial(ops.avg_pool, window_shape=2, strides=3, padding=1, ceil_mode=True)),
    "mean pool, inside": (
        None,
        partial(ops.avg_pool, window_shape=3, strides=2, padding="SAME", count_include_pad=False),
    ),
    "unpool": (None, lambda x: ops.max_unpool(*ops.max_pool_with_indices(x, 2), x.shape[:2])),
    "max pool, large": (None, partial(ops.max_pool, window_shape=7, strides=3, padding="SAME", ceil_mode=True)),
    "global max": (None, ops.global_max_pool),
    "adaptive max": (None, lambda x: ops.adaptive_max_pool(x, (3, 7))),
    "adaptive mean": (None, lambda x: ops.adaptive_avg_pool(x, (3, 7))),
    "bilinear": (None, lambda x: ops.resize(x, (5, 30))),
    "bilinear, larger": (None, lambda x: ops.resize(x, (2 * x.shape[0], 3 * x.shape[1]))),
    "bicubic": (None, lambda x: ops.resize(x, (2 * x.shape[0], 9), method="bicubic")),
    "transposed, circular": convolution("dense", ops.conv_transpose, strides=2, padding=1, border="circular"),
    "max pool, dilated": (None, partial(ops.max_pool, window_shape=3, padding=2, dilation=2)),
    "max pool, lower": (None, partial(ops.max_pool, window_shape=2, strides=1, padding="SAME_LOWER")),
    "corners": (None, lambda x: ops.resize(x, (5, 2 * x.shape[1]), align_corners=True)),
    "nearest-exact": (None, lambda x: ops.resize(x, (5, 2 * x.shape[1]), method="nearest-exact")),
    "area": (None, lambda x: ops.resize(x, (3, x.shape[1]), method="area")),
    "shuffle": (None, lambda x: ops.pixel_shuffle(x, 2)),
    "nearest": (None, lambda x: ops.resize(x, (5, 2 * x.shape[1]), method="nearest")),
    "group norm": (None, lambda x: ops.group_norm(x, 2)),
}
QUICK_OPS = {"conv, same"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK_OPS else [pytest.mark.slow, pytest.mark.heavy]) for name in OPS],
)
def test_ops_take_images_of_unknown_size(name):
    kernel, op = OPS[name]

    def run(x, *kernel):
        return jax.vmap(lambda image: op(image, *kernel))(x)

    def gradients(*arguments):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(run(*a))), tuple(range(len(arguments))))(*arguments)

    kernels = () if kernel is None else (kernel,)
    symbols = export.symbolic_shape("b, h, w, 4", constraints=("h >= 8", "w >= 8"))
    specs = (jax.ShapeDtypeStruct(symbols, jnp.float32), *(jax.ShapeDtypeStruct(k.shape, k.dtype) for k in kernels))
    program, backward = (export.export(jax.jit(function))(*specs) for function in (run, gradients))
    for size in ((9, 8), (8, 13)):
        x = jnp.asarray(some_images(2, *size, 4))
        assert_close(program.call(x, *kernels), jax.jit(run)(x, *kernels))
        for got, want in zip(backward.call(x, *kernels), jax.jit(gradients)(x, *kernels), strict=True):
            assert_close(got, want, 1e-5)


def test_an_op_that_needs_a_known_size_says_so():
    image = jax.ShapeDtypeStruct(export.symbolic_shape("h, w, 4"), jnp.float32)
    with pytest.raises(ValueError, match="resize expects known sizes with antialias=True"):
        jax.eval_shape(lambda x: ops.resize(x, 3, antialias=True), image)


def test_adaptive_pooling_leaves_the_size_open():
    model = Sequential(pool=AdaptiveAvgPool(2), flatten=Flatten(), head=Dense(12, 4))
    params, state = random_weights(model, np.float32)
    exported = export_stablehlo(model, params, state, (8, 8, 3), symbolic_size=True, platforms=("cpu",))
    images = some_images(2, 5, 11, 3)
    assert_close(export.deserialize(exported.content).call(images), evaluated(model, params, state, images))


@pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
def test_the_packages_of_onnx_are_named_where_they_are_missing(monkeypatch, package):
    for name in ("jax2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    model = Sequential(pool=GlobalAvgPool())
    with pytest.raises(ImportError, match=rf"{package} to be installed; pip install 'jaxcnn\[export-onnx\]'"):
        export_onnx(model, {"pool": {}}, {"pool": {}}, (4, 4, 1))
