import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights
from user_blocks import two_inputs

from jaxcnn import batched, trees
from jaxcnn.layers import (
    AuxiliaryHeads,
    AvgPool,
    BatchNorm,
    Composite,
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
    Residual,
    Sequential,
    fold_batch_norm,
    identity,
)
from jaxcnn.layers.fold import foldable
from jaxcnn.models import catalog

pytestmark = pytest.mark.usefixtures("float64")

RELU = Function(jax.nn.relu)

# The others are deep or wide, or one of these with another stem.
QUICK = {"lenet5", "lenet5_1998", "mlp", "resnet20", "small_cnn"}

# The blocks of another model of the catalog, only more or wider.
LARGER = {"densenet161", "densenet169", "densenet201", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"}
LARGER |= {f"efficientnet_{size}" for size in ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")}
LARGER |= {f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")}
LARGER |= {f"regnet_y_{size}" for size in ("800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")}
LARGER |= {"resnet34", "resnet101", "resnet152", "resnet101_v1", "resnet152_v1", "resnet101_v2", "resnet152_v2"}
LARGER |= {"resnet32", "resnet44", "resnet56", "resnet110", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"}
LARGER |= {"resnet34_cifar", "resnet101_cifar", "resnet152_cifar", "vgg13_bn", "vgg16_bn", "vgg19_bn"}

# Of those the deepest or widest of each kind: their results are compared too, not only which batch norms are left.
DEEPEST = {"densenet201", "efficientnet_b7", "efficientnet_v2_l", "regnet_x_32gf", "regnet_y_32gf", "resnet110"}
DEEPEST |= {"resnet152", "resnet152_v1", "resnet152_v2", "resnext101_64x4d", "shufflenet_v2_x2_0", "vgg19_bn"}
DEEPEST |= {"wide_resnet101_2"}

# Batch norms that do not follow a convolution, and stay: those in front of dense layers, transitions and residual
# blocks, and the last one.
KEPT = {"densenet121": 58 + 3 + 1, "densenet161": 78 + 3 + 1, "densenet169": 82 + 3 + 1, "densenet201": 98 + 3 + 1}
KEPT["unet_densenet121"] = KEPT["densenet121"]
KEPT |= {"resnet50_v2": 17, "resnet101_v2": 34, "resnet152_v2": 51, "wrn_28_10": 12}

KINDS = {
    "conv": (Conv(6, 8), (5, 4, 6)),
    "conv without bias": (Conv(6, 8, (3, 2), 2, padding=1, border="reflect", use_bias=False), (5, 4, 6)),
    "grouped": (Conv(6, 8, groups=2), (5, 4, 6)),
    "depthwise": (Conv(6, 12, groups=6, use_bias=False), (5, 4, 6)),
    # As many outputs as inputs, and then as many taps: a wrong axis of the kernel is not seen by its size.
    "square": (Conv(3, 3), (5, 4, 3)),
    "transposed": (ConvTranspose(6, 8), (5, 4, 6)),
    "transposed, square": (ConvTranspose(3, 3, 3, 1), (5, 4, 3)),
    "transposed, grouped": (ConvTranspose(6, 9, (3, 2), 2, output_padding=1, groups=3, use_bias=False), (5, 4, 6)),
    "dense": (Dense(6, 8, use_bias=False), (6,)),
    "dense on pixels": (Dense(6, 6), (5, 4, 6)),
}


def run(model, params, state, images):
    return jax.jit(lambda *trees: batched(model)(*trees, images, train=False)[0])(params, state)


def some_images(shape, dtype=np.float64):
    return np.random.default_rng(1).standard_normal((2, *shape)).astype(dtype)


def assert_same_results(model, folded, images, tolerance=1e-11):
    """Compares the results of models with their parameters and states; the largest one sets the scale."""
    expected = np.asarray(run(*model, images), np.float64)
    actual = np.asarray(run(*folded, images), np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert np.ptp(expected) > 0


NESTED_SHAPE = (6, 5, 3)


def nested():
    """Batch norms at the end, in the middle and at the start of what surrounds them, and in every container."""
    body = Sequential(
        conv1=Conv(4, 6, use_bias=False),
        norm1=BatchNorm(6),
        relu=RELU,
        conv2=Sequential(depthwise=Conv(6, 6, groups=6), pointwise=Conv(6, 8, 1)),
        norm2=BatchNorm(8),
    )
    branches = Concat(
        skip=identity, conv=Sequential(conv=Conv(8, 3, use_bias=False), norm=BatchNorm(3)), norm=BatchNorm(8)
    )
    return Sequential(
        stem=Conv(3, 4, use_bias=False),
        after=Sequential(norm=BatchNorm(4), relu=RELU),
        block=Residual(body, Sequential(conv=Conv(4, 8, 1), norm=BatchNorm(8)), RELU),
        branches=branches,
        norm=BatchNorm(19),
        up=ConvTranspose(19, 5),
        only=Sequential(norm=BatchNorm(5)),
        flatten=Flatten(),
        dense=Dense(12 * 10 * 5, 4, use_bias=False),
        norm_again=BatchNorm(4),
        head=Dense(4, 2),
    )


@pytest.mark.parametrize(("layer", "shape"), list(KINDS.values()), ids=list(KINDS))
def test_a_convolution_takes_in_the_batch_norm_after_it(layer, shape):
    channels = layer.out_features if isinstance(layer, Dense) else layer.out_channels
    model = Sequential(first=layer, norm=BatchNorm(channels, epsilon=0.1), relu=RELU)
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    assert folded[0] == Sequential(first=dataclasses.replace(layer, use_bias=True), relu=RELU)
    assert folded[2] == {"first": {}, "relu": {}}
    assert_same_results((model, params, state), folded, some_images(shape), 1e-14)


def test_what_is_inside_of_a_gate_is_folded():
    model = Gate(Sequential(conv=Conv(4, 4, 1, use_bias=False), norm=BatchNorm(4)))
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    assert folded[0] == Gate(Sequential(conv=Conv(4, 4, 1)))
    assert_same_results((model, params, state), folded, some_images((5, 4, 4)), 1e-14)


def test_layers_beside_auxiliary_heads_are_folded_as_far_as_the_heads_do_not_see_it():
    head = Sequential(conv=Conv(4, 5, 1, use_bias=False), norm=BatchNorm(5), pool=GlobalAvgPool())
    model = AuxiliaryHeads(
        "aux1",
        "aux2",
        conv1=Conv(4, 4, use_bias=False),
        norm1=BatchNorm(4),
        aux1=head,
        conv2=Sequential(conv=Conv(4, 4, use_bias=False)),
        aux2=head,
        norm2=BatchNorm(4),
        conv3=Sequential(conv=Conv(4, 5)),
        norm3=BatchNorm(5),
        pool=GlobalAvgPool(),
    )
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    plain = Sequential(conv=Conv(4, 5, 1), pool=GlobalAvgPool())
    assert folded[0] == AuxiliaryHeads(
        "aux1",
        "aux2",
        conv1=Conv(4, 4),
        aux1=plain,
        conv2=Sequential(conv=Conv(4, 4, use_bias=False)),
        aux2=plain,
        norm2=BatchNorm(4),
        conv3=Sequential(conv=Conv(4, 5)),
        pool=GlobalAvgPool(),
    )
    images = some_images((5, 6, 4))
    assert_same_results((model, params, state), folded, images, 1e-14)
    # The heads too compute the same: from running moments, each by itself.
    conv, norm = (model[name].apply for name in ("conv1", "norm1"))
    seen = norm(params["norm1"], state["norm1"], conv(params["conv1"], {}, images[0], train=False)[0], train=False)[0]
    expected = head.apply(params["aux1"], state["aux1"], seen, train=False)[0]
    seen = folded[0]["conv1"].apply(folded[1]["conv1"], {}, images[0], train=False)[0]
    actual = folded[0]["aux1"].apply(folded[1]["aux1"], folded[2]["aux1"], seen, train=False)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-14)


def test_kernel_and_bias_are_those_of_the_formula():
    model = Sequential(conv=Conv(2, 3, (1, 2)), norm=BatchNorm(3, epsilon=0.25))
    params, state = random_weights(model)
    _, folded, _ = fold_batch_norm(model, params, state)
    for o in range(3):
        factor = params["norm"]["scale"][o] / np.sqrt(state["norm"]["var"][o] + 0.25)
        kernel = factor * params["conv"]["kernel"][:, :, :, o]
        bias = factor * (params["conv"]["bias"][o] - state["norm"]["mean"][o]) + params["norm"]["bias"][o]
        np.testing.assert_allclose(folded["conv"]["kernel"][:, :, :, o], kernel, rtol=1e-14)
        np.testing.assert_allclose(folded["conv"]["bias"][o], bias, rtol=1e-13)


@pytest.mark.parametrize("use_scale", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
def test_a_batch_norm_may_have_no_scale_and_no_bias(use_scale, use_bias):
    model = Sequential(conv=Conv(2, 3, use_bias=False), norm=BatchNorm(3, use_scale=use_scale, use_bias=use_bias))
    params, state = random_weights(model)
    assert_same_results((model, params, state), fold_batch_norm(model, params, state), some_images((4, 4, 2)), 1e-14)


def test_two_batch_norms_in_a_row_are_both_taken_in():
    model = Sequential(conv=Conv(2, 3), norm1=BatchNorm(3), norm2=BatchNorm(3))
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    assert folded[0] == Sequential(conv=Conv(2, 3))
    assert_same_results((model, params, state), folded, some_images((4, 4, 2)), 1e-14)


def test_what_drops_in_training_does_not_stand_between():
    def between(*layers):
        return Sequential(conv=Conv(2, 3), **{f"layer{i}": layer for i, layer in enumerate(layers)}, norm=BatchNorm(3))

    model = between(Dropout(0.5), DropPath(0.5))
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    assert folded[0] == Sequential(conv=Conv(2, 3), layer0=Dropout(0.5), layer1=DropPath(0.5))
    assert_same_results((model, params, state), folded, some_images((4, 4, 2)), 1e-14)
    model = between(Dropout(0.5), RELU, Dropout(0.5))
    assert fold_batch_norm(model, *random_weights(model))[0] == model


def test_containers_are_gone_through():
    model = nested()
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state, NESTED_SHAPE)
    body = Sequential(
        conv1=Conv(4, 6),
        relu=RELU,
        conv2=Sequential(depthwise=Conv(6, 6, groups=6), pointwise=Conv(6, 8, 1)),
    )
    assert folded[0] == Sequential(
        stem=Conv(3, 4),
        after=Sequential(relu=RELU),
        block=Residual(body, Sequential(conv=Conv(4, 8, 1)), RELU),
        branches=Concat(skip=identity, conv=Sequential(conv=Conv(8, 3)), norm=BatchNorm(8)),
        norm=BatchNorm(19),
        up=ConvTranspose(19, 5),
        only=Sequential(),
        flatten=Flatten(),
        dense=Dense(12 * 10 * 5, 4),
        head=Dense(4, 2),
    )
    assert_same_results((model, params, state), folded, some_images((6, 5, 3)))


def test_names_of_parameters_and_state_are_those_of_the_folded_model(key):
    model = nested()
    folded, params, state = fold_batch_norm(model, *random_weights(model), NESTED_SHAPE)
    expected_params, expected_state = jax.eval_shape(folded.init, key)
    assert jax.tree.structure((params, state)) == jax.tree.structure((expected_params, expected_state))
    shapes = [leaf.shape for leaf in jax.tree.leaves((expected_params, expected_state))]
    assert [leaf.shape for leaf in jax.tree.leaves((params, state))] == shapes
    assert set(trees.named_leaves(state)) == {
        "branches/norm/mean",
        "branches/norm/var",
        "norm/mean",
        "norm/var",
    }


@pytest.mark.parametrize(
    "model",
    [
        BatchNorm(3),
        Conv(3, 4),
        Sequential(),
        Sequential(norm=BatchNorm(3), relu=RELU, conv=Conv(3, 4)),
        Sequential(conv=Conv(3, 4), relu=RELU, norm=BatchNorm(4)),
        Sequential(conv=Conv(3, 4), pool=AvgPool(2), norm=BatchNorm(4)),
        Sequential(stem=Conv(3, 3), block=Residual(Sequential(norm=BatchNorm(3), conv=Conv(3, 3))), norm=BatchNorm(3)),
        Sequential(stem=Conv(3, 3), block=Residual(Conv(3, 3), BatchNorm(3))),
        Sequential(stem=Conv(3, 3), join=Concat(a=BatchNorm(3), b=Conv(3, 4)), norm=BatchNorm(7)),
        Residual(BatchNorm(3)),
    ],
    ids=repr,
)
def test_other_batch_norms_stay(model):
    params, state = random_weights(model)
    folded, folded_params, folded_state = fold_batch_norm(model, params, state)
    assert folded == model
    assert jax.tree.structure((folded_params, folded_state)) == jax.tree.structure((params, state))
    leaves = zip(jax.tree.leaves((folded_params, folded_state)), jax.tree.leaves((params, state)), strict=True)
    assert all(new is old for new, old in leaves)


def test_the_given_trees_stay_as_they_are():
    model = nested()
    params, state = random_weights(model)
    names, values = list(trees.named_leaves((params, state))), jax.tree.map(np.copy, (params, state))
    fold_batch_norm(model, params, state, NESTED_SHAPE)
    assert list(trees.named_leaves((params, state))) == names
    jax.tree.map(np.testing.assert_array_equal, (params, state), values)


def test_the_folded_model_is_a_value():
    folded, *_ = fold_batch_norm(nested(), *random_weights(nested(), seed=1), NESTED_SHAPE)
    again, *_ = fold_batch_norm(nested(), *random_weights(nested(), seed=2), NESTED_SHAPE)
    assert folded is not again
    assert folded == again
    assert hash(folded) == hash(again)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (jnp.bfloat16, 0.02), (np.float16, 2e-3)])
def test_kernel_and_bias_keep_their_dtype(dtype, tolerance):
    model = Sequential(conv=Conv(4, 3, use_bias=False), norm=BatchNorm(3))
    params, state = random_weights(model, np.float32)
    params["conv"] = {"kernel": params["conv"]["kernel"].astype(dtype)}
    folded = fold_batch_norm(model, params, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(folded[1:])} == {np.dtype(dtype)}
    assert_same_results((model, params, state), folded, some_images((4, 4, 4), np.float32), tolerance)


def test_folding_can_be_compiled_and_mapped_over_an_ensemble():
    model = nested()
    members = [random_weights(model, seed=seed) for seed in range(2)]
    ensemble = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    many = jax.jit(jax.vmap(lambda *trees: fold_batch_norm(model, *trees, NESTED_SHAPE)[1:]))(*ensemble)
    for i, member in enumerate(members):
        one = fold_batch_norm(model, *member, NESTED_SHAPE)[1:]
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-13, atol=1e-14), many, one)


def test_in_training_a_folded_model_is_a_plain_one_with_biases():
    model = Sequential(conv=Conv(2, 3, use_bias=False), norm=BatchNorm(3), relu=RELU)
    params, state = random_weights(model)
    images = some_images((4, 4, 2))
    folded, params, state = fold_batch_norm(model, params, state)
    trained, new_state = batched(folded)(params, state, images, train=True)
    np.testing.assert_array_equal(trained, batched(folded)(params, state, images, train=False)[0])
    assert new_state == state == {"conv": {}, "relu": {}}


class Twice(Sequential):
    def apply(self, params, state, x, *, train, key=None):
        once, _ = super().apply(params, state, x, train=train)
        return super().apply(params, state, once, train=train)


class StandardizedConv(Conv):
    def apply(self, params, state, x, *, train, key=None):
        params = {**params, "kernel": params["kernel"] / jnp.std(params["kernel"])}
        return super().apply(params, state, x, train=train)


class DoubledNorm(BatchNorm):
    def apply(self, params, state, x, *, train, key=None):
        y, state = super().apply(params, state, x, train=train)
        return 2 * y, state


def test_derived_classes_are_not_taken_for_what_they_derive_from():
    model = Sequential(
        twice=Twice(conv=Conv(3, 3), norm=BatchNorm(3)),
        norm1=BatchNorm(3),
        conv=StandardizedConv(3, 3),
        norm2=BatchNorm(3),
        plain=Conv(3, 3),
        norm3=DoubledNorm(3),
    )
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    assert folded[0] == model
    assert_same_results((model, params, state), folded, some_images((4, 4, 3)))


@dataclasses.dataclass(frozen=True, repr=False)
class Block(Composite):
    """Written as a user would, with every case of a batch norm that stays and of one that goes."""

    conv: Conv
    norm: BatchNorm
    drop: Dropout
    used_twice: Conv
    stays: BatchNorm
    shared: Conv
    after_shared: BatchNorm

    def forward(self, run, x):
        y = jax.nn.relu(run.norm(run.drop(run.conv(x))))
        seen = run.used_twice(y)
        y = run.stays(seen) + seen
        return run.after_shared(run.shared(y)) * run.shared(x)


def test_batch_norms_in_a_composite_of_ones_own_are_folded_where_they_can_be():
    block = Block(Conv(4, 4), BatchNorm(4), Dropout(0.5), Conv(4, 4), BatchNorm(4), Conv(4, 4), BatchNorm(4))
    model = Sequential(stem=Conv(3, 4, use_bias=False), norm=BatchNorm(4), block=block, norm_after=BatchNorm(4))
    params, state = random_weights(model)
    folded = fold_batch_norm(model, params, state)
    assert folded[0] == Sequential(
        stem=Conv(3, 4), block=dataclasses.replace(block, norm=identity), norm_after=BatchNorm(4)
    )
    assert foldable(model) == {"norm": "stem", "block/norm": "block/conv"}
    assert folded[2]["block"]["norm"] == {}
    assert_same_results((model, params, state), folded, some_images((4, 4, 3)))


def without(tree, path):
    """Returns a copy of a nested dict without what lies at a path."""
    first, _, rest = path.partition("/")
    if not rest:
        return {name: value for name, value in tree.items() if name != first}
    return {**tree, first: without(tree[first], rest)}


@pytest.mark.parametrize(
    ("which", "missing", "message", "place"),
    [
        (
            "params",
            "stem",
            r"Sequential parameters: expected a dict of the names \('stem', 'after', .*was it made",
            None,
        ),
        ("state", "norm", r"Sequential state: expected a dict of the names", None),
        ("params", "after/norm", r"Sequential parameters: .* \('norm', 'relu'\), got \('relu',\)", "after"),
        ("params", "after/norm/scale", r"BatchNorm parameters: .* \('bias', 'scale'\), got \('bias',\)", "after/norm"),
        ("state", "after/norm/mean", r"BatchNorm state: .* \('mean', 'var'\), got \('var',\)", "after/norm"),
        ("params", "stem/kernel", r"Conv parameters: .* \('kernel',\), got \(\)", "stem"),
        (
            "params",
            "block/shortcut",
            r"Residual parameters: .* the names \('shortcut',\), got \(",
            "block",
        ),
        ("state", "block/shortcut", r"Residual state: .* the names \('shortcut',\), got \(", "block"),
        ("params", "block/conv2", r"Sequential parameters: .*, got \('conv1', 'norm1', 'norm2', 'relu'\)", "block"),
        ("state", "block/norm1/var", r"BatchNorm state: .*, got \('mean',\)", "block/norm1"),
        ("params", "block/shortcut/conv", r"Sequential parameters: .*, got \('norm',\)", "block/shortcut"),
        ("state", "branches/skip", r"Concat state: .* \('skip', 'conv', 'norm'\), got", "branches"),
        ("params", "branches/conv/norm", r"Sequential parameters: .* got \('conv',\)", "branches/conv"),
    ],
)
def test_parameters_and_state_of_another_model_are_refused(which, missing, message, place):
    model = nested()
    given = dict(zip(("params", "state"), random_weights(model), strict=True))
    given[which] = without(given[which], missing)
    with pytest.raises(ValueError, match=message) as caught:
        fold_batch_norm(model, given["params"], given["state"])
    assert getattr(caught.value, "__notes__", []) == ([f"in layer '{place}'"] if place else [])


def test_a_batch_norm_of_other_channels_is_refused():
    model = Sequential(conv=Conv(2, 6), norm=BatchNorm(1))
    with pytest.raises(ValueError, match=r"pass input_shape=.*BatchNorm expects 1 channels .*, 6\)"):
        fold_batch_norm(model, *random_weights(model))
    with pytest.raises(ValueError, match=r"BatchNorm expects 1 channels .* got shape \(4, 4, 6\)") as caught:
        fold_batch_norm(model, *random_weights(model), (4, 4, 2))
    assert places(caught) == ["in layer 'norm'"]


def places(caught):
    """Returns the notes of the containers: jax adds one of its own where it shortens the traceback."""
    return [note for note in caught.value.__notes__ if note.startswith("in layer")]


def models():
    for name, entry in catalog.CATALOG.items():
        # The norms of `whitened_cnn` have no scale, and half of them follow a pooling. A detector is folded in
        # tests/models/test_detection_models.py.
        if name in LARGER - DEEPEST or name == "whitened_cnn" or entry.task == "detection":
            continue
        yield pytest.param(name, entry, id=name, marks=[] if name in QUICK else [pytest.mark.slow, pytest.mark.heavy])


def with_doubled_variances(state):
    return jax.tree_util.tree_map_with_path(lambda path, leaf: 2 * leaf if path[-1].key == "var" else leaf, state)


@pytest.fixture
def forgets_programs():
    """The programs of all models together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("forgets_programs")
@pytest.mark.parametrize(("name", "entry"), list(models()))
def test_every_model_computes_the_same_without_its_batch_norms(name, entry):
    size = max(32, entry.min_size)
    shape = (size, size, entry.image_shape[2])
    model = catalog.build(name, 10, shape)
    if "BatchNorm(" not in repr(model):
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        assert fold_batch_norm(model, *shapes) == (model, *shapes)
        return
    params, state = random_weights(model)
    if name == "efficientnet_v2_l":
        # As drawn, it is chaotic: a change of the image by 1e-15 of it changes the logits by 3 % of theirs.
        state = with_doubled_variances(state)
    folded = fold_batch_norm(model, params, state)
    assert_batch_norms_are_gone(name, (model, params, state), folded)
    assert_same_results((model, params, state), folded, some_images(shape))


def assert_batch_norms_are_gone(name, original, folded):
    kept = repr(folded[0]).count("BatchNorm(")
    assert kept == KEPT.get(name, 0)
    assert len(jax.tree.leaves(folded[2])) == 2 * kept
    # Four leaves of each batch norm go, and a bias comes where the convolution had none.
    removed = repr(original[0]).count("BatchNorm(") - kept
    biases = repr(original[0]).count("use_bias=False") - repr(folded[0]).count("use_bias=False")
    leaves = len(jax.tree.leaves(original[1:])) - 4 * removed + biases
    assert len(jax.tree.leaves(folded[1:])) == leaves


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(LARGER))
def test_larger_models_keep_no_batch_norm_after_a_convolution(name):
    entry = catalog.CATALOG[name]
    model = catalog.build(name, 10, entry.image_shape)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    layers = []

    def fold(params, state):
        layer, params, state = fold_batch_norm(model, params, state)
        layers.append(layer)
        return params, state

    shapes = jax.eval_shape(fold, params, state)
    assert_batch_norms_are_gone(name, (model, params, state), (*layers, *shapes))
    images = jax.ShapeDtypeStruct((2, *entry.image_shape), np.float32)
    logits = jax.eval_shape(lambda *trees: batched(layers[0])(*trees, train=False)[0], *shapes, images)
    assert (logits.shape[0], logits.shape[-1]) == (2, 10)


def test_a_model_of_two_inputs_is_folded_by_the_tree_of_its_shapes():
    model, shapes = two_inputs(), ((6, 5, 3), (3, 2, 4))
    assert foldable(model, shapes) == {"right/norm": "right/conv", "join/norm": "join/conv"}
