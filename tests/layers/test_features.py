import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.inspection import count_multiply_adds
from jaxcnn.layers import (
    AuxiliaryHeads,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Function,
    Gate,
    GlobalAvgPool,
    Residual,
    Sequential,
    batched_features,
    features,
    freeze,
)

RELU = Function(jax.nn.relu)

# Every container, and every one of them within another.
MODEL = Sequential(
    stem=Conv(3, 4),
    mixed=Concat(
        narrow=Sequential(conv=Conv(4, 2, 1), relu=RELU),
        wide=Residual(Sequential(conv=Conv(4, 6), norm=BatchNorm(6)), Sequential(conv=Conv(4, 6, 1)), RELU),
    ),
    gate=Gate(Sequential(pool=GlobalAvgPool(), dense=Dense(8, 8), drop=Dropout(0.5))),
    plain=Residual(Conv(8, 8)),
    flatten=Flatten(),
    head=Dense(6 * 5 * 8, 2),
)


def drawn():
    params, state = MODEL.init(jax.random.key(0))
    state["mixed"]["wide"]["norm"] = {"mean": jnp.linspace(-1, 1, 6), "var": jnp.linspace(0.5, 2, 6)}
    return params, state


PARAMS, STATE = drawn()
IMAGES = jax.random.normal(jax.random.key(1), (3, 6, 5, 3))
PATHS = [
    "stem",
    "mixed",
    "mixed/narrow",
    "mixed/narrow/conv",
    "mixed/wide",
    "mixed/wide/conv",
    "mixed/wide/norm",
    "mixed/wide/shortcut",
    "mixed/wide/shortcut/conv",
    "gate",
    "gate/dense",
    "plain",
    "plain/shortcut",
    "head",
]


@jax.jit
def by_hand(image):
    """Every result once more, layer by layer, without a container."""
    found = {}

    def call(path, x):
        *parents, name = path.split("/")
        params, state, layer = PARAMS, STATE, MODEL[path]
        for parent in (*parents, name):
            params, state = params[parent], state[parent]
        found[path], _ = layer.apply(params, state, x, train=False)
        return found[path]

    x = call("stem", image)
    narrow = found["mixed/narrow"] = jax.nn.relu(call("mixed/narrow/conv", x))
    around = found["mixed/wide/shortcut"] = call("mixed/wide/shortcut/conv", x)
    wide = found["mixed/wide"] = jax.nn.relu(call("mixed/wide/norm", call("mixed/wide/conv", x)) + around)
    x = found["mixed"] = jnp.concatenate([narrow, wide], -1)
    x = found["gate"] = x * call("gate/dense", x.mean((0, 1)))
    found["plain/shortcut"] = x
    kernel = {name: PARAMS["plain"][name] for name in ("kernel", "bias")}
    x = found["plain"] = x + MODEL["plain"].body.apply(kernel, {}, x, train=False)[0]
    call("head", x.ravel())
    return found


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def expected():
    return by_hand(IMAGES[0])


@pytest.mark.parametrize("path", PATHS)
def test_one_feature_is_what_the_layer_returns(path, expected):
    found = features(MODEL, PARAMS, STATE, IMAGES[0], at=[path])
    assert list(found) == [path]
    assert_close(found[path], expected[path])


def test_all_features_at_once_come_in_the_order_asked_for(expected):
    at = [*reversed(PATHS[:8]), *PATHS[8:]]
    found = features(MODEL, PARAMS, STATE, IMAGES[0], at=at)
    assert list(found) == at
    for path in at:
        assert_close(found[path], expected[path])


def test_the_features_of_a_batch_come_in_the_order_asked_for_too():
    assert list(batched_features(MODEL, PARAMS, STATE, IMAGES, at=["stem", "mixed/narrow"])) == ["stem", "mixed/narrow"]


def test_a_compiled_batch_gives_the_features_of_each_image():
    call = functools.partial(batched_features, MODEL, at=["mixed/wide", "head"])
    found = jax.jit(call)(PARAMS, STATE, IMAGES)
    for i, image in enumerate(IMAGES):
        for path, feature in by_hand(image).items():
            if path in found:
                assert_close(found[path][i], feature)


def test_the_gradient_of_a_feature_is_that_of_the_layers_before_it():
    def through_features(image):
        return jnp.sum(features(MODEL, PARAMS, STATE, image, at=["mixed/narrow/conv"])["mixed/narrow/conv"] ** 2)

    def through_layers(image):
        stem, _ = MODEL["stem"].apply(PARAMS["stem"], {}, image, train=False)
        narrow = PARAMS["mixed"]["narrow"]["conv"]
        return jnp.sum(MODEL["mixed/narrow/conv"].apply(narrow, {}, stem, train=False)[0] ** 2)

    assert_close(jax.grad(through_features)(IMAGES[0]), jax.grad(through_layers)(IMAGES[0]))


@pytest.mark.parametrize(
    ("at", "work"),
    [
        # Pixels times taps times channels: 6 x 5 pixels everywhere.
        (["stem"], 30 * 27 * 4),
        (["mixed/narrow"], 30 * (27 * 4 + 4 * 2)),
        (["mixed/wide/shortcut"], 30 * (27 * 4 + 4 * 2 + 36 * 6 + 4 * 6)),
        (["mixed/wide/conv"], 30 * (27 * 4 + 4 * 2 + 36 * 6)),
        (["mixed/wide/norm", "mixed/narrow/conv"], 30 * (27 * 4 + 36 * 6 + 4 * 2)),
        (["mixed"], 30 * (27 * 4 + 4 * 2 + 36 * 6 + 4 * 6)),
        (["stem", "gate/pool"], 30 * (27 * 4 + 4 * 2 + 36 * 6 + 4 * 6)),
        (["gate/dense"], 30 * (27 * 4 + 4 * 2 + 36 * 6 + 4 * 6) + 64),
    ],
)
def test_nothing_after_the_last_feature_is_computed(at, work):
    assert count_multiply_adds(lambda x: features(MODEL, PARAMS, STATE, x, at=at), IMAGES[0]) == work


def test_layers_after_the_last_feature_need_not_take_the_image():
    larger = jax.ShapeDtypeStruct((9, 9, 3), jnp.float32)
    with pytest.raises(ValueError, match="dense expects 240 features"):
        jax.eval_shape(lambda x: MODEL.apply(PARAMS, STATE, x, train=False), larger)
    found = jax.eval_shape(lambda x: features(MODEL, PARAMS, STATE, x, at=["plain"]), larger)
    assert found["plain"].shape == (9, 9, 8)


def test_features_of_a_frozen_model_are_those_of_the_model(expected):
    found = features(freeze(MODEL, "stem|mixed"), PARAMS, STATE, IMAGES[0], at=["mixed/wide/norm", "gate"])
    for path in found:
        assert_close(found[path], expected[path])


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["stages"], r"one of the layers \('stem', 'mixed', 'gate', .*\), got 'stages'"),
        (["stem", "mixed/narow"], r"one of the layers \('narrow', 'wide'\), got 'narow', in the path 'mixed/narow'"),
        (["mixed/wide/bn"], r"of the layers \('conv', 'norm', 'shortcut'\), got 'bn', in the path 'mixed/wide/bn'"),
        (["gate/fc/bias"], r"of the layers \('pool', 'dense', 'drop'\), got 'fc', in the path 'gate/fc/bias'"),
        (["stem/kernel"], r"path that ends at 'stem', which holds no layers, got 'stem/kernel'"),
        (["stem", "mixed/"], "paths of names with '/' between them, got 'mixed/'"),
        ([""], "paths of names with '/' between them, got ''"),
        ([], "expects at least one path, got none"),
    ],
)
def test_names_that_are_not_there_are_refused_with_those_that_are(at, message):
    with pytest.raises(ValueError, match=message):
        features(MODEL, PARAMS, STATE, IMAGES[0], at=at)


def test_a_string_is_no_list_of_paths():
    with pytest.raises(TypeError, match=r"got the string 'stem'; write at=\['stem'\]"):
        features(MODEL, PARAMS, STATE, IMAGES[0], at="stem")


def test_a_batch_and_one_image_are_told_apart():
    with pytest.raises(ValueError, match=r"one image .*, got \(3, 6, 5, 3\); use jaxcnn.layers.batched_features"):
        features(MODEL, PARAMS, STATE, IMAGES, at=["stem"])
    with pytest.raises(ValueError, match=r"images of shape \(batch, .*got \(0, 6, 5, 3\)"):
        batched_features(MODEL, PARAMS, STATE, IMAGES[:0], at=["stem"])


def test_an_auxiliary_head_is_computed_where_it_is_named():
    classifier = Sequential(pool=GlobalAvgPool(), dense=Dense(4, 2))
    model = AuxiliaryHeads("aux", stem=Conv(3, 4), aux=classifier, norm=BatchNorm(4), end=classifier)
    params, state = model.init(jax.random.key(0))
    image = IMAGES[0]
    found = features(model, params, state, image, at=["aux/dense", "aux", "stem", "end", "norm"])
    stem, _ = model["stem"].apply(params["stem"], {}, image, train=False)
    aux, _ = classifier.apply(params["aux"], state["aux"], stem, train=False)
    end, _ = model.apply(params, state, image, train=False)
    for name, expected in (("stem", stem), ("aux", aux), ("aux/dense", aux), ("end", end)):
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)
    assert found["norm"].shape == (6, 5, 4)
    for at, work in ((["stem"], 6 * 5 * 27 * 4), (["aux"], 6 * 5 * 27 * 4 + 8), (["end"], 6 * 5 * 27 * 4 + 8)):
        found = functools.partial(features, model, at=at)
        assert count_multiply_adds(found, params, state, image) == work
