from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, layers, models, trees
from jaxcnn.layers import (
    AuxiliaryHeads,
    Backbone,
    BatchNorm,
    Composite,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Function,
    GlobalAvgPool,
    Level,
    MaxPool,
    Pad,
    Residual,
    Sequential,
    apply_with_hook,
    batched_features,
    features,
    fold_batch_norm,
    freeze,
    pyramid_paths,
    summary,
)
from jaxcnn.layers.fold import foldable
from jaxcnn.types import Layer

RELU = Function(jax.nn.relu)


def conv_norm(in_channels, out_channels, strides=1):
    return Sequential(
        conv=Conv(in_channels, out_channels, strides=strides, use_bias=False), norm=BatchNorm(out_channels), relu=RELU
    )


MODEL = AuxiliaryHeads(
    "aux",
    stem=conv_norm(3, 4, 2),
    stage1=Sequential(drop=Dropout(0.3), block=Residual(conv_norm(4, 4), activation=RELU)),
    aux=Sequential(pool=GlobalAvgPool(), head=Dense(4, 5)),
    stage2=Sequential(down=MaxPool(2), block=Residual(conv_norm(4, 6), Conv(4, 6, 1), RELU), last=conv_norm(6, 6)),
    pool=GlobalAvgPool(),
    head=Dense(6, 5),
)
IMAGES = jax.random.normal(jax.random.key(1), (3, 12, 8, 3))
KEY = jax.random.key(2)
AT = [
    ["stage2"],
    ["stem", "stage1", "stage2"],
    ["stem/conv", "stage1/block", "stage1", "stage2/block/norm"],
    ["stem/relu", "stage1/block/conv", "stage2/block/shortcut"],
]


def drawn(model):
    params, state = model.init(jax.random.key(0))
    return params, jax.tree.map(lambda leaf: leaf + jnp.linspace(0.1, 0.5, leaf.size).reshape(leaf.shape), state)


def part_of(tree, other):
    """Returns the part of a tree that has the names of another one."""
    return {
        name: part_of(tree[name], inner) if isinstance(inner, dict) else tree[name] for name, inner in other.items()
    }


def carried_over(model, backbone):
    """Returns parameters and state of the model, and the parts of them that the backbone has."""
    params, state = drawn(model)
    parts = jax.eval_shape(backbone.init, jax.random.key(0))
    return params, state, *(part_of(tree, part) for tree, part in zip((params, state), parts, strict=True))


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_it_returns_what_the_layers_of_the_model_return_and_its_new_state(at, train):
    backbone = Backbone(MODEL, at)
    params, state, own_params, own_state = carried_over(MODEL, backbone)

    def recorded(image, key):
        found = {}

        def note(path, layer, y):
            found[path] = y
            return y

        _, new_state = apply_with_hook(MODEL, params, state, image, note, train=train, key=key)
        return tuple(found[path] for path in at), new_state

    keys = jax.random.split(KEY, len(IMAGES))
    expected, new_state = jax.vmap(recorded, out_axes=(0, None), axis_name="batch")(IMAGES, keys)

    def run(image, key):
        return backbone.apply(own_params, own_state, image, train=train, key=key)

    maps, own_new_state = jax.vmap(run, out_axes=(0, None), axis_name="batch")(IMAGES, keys)
    assert_close(maps, expected)
    assert_close(own_new_state, part_of(new_state, own_state))
    assert not train or trees.named_leaves(own_state).keys() >= {"stem/norm/mean"}


def test_it_has_no_layers_after_the_last_one_named_nor_auxiliary_heads():
    params, _ = Backbone(MODEL, ["stem", "stage2/block/conv"]).init(jax.random.key(0))
    assert {name: set(inner) for name, inner in params.items()} == {
        "stem": {"conv", "norm", "relu"},
        "stage1": {"drop", "block"},
        "stage2": {"down", "block"},
    }
    # A residual layer that is left before its sum needs no shortcut, and is the identity in its place.
    assert params["stage2"]["block"] == {"conv": params["stage2"]["block"]["conv"], "shortcut": {}}
    assert Backbone(Backbone(MODEL, ["stem"]).body, ["stem"]) == Backbone(MODEL, ["stem"])


def test_it_computes_no_layers_after_the_last_one_named():
    # The image is too small for the pooling and for the head, which are not even traced.
    model = Sequential(stem=Conv(3, 4), pool=MaxPool(8), flatten=Flatten(), head=Dense(400, 2))
    backbone = Backbone(model, ["stem"])
    image = jnp.ones((4, 4, 3))
    (y,), _ = backbone.apply(*backbone.init(KEY), image, train=True)
    assert y.shape == (4, 4, 4)


@dataclass(frozen=True, repr=False)
class Diamond(Composite):
    """Applies its layers in another order than that of its fields, and one of them twice."""

    last: Layer
    shared: Layer
    first: Layer

    def forward(self, run, x):
        y = run.shared(run.first(x))
        return run.last(y + run.shared(y))


DIAMOND = Diamond(conv_norm(4, 4), conv_norm(4, 4), conv_norm(3, 4))


def test_a_composite_of_ones_own_keeps_all_layers_and_stops_at_the_last_one_named():
    backbone = Backbone(DIAMOND, ["first/conv", "shared", "shared#2/conv"])
    assert backbone.body == DIAMOND
    params, state = drawn(DIAMOND)
    maps, new_state = batched(backbone)(params, state, IMAGES, train=False)
    assert new_state == state
    expected = batched_features(DIAMOND, params, state, IMAGES, at=["first/conv", "shared", "shared#2/conv"])
    assert_close(maps, tuple(expected.values()))

    maps, new_state = batched(backbone)(params, state, IMAGES, train=True)
    whole, (_, whole_state) = [], batched(DIAMOND)(params, state, IMAGES, train=True)
    assert_close(new_state["first"], whole_state["first"])
    assert_close(new_state["last"], state["last"])
    # The second call of the shared layer has not come to its batch norm.
    first, _ = batched(DIAMOND["first"])(params["first"], state["first"], IMAGES, train=True)
    whole, shared = batched(DIAMOND["shared"])(params["shared"], state["shared"], first, train=True)
    assert_close(maps[1], whole)
    assert_close(new_state["shared"], shared)


def test_it_is_seen_inside_as_any_model_is():
    backbone = Backbone(MODEL, ["stem/conv", "stage2/block/norm"])
    model = Sequential(encoder=backbone, pick=Function(len))
    params, state = drawn(backbone)
    outer = {"encoder": params, "pick": {}}, {"encoder": state, "pick": {}}
    maps, _ = batched(backbone)(params, state, IMAGES, train=False)
    # "stem" is whole, and its "conv" is a result of the backbone.
    at = ["encoder/stem", "encoder/stage1/block/conv", "encoder", "encoder/stem/conv"]
    found = batched_features(model, *outer, IMAGES, at=at)
    assert_close(found["encoder"], maps)
    assert_close(found["encoder/stem/conv"], maps[0])
    stem, _ = batched(MODEL["stem"])(params["stem"], state["stem"], IMAGES, train=False)
    assert_close(found["encoder/stem"], stem)
    with pytest.raises(ValueError, match=r"the model applies in evaluation, got 'encoder/stage2/block'"):
        features(model, *outer, IMAGES[0], at=["encoder/stage2/block"])


def test_its_table_has_every_layer_that_it_computes():
    # Each composite is traced on its own: what leaves it are results, whose tracers would leak otherwise.
    backbone = Backbone(MODEL, ["stem/conv", "stage1", "stage2/block/norm"])
    table = summary(backbone, (12, 8, 3))
    rows = {row.path: row for row in table.rows}
    assert {"stem/conv", "stem/norm", "stage1/block", "stage1/block/relu", "stage2/block/norm"} <= rows.keys()
    assert not {"stage2/block", "aux", "head"} & rows.keys()
    assert rows["stem/conv"].multiply_adds == 6 * 4 * 4 * 27
    assert table.parameters == trees.count(backbone.init(KEY)[0])
    assert layers.multiply_adds(backbone, (12, 8, 3)) == sum(row.multiply_adds for row in table.rows)


def test_folding_keeps_the_maps_and_their_paths():
    # A convolution whose own result is a map is not folded; a batch norm whose result is one leaves its name.
    backbone = Backbone(MODEL, ["stem/conv", "stage1/block/norm", "stage2"])
    assert foldable(backbone, (12, 8, 3)).keys() == {"stage1/block/norm", "stage2/block/norm", "stage2/last/norm"}
    params, state = drawn(backbone)
    model, folded, folded_state = fold_batch_norm(backbone, params, state, (12, 8, 3))
    assert model.at == backbone.at
    assert "norm" not in model.body["stage2/last"].names
    maps, _ = batched(backbone)(params, state, IMAGES, train=False)
    folded_maps, _ = batched(model)(folded, folded_state, IMAGES, train=False)
    for ours, theirs in zip(folded_maps, maps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_frozen_layers_stay_as_they_are_in_training():
    backbone = freeze(Backbone(MODEL, ["stem", "stage2/block/norm"]), "stem|stage2")
    params, state = drawn(backbone)
    _, new_state = batched(backbone)(params, state, IMAGES, train=True, key=KEY)
    assert_close({name: new_state[name] for name in ("stem", "stage2")}, {n: state[n] for n in ("stem", "stage2")})
    assert not np.allclose(new_state["stage1"]["block"]["norm"]["mean"], state["stage1"]["block"]["norm"]["mean"])
    # A frozen stage may be cut too.
    assert (
        Backbone(freeze(MODEL, "stage2"), ["stage2/block/norm"]).body["stage2"].layer == backbone.body["stage2"].layer
    )


def test_it_may_be_applied_several_times_within_a_model():
    @dataclass(frozen=True, repr=False)
    class Twins(Composite):
        encoder: Layer

        def forward(self, run, x):
            return run.encoder(x), run.encoder(2 * x)

    backbone = Backbone(MODEL, ["stem", "stage2/block/norm"])
    params, state = drawn(backbone)
    (one, two), _ = batched(Twins(backbone))({"encoder": params}, {"encoder": state}, IMAGES, train=False)
    assert_close(one, batched(backbone)(params, state, IMAGES, train=False)[0])
    assert_close(two, batched(backbone)(params, state, 2 * IMAGES, train=False)[0])
    found = features(Twins(backbone), {"encoder": params}, {"encoder": state}, IMAGES[0], at=["encoder#2/stem"])
    assert_close(found["encoder#2/stem"], two[0][0])


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ([], r"expects at least one path, and none twice, got \(\)"),
        (["stem", "stem"], r"none twice, got \('stem', 'stem'\)"),
        (["stem", "stage9"], r"expected one of the layers \(.*\), got 'stage9', in the path 'stage9'"),
        (["stem//conv"], r"expected paths of names with '/' between them, got 'stem//conv'"),
        (["aux"], r"expected a layer other than the auxiliary heads \('aux',\), got 'aux'"),
        (["stage2", "stem"], r"in the order in which the model computes them, got 'stage2' before 'stem'"),
    ],
)
def test_paths_that_do_not_fit_are_refused(at, message):
    with pytest.raises(ValueError, match=message):
        Backbone(MODEL, at)


def test_what_only_the_forward_tells_is_refused_when_it_runs():
    backbone = Backbone(DIAMOND, ["shared", "first"])
    with pytest.raises(ValueError, match=r"computes them, \('first', 'shared'\), got \('shared', 'first'\)"):
        batched(backbone)(*drawn(backbone), IMAGES, train=False)
    backbone = Backbone(DIAMOND, ["first", "first#2"])
    with pytest.raises(ValueError, match="expected the path of a layer that the model applies, got 'first#2'"):
        batched(backbone)(*drawn(backbone), IMAGES, train=False)


def test_a_single_string_and_a_model_without_layers_are_refused():
    with pytest.raises(TypeError, match=r"got the string 'stem'; write at=\['stem'\]"):
        Backbone(MODEL, "stem")
    with pytest.raises(ValueError, match="expected a model made of layers, got Conv"):
        Backbone(Conv(3, 4), ["conv"])


def test_levels_tell_channels_and_strides():
    backbone = Backbone(MODEL, ["stem", "stage1", "stage2"])
    assert backbone.levels() == (Level(4, 2), Level(4, 2), Level(6, 4))
    with pytest.raises(ValueError, match=r"maps \(height, width, channels\) that grow.* got \(6,\) at 'pool'"):
        Backbone(MODEL, ["stem", "pool"]).levels()
    with pytest.raises(ValueError, match="expects in_channels to be an int of at least 1, got 0"):
        backbone.levels(0)


PYRAMIDS = {
    "resnet18": {2: "stem/relu", 4: "stage1", 8: "stage2", 16: "stage3", 32: "stage4"},
    "resnet50_v2": {2: "stem/conv", 4: "stem", 8: "stage1", 16: "stage2", 32: "relu"},
    "mobilenet_v2": {2: "stage1", 4: "stage2", 8: "stage3", 16: "stage5", 32: "last"},
    "vgg11_bn": {1: "stage1/relu1", 2: "stage1", 4: "stage2", 8: "stage3", 16: "stage4", 32: "stage5"},
    "convnext_tiny": {4: "stage1", 8: "stage2", 16: "stage3", 32: "stage4"},
    "inception_v3": {2: "stem/conv3", 4: "stem/conv5", 8: "mixed5d", 16: "mixed6e", 32: "mixed7c"},
}


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_levels_of_a_classifier_are_found(name):
    model = getattr(models, name)()
    paths = pyramid_paths(model)
    assert paths == PYRAMIDS[name]
    assert list(paths) == sorted(paths)
    assert [level.stride for level in Backbone(model, list(paths.values())).levels()] == list(paths)


def test_a_map_that_padding_has_enlarged_is_no_level():
    model = Sequential(pad=Pad(3), conv=Conv(3, 4, 7, padding="VALID"), down=Conv(4, 4, strides=2))
    assert pyramid_paths(model) == {1: "conv", 2: "down"}
