"""The comparison is fair only if a peer computes the same function: with our parameters it must give our results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_blocks import Activations, Levels, Noise, Operations, Rescaled, Resizes, Sorted
from user_blocks import inverted_residual, pyramid, shared_head, squeeze_excite_block

from jaxcnn import batched, ops
from jaxcnn.benchmark.peers import common, make_program
from jaxcnn.benchmark.peers.plan import make_plan
from jaxcnn.benchmark.program import Unavailable, Untranslatable
from jaxcnn.benchmark.spec import Spec
from jaxcnn.benchmark.standard import STANDARD
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AuxiliaryHeads,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    DropPath,
    Flatten,
    Function,
    Gate,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    LayerScale,
    MaxPool,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Residual,
    Resize,
    Sequential,
    count_parameters,
    identity,
)
from jaxcnn.models import catalog
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.resnet import ZeroPadShortcut
from jaxcnn.models.segmentation.u_net import check_size

RELU = Function(jax.nn.relu)
# Epsilons so large, and decays so unusual, that a forgotten one shows.
NORM = {"epsilon": 0.1}

CLASSIFIER = Sequential(pool=GlobalAvgPool(), dense=Dense(4, 5))
AUXILIARY = AuxiliaryHeads(
    "aux1",
    "aux2",
    conv1=Conv(4, 4),
    aux1=CLASSIFIER,
    aux2=CLASSIFIER,
    norm=BatchNorm(4),
    pool=GlobalAvgPool(),
    head=Dense(4, 5),
)

CASES = {
    "conv": (Sequential(a=Conv(4, 6, 3), b=Conv(6, 2, (1, 3), use_bias=False)), (7, 6, 4)),
    "conv, same, strides": (Conv(4, 6, 3, 2), (7, 6, 4)),
    "conv, symmetric, strides": (Conv(4, 6, 3, 2, padding=1), (8, 6, 4)),
    "conv, valid": (Conv(4, 6, 4, 4, padding="VALID"), (8, 8, 4)),
    "conv, lopsided": (Conv(4, 6, 3, padding=((2, 0), (1, 3))), (7, 6, 4)),
    "conv, dilation": (Conv(4, 6, 3, dilation=2), (7, 6, 4)),
    "conv, reflect": (Conv(4, 6, 3, border="reflect"), (7, 6, 4)),
    "conv, edge": (Conv(4, 6, 3, border="edge"), (7, 6, 4)),
    "conv, circular": (Conv(4, 6, 3, border="circular"), (7, 6, 4)),
    "grouped": (Conv(4, 6, 3, groups=2), (7, 6, 4)),
    "depthwise": (Conv(4, 8, 3, 2, padding=1, groups=4), (7, 6, 4)),
    "transposed": (ConvTranspose(4, 6), (3, 4, 4)),
    "transposed, cut": (ConvTranspose(4, 6, 4, 2, padding=1), (3, 4, 4)),
    "transposed, enlarged": (ConvTranspose(4, 6, 3, 2, padding=1, output_padding=1), (3, 4, 4)),
    "transposed, groups": (ConvTranspose(4, 6, 3, 2, groups=2), (3, 4, 4)),
    "transposed, circular": (ConvTranspose(4, 6, 3, 2, padding=1, border="circular"), (3, 4, 4)),
    "batch norm": (BatchNorm(4, decay=0.7, **NORM), (5, 6, 4)),
    "batch norm of features": (BatchNorm(4, use_scale=False, use_bias=False, **NORM), (4,)),
    "layer norm": (LayerNorm(4, **NORM), (5, 6, 4)),
    "layer norm of features": (LayerNorm(4, use_scale=False, use_bias=False, **NORM), (4,)),
    "group norm": (GroupNorm(4, 2, **NORM), (5, 6, 4)),
    "layer scale": (LayerScale(4), (5, 6, 4)),
    "dense": (Dense(4, 5), (4,)),
    "dense of pixels": (Dense(4, 5, use_bias=False), (3, 2, 4)),
    "max pool": (MaxPool(2), (7, 6, 4)),
    "max pool, overlapping": (MaxPool(3, 2, padding=1), (8, 8, 4)),
    "max pool, same": (MaxPool(3, 2, padding="SAME"), (8, 8, 4)),
    "max pool, ceil": (MaxPool(2, ceil_mode=True), (7, 7, 4)),
    "max pool, same lower": (MaxPool(3, 2, padding="SAME_LOWER"), (8, 8, 4)),
    "max pool, dilated": (MaxPool(3, 2, padding=2, dilation=2), (8, 9, 4)),
    "max pool, dilated, same": (MaxPool(2, 2, padding="SAME", ceil_mode=True, dilation=3), (8, 9, 4)),
    "avg pool": (AvgPool(2), (7, 6, 4)),
    "avg pool, overlapping": (AvgPool(3, 1, padding=1), (6, 6, 4)),
    "avg pool, same": (AvgPool(2, 1, padding="SAME"), (6, 6, 4)),
    "avg pool, pixels counted": (AvgPool(3, 1, padding=1, count_include_pad=False), (6, 6, 4)),
    "avg pool, ceil": (AvgPool(2, ceil_mode=True), (7, 7, 4)),
    "adaptive": (AdaptiveAvgPool(2), (6, 4, 4)),
    "adaptive, unequal": (AdaptiveAvgPool(2), (5, 5, 4)),
    "adaptive, one axis": (AdaptiveAvgPool((2, None)), (6, 4, 4)),
    "adaptive max": (AdaptiveMaxPool((None, 3)), (6, 4, 4)),
    "pad, value": (Pad(((1, 0), (2, 1)), border=-2.5), (6, 4, 4)),
    "pixel shuffle": (PixelShuffle(2), (3, 4, 8)),
    "pixel unshuffle": (PixelUnshuffle(2), (4, 6, 3)),
    "resize": (Resize((5, 7)), (4, 6, 3)),
    "resize, smaller": (Resize((3, 4)), (7, 6, 3)),
    "resize, factor": (Resize(scale_factor=(2.0, 1.5)), (4, 6, 3)),
    "resize, broken factor": (Resize(scale_factor=1.3), (4, 6, 3)),
    "resize, antialias": (Resize((3, 4), antialias=True), (7, 6, 3)),
    "resize, corners": (Resize((5, 7), align_corners=True), (4, 6, 3)),
    "resize, nearest, doubled": (Resize((6, 10), method="nearest"), (3, 5, 3)),
    "resize, nearest": (Resize((6, 5), method="nearest"), (3, 3, 3)),
    "resize, nearest exact": (Resize((6, 5), method="nearest-exact"), (3, 3, 3)),
    "resize, bicubic": (Resize((5, 7), method="bicubic"), (4, 6, 3)),
    "resize, bicubic, antialias": (Resize((3, 4), method="bicubic", antialias=True), (7, 6, 3)),
    "resize, function": (Function(ops.resize, output_shape=(5, 7)), (4, 6, 3)),
    "resize, area": (Resize((3, 4), method="area"), (7, 6, 3)),
    "auxiliary pool": (AuxiliaryPool(), (18, 17, 4)),
    "auxiliary pool, small": (AuxiliaryPool(), (10, 5, 4)),
    "global avg": (GlobalAvgPool(), (5, 6, 4)),
    "global max": (GlobalMaxPool(), (5, 6, 4)),
    "zero pad": (ZeroPadShortcut(4, 6, 2), (5, 6, 4)),
    "flatten": (Sequential(pool=AvgPool((5, 6)), flatten=Flatten()), (5, 6, 4)),
    "residual": (
        Sequential(conv=Conv(4, 4), block=Residual(Sequential(relu=RELU, conv=Conv(4, 4)), identity, RELU)),
        (5, 6, 4),
    ),
    "projection": (
        Residual(
            Sequential(conv=Conv(4, 6, 3, 2), norm=BatchNorm(6), relu=RELU),
            Sequential(conv=Conv(4, 6, 1, 2), norm=BatchNorm(6)),
            RELU,
        ),
        (6, 6, 4),
    ),
    "concat": (Concat(skip=identity, deep=Sequential(conv=Conv(4, 2), relu=RELU), wide=Conv(4, 3, 5)), (5, 6, 4)),
    "auxiliary heads": (AUXILIARY, (5, 6, 4)),
    "gate": (Gate(Sequential(pool=GlobalAvgPool(), dense=Dense(4, 4), relu=RELU)), (5, 6, 4)),
    "gate of pixels": (Gate(Conv(4, 1)), (5, 6, 4)),
    "size check": (Sequential(check=Function(check_size, depth=1), conv=Conv(4, 2)), (6, 6, 4)),
    "channels": (
        Sequential(slice=Function(ops.channel_slice, start=2, stop=8), shuffle=Function(ops.channel_shuffle, groups=3)),
        (5, 6, 9),
    ),
    "nothing dropped": (Sequential(path=DropPath(0.0), dropout=Dropout(0.0)), (5, 6, 4)),
}
FUNCTIONS = [
    RELU,
    Function(jax.nn.relu6),
    Function(jax.nn.gelu),
    Function(jax.nn.gelu, approximate=False),
    Function(ops.gelu),
    Function(jax.nn.silu),
    Function(jax.nn.hard_swish),
    Function(jax.nn.hard_sigmoid),
    Function(jax.nn.sigmoid),
    Function(jnp.tanh),
    Function(jax.nn.elu, alpha=0.5),
    Function(jax.nn.leaky_relu, negative_slope=0.3),
    Function(jax.nn.softplus),
    identity,
]
REFUSED = {
    "transposed, enlarged": ("keras",),
    "transposed, groups": ("flax", "keras"),
    "avg pool, pixels counted": ("flax", "equinox", "keras"),
    "avg pool, ceil": ("flax", "equinox", "keras"),
    "adaptive, unequal": ("flax", "equinox", "keras"),
    "transposed, circular": ("torch", "flax", "equinox", "keras"),
}
NOT_IN_JAX = ("max pool, dilated", "max pool, dilated, same", "adaptive max", "pad, value", "pixel shuffle")
REFUSED |= {case: ("flax", "equinox", "keras") for case in (*NOT_IN_JAX, "pixel unshuffle")}
REFUSED["resize, function"] = ("equinox", "keras")
OTHER_PIXELS = ("broken factor", "corners", "nearest", "bicubic", "area")
REFUSED |= {f"resize, {case}": ("flax", "equinox", "keras") for case in OTHER_PIXELS}


def agree(ours, theirs):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), theirs, ours)


@pytest.mark.parametrize("case", CASES)
def test_a_peer_computes_the_same_in_training(peer, case):
    layer, shape = CASES[case]
    if peer.name in REFUSED.get(case, ()):
        with pytest.raises(Untranslatable, match=f"{peer.name} has no counterpart of {type(layer).__name__}"):
            peer.both(layer, shape, train=True)
    else:
        agree(*peer.both(layer, shape, train=True))


BLOCKS = {
    "squeeze-excite": (squeeze_excite_block(4, 6), (6, 5, 4)),
    "inverted residual": (inverted_residual(4).replace(drop=DropPath(0.0)), (6, 5, 4)),
    "shared head": (
        Levels(Conv(4, 4, strides=2), Conv(4, 4, use_bias=False), BatchNorm(4, **NORM), Conv(4, 2, 1)),
        (6, 5, 4),
    ),
    "pyramid": (pyramid(), (6, 4, 4)),
    "pyramid, shared head": (shared_head(), (8, 6, 4)),
    "resizes": (Resizes(Conv(3, 4)), (6, 5, 3)),
    "operations": (Operations(Conv(3, 4)), (6, 5, 3)),
    "activations": (Activations(Conv(3, 4)), (6, 5, 3)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_peer_computes_blocks_of_ones_own(peer, name):
    agree(*peer.both(*BLOCKS[name], train=True))


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_in_torch_are_ours(torch_peer, name):
    import torch

    peer, (model, shape) = torch_peer, BLOCKS[name]
    params, state, images = peer.drawn(model, shape)

    def total(params):
        results, _ = batched(model)(params, state, images, train=True, key=jax.random.key(1))
        return sum(jnp.sum(jnp.cos(result)) for result in jax.tree.leaves(results))

    gradients = peer.in_layouts(model, jax.tree.map(np.asarray, jax.jit(jax.grad(total))(params)), state)["params"]
    plan = make_plan("torch", model, shape, train=True)
    module = peer.filled_torch_module(plan, peer.in_layouts(model, params, state))
    results = module(peer.module.to_torch_images(images))
    sum(torch.cos(result).sum() for result in jax.tree.leaves(results)).backward()
    for path, arrays in gradients.items():
        theirs = [parameter.grad.numpy() for parameter in module.get_submodule(f"model/{path}").parameters()]
        for ours, grad in zip(arrays, theirs, strict=True):
            np.testing.assert_allclose(grad, ours.reshape(grad.shape), rtol=1e-3, atol=1e-3)


def test_noise_that_a_forward_draws_differs_from_image_to_image_or_is_refused(peer):
    model, ones = Noise(Conv(3, 2)), np.ones((2, 4, 4, 3), np.float32)
    params, state, _ = peer.drawn(model, (4, 4, 3))
    if peer.name in ("torch", "keras"):
        with pytest.raises(Untranslatable, match=f"{peer.name} has no counterpart of random numbers"):
            peer.run(model, (4, 4, 3), params, state, ones, True)
    else:
        first, second = peer.run(model, (4, 4, 3), params, state, ones, True)
        assert np.abs(first - second).max() > 0.1
    quiet = peer.run(model, (4, 4, 3), params, state, ones, False)
    np.testing.assert_array_equal(quiet[0], quiet[1])


def test_an_operation_without_counterpart_is_named_with_its_place():
    pytest.importorskip("torch")
    with pytest.raises(Untranslatable, match=r"torch has no counterpart of the operation 'sort' .* layer 'block'"):
        make_program(Spec("torch", Sequential(block=Sorted(Conv(3, 4)), pool=GlobalAvgPool()), (4, 4, 3), 2))


@pytest.mark.parametrize("name", ["torch", "flax"])
def test_an_operation_of_jaxcnn_is_not_the_work_of_a_peer(name):
    with pytest.raises(Untranslatable, match=f"{name} has no counterpart of the operation 'jaxcnn_resample'"):
        make_plan(name, Rescaled(Conv(4, 2)), (6, 6, 4), train=True)


@pytest.mark.parametrize("name", ["flax", "equinox", "keras"])
def test_a_resize_to_other_pixels_is_refused(name):
    message = rf"{name} has no counterpart of Resize\(output_shape=\(6, 5\), .*gives other pixels on an image of 3x3"
    with pytest.raises(Untranslatable, match=message):
        make_plan(name, pyramid(), (6, 5, 4), train=True)
    assert len(make_plan("torch", pyramid(), (6, 5, 4), train=True).steps) > 0


def test_a_resize_is_known_again_in_bfloat16():
    steps = make_plan("flax", pyramid(), (6, 4, 4), train=True, dtype=jnp.bfloat16).steps
    functions = [step.does.function for step in steps if isinstance(step.does, Function)]
    assert functions == [jax.nn.relu, jax.nn.relu, ops.resize]


@pytest.mark.parametrize("case", ["batch norm", "batch norm of features", "projection", "auxiliary heads"])
def test_a_peer_computes_the_same_from_running_moments(peer, case):
    if peer.name in REFUSED.get(case, ()):
        pytest.skip("does not apply: the refusal is that of the test above")
    if peer.name == "equinox":
        pytest.skip("does not apply: only training fills the running moments of Equinox, which have another form")
    agree(*peer.both(*CASES[case], train=False))


def test_a_peer_has_the_same_functions(peer):
    # Side by side, so that one program holds them all; scaled so that both ends of the clipped ones are reached.
    model = Sequential(scale=Conv(2, 2, 1), all=Concat(**{f"f{i}": f for i, f in enumerate(FUNCTIONS)}))
    agree(*peer.both(model, (9, 9, 2), train=True))


def test_channels_first_flattens_to_the_same_numbers_in_another_order(peer):
    ours, theirs = peer.both(Flatten(), (3, 2, 4), train=False)
    if peer.name in ("torch", "equinox"):
        theirs = theirs.reshape(3, 4, 3, 2).transpose(0, 2, 3, 1).reshape(3, 24)
    agree(ours, theirs)


def test_dropout_drops_single_values_and_scales_up_the_others(peer):
    dropped = peer.run(Dropout(0.5), (8, 8, 4), {}, {}, np.ones((4, 8, 8, 4), np.float32), True)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 0.3 < np.mean(dropped > 0) < 0.7
    assert all(len(np.unique(image)) == 2 for image in dropped)


def test_drop_path_drops_whole_images(peer):
    dropped = peer.run(DropPath(0.5), (2, 2, 3), {}, {}, np.ones((64, 2, 2, 3), np.float32), True)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert all(len(np.unique(image)) == 1 for image in dropped)


@pytest.mark.parametrize("layer", [Dropout(0.5), DropPath(0.5)], ids=repr)
def test_nothing_is_dropped_in_inference(peer, layer):
    agree(*peer.both(layer, (2, 2, 3), train=False))


class Unknown:
    def init(self, key):
        return {}, {}

    def apply(self, params, state, x, *, train, key=None):
        return x, state

    def __repr__(self):
        return "Unknown()"


def test_a_layer_without_translation_is_named(peer):
    with pytest.raises(Untranslatable, match=rf"{peer.name} has no counterpart of Unknown\(\)"):
        peer.run(Unknown(), (4, 4, 3), {}, {}, np.ones((1, 4, 4, 3), np.float32), False)


def test_a_function_or_option_without_translation_is_named():
    with pytest.raises(Untranslatable, match=r"torch has no counterpart of Function\(jax.numpy.sin\)"):
        common.pointwise("torch", Function(jnp.sin), {})
    with pytest.raises(Untranslatable, match="its options have no translation"):
        common.pointwise("torch", Function(jax.nn.relu, axis=1), {jax.nn.relu: lambda: None})


@pytest.mark.parametrize("name", ["torch", "equinox"])
def test_a_norm_with_a_scale_alone_is_refused_where_there_is_none(name):
    pytest.importorskip(name)
    with pytest.raises(Untranslatable, match="scale and bias or neither"):
        make_program(Spec(name, BatchNorm(3, use_bias=False), (4, 4, 3), 2))


SMALL = Sequential(conv=Conv(3, 4), norm=BatchNorm(4), relu=RELU, pool=GlobalAvgPool(), head=Dense(4, 5))
MAP = Sequential(conv=Conv(3, 4), norm=BatchNorm(4), head=Conv(4, 2, 1))


@pytest.mark.parametrize(
    ("mode", "precision", "model"),
    [("train", "bfloat16", MAP), ("infer", "float32", SMALL)],
    ids=["train a map in bfloat16", "infer"],
)
def test_the_programs_step(peer, mode, precision, model):
    program = make_program(Spec(peer.name, model, (6, 6, 3), 4, mode, precision))
    program.step()
    program.step()
    program.wait()
    assert program.parameters == count_parameters(model)
    assert program.facts["device"]["count"] == 1


@pytest.mark.parametrize("name", ["jaxcnn", "torch"])
def test_a_step_trains_auxiliary_heads_too(name):
    pytest.importorskip(name)
    program = make_program(Spec(name, AUXILIARY, (5, 6, 4), 3))
    program.step()
    program.wait()
    assert program.parameters == count_parameters(AUXILIARY)


def test_flax_with_flags_has_the_best_known_options(monkeypatch):
    pytest.importorskip("flax")
    from jaxcnn.benchmark.peers import to_flax

    spec = Spec("flax-flags", Dense(4, 2), (4,), 2, "infer")
    monkeypatch.setattr(to_flax, "BEST_OPTIONS", {jax.default_backend(): {"xla_embed_ir_in_executable": "True"}})
    assert make_program(spec).facts["compiler_options"] == {"xla_embed_ir_in_executable": "True"}
    monkeypatch.setattr(to_flax, "BEST_OPTIONS", {jax.default_backend(): {"xla_no_such_option": "true"}})
    with pytest.raises(Unavailable, match=r"this jaxlib refuses .*xla_no_such_option"):
        make_program(spec)
    monkeypatch.setattr(to_flax, "BEST_OPTIONS", {})
    with pytest.raises(Unavailable, match="no better XLA options than the defaults are known on"):
        make_program(spec)


# Layers that torch has not: norms without a scale, maps that are resized within a forward, partial connections.
UNTRANSLATED = {
    "deeplabv3_plus_resnet50",
    "lenet5_1998",
    "pspnet_resnet34",
    "upernet_convnext_tiny",
    "whitened_cnn",
}
FAMILIES = {*STANDARD, "googlenet", "mlp", "mobilenet_v3_small", "resnet20"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAMILIES else pytest.param(name, marks=[pytest.mark.slow, pytest.mark.heavy])
        for name, entry in catalog.CATALOG.items()
        if name not in UNTRANSLATED and entry.task != "detection"
    ],
)
def test_every_model_has_as_many_parameters_in_torch(name):
    torch = pytest.importorskip("torch")
    from jaxcnn.benchmark.peers import to_torch

    entry = catalog.CATALOG[name]
    model = catalog.build(name)
    plan = make_plan("torch", model, entry.image_shape, train=False)
    with torch.device("meta"):
        module = to_torch.build(plan)
    assert sum(parameter.numel() for parameter in module.parameters()) == count_parameters(model)
