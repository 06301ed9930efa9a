import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import batched, trees
from jaxcnn.layers import (
    AuxiliaryHeads,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Function,
    Gate,
    GlobalAvgPool,
    Initializer,
    Residual,
    Sequential,
    identity,
)


def double(x):
    return 2 * x


def add(x, *, amount):
    return x + amount


DOUBLE, NEGATE, RELU = Function(double), Function(jnp.negative), Function(jax.nn.relu)
VECTOR = jnp.array([-1.0, 0.0, 3.0])


def run(layer, x, **options):
    params, state = layer.init(jax.random.key(0))
    return layer.apply(params, state, x, **{"train": False, **options})


def places(caught):
    """Returns the notes of the containers: jax adds one of its own where it shortens the traceback."""
    return [note for note in caught.value.__notes__ if note.startswith("in layer")]


def block(in_channels, out_channels):
    return Sequential(conv1=Conv(in_channels, out_channels), norm1=BatchNorm(out_channels))


def nested():
    return Sequential(
        stem=Conv(3, 4),
        stage1=Sequential(block0=Residual(block(4, 4)), block1=Residual(block(4, 8), Sequential(conv=Conv(4, 8, 1)))),
        pool=GlobalAvgPool(),
        head=Dense(8, 2),
    )


# Sequential


def test_layers_apply_in_the_order_they_are_written():
    np.testing.assert_array_equal(run(Sequential(a=Function(add, amount=1), b=DOUBLE), VECTOR)[0], [0, 2, 8])
    np.testing.assert_array_equal(run(Sequential(b=DOUBLE, a=Function(add, amount=1)), VECTOR)[0], [-1, 1, 7])


def test_no_layers_change_nothing():
    y, state = run(Sequential(), VECTOR)
    np.testing.assert_array_equal(y, VECTOR)
    assert state == {}


def test_parameters_and_state_are_nested_by_name(key):
    params, state = jax.eval_shape(nested().init, key)
    assert {name: leaf.shape for name, leaf in trees.named_leaves(params).items()} == {
        "head/bias": (2,),
        "head/kernel": (8, 2),
        "stage1/block0/conv1/bias": (4,),
        "stage1/block0/conv1/kernel": (3, 3, 4, 4),
        "stage1/block0/norm1/bias": (4,),
        "stage1/block0/norm1/scale": (4,),
        "stage1/block1/conv1/bias": (8,),
        "stage1/block1/conv1/kernel": (3, 3, 4, 8),
        "stage1/block1/norm1/bias": (8,),
        "stage1/block1/norm1/scale": (8,),
        "stage1/block1/shortcut/conv/bias": (8,),
        "stage1/block1/shortcut/conv/kernel": (1, 1, 4, 8),
        "stem/bias": (4,),
        "stem/kernel": (3, 3, 3, 4),
    }
    assert {name: leaf.shape for name, leaf in trees.named_leaves(state).items()} == {
        "stage1/block0/norm1/mean": (4,),
        "stage1/block0/norm1/var": (4,),
        "stage1/block1/norm1/mean": (8,),
        "stage1/block1/norm1/var": (8,),
    }
    assert params["pool"] == state["pool"] == {}
    assert params["stage1"]["block0"]["shortcut"] == state["stage1"]["block0"]["shortcut"] == {}


def test_each_layer_reads_its_own_parameters():
    model = Sequential(a=Dense(2, 2), b=RELU, c=Dense(2, 1))
    params = {
        "a": {"kernel": jnp.array([[1.0, 0.0], [1.0, -1.0]]), "bias": jnp.array([0.0, 1.0])},
        "b": {},
        "c": {"kernel": jnp.array([[10.0], [100.0]]), "bias": jnp.array([1000.0])},
    }
    y, _ = model.apply(params, {"a": {}, "b": {}, "c": {}}, jnp.array([3.0, 4.0]), train=False)
    # a: (3 + 4, 1 - 4), of which the relu leaves (7, 0).
    np.testing.assert_array_equal(y, [1070])


def test_state_is_updated_under_the_name_of_its_layer():
    model = Sequential(first=BatchNorm(1, decay=0.0, epsilon=0.0), double=DOUBLE, last=BatchNorm(1, decay=0.0))
    params, state = model.init(jax.random.key(0))
    _, new_state = batched(model)(params, state, jnp.array([[1.0], [5.0]]), train=True)
    # Normalised to -1 and 1, then doubled: the mean is 0 and the variance of two values 2 (-2)^2 / 1 = 8.
    np.testing.assert_allclose(new_state["first"]["mean"], [3])
    np.testing.assert_allclose(new_state["first"]["var"], [8])
    np.testing.assert_allclose(new_state["last"]["mean"], [0], atol=1e-6)
    np.testing.assert_allclose(new_state["last"]["var"], [8], rtol=1e-5)
    assert new_state["double"] == {}


def test_equal_layers_are_drawn_with_different_keys(key):
    params, _ = Sequential(a=Dense(3, 3), b=Sequential(a=Dense(3, 3), c=Residual(Dense(3, 3), Dense(3, 3)))).init(key)
    kernels = [leaf for name, leaf in trees.named_leaves(params).items() if name.endswith("kernel")]
    assert len(kernels) == 4
    assert len({kernel.tobytes() for kernel in map(np.asarray, kernels)}) == 4


def test_a_layer_added_at_the_end_leaves_the_other_parameters_as_they_were(key):
    short, _ = Sequential(a=Dense(3, 3), b=Dense(3, 3)).init(key)
    long, _ = Sequential(a=Dense(3, 3), b=Dense(3, 3), c=Dense(3, 1)).init(key)
    for name in short:
        np.testing.assert_array_equal(short[name]["kernel"], long[name]["kernel"])


def test_layers_drop_with_different_keys(key):
    drop = Dropout(0.5)
    model = Residual(Sequential(a=drop), Sequential(b=Sequential(c=drop, d=drop)))
    params, state = model.init(key)
    ones = jnp.ones(1000)
    y, _ = model.apply(params, state, ones, train=True, key=key)
    # The body keeps half of the values as 2, the shortcut a quarter of them as 4, each on its own.
    shares = {float(value): float(np.mean(np.asarray(y) == value)) for value in (0, 2, 4, 6)}
    for value, expected in {0: 3 / 8, 2: 3 / 8, 4: 1 / 8, 6: 1 / 8}.items():
        assert abs(shares[value] - expected) < 5 * np.sqrt(expected * (1 - expected) / 1000)


def test_body_and_shortcut_drop_with_different_keys(key):
    layer = Residual(Dropout(0.5), Dropout(0.5))
    y, _ = layer.apply(*layer.init(key), jnp.ones(100), train=True, key=key)
    assert set(np.unique(y)) == {0, 2, 4}


def test_replace_gives_a_copy_with_another_layer():
    model = nested()
    backbone = model.replace(head=identity)
    assert backbone["head"] == identity
    assert backbone.names == model.names
    assert model == nested()
    assert backbone["stage1"] == model["stage1"]


def test_replace_of_the_head_leaves_the_other_parameters_as_they_were(key):
    model = Sequential(body=Sequential(a=Dense(3, 3), b=Dense(3, 3)), head=Dense(3, 2))
    params, _ = model.init(key)
    other, _ = model.replace(head=Dense(3, 5)).init(key)
    assert other["head"]["kernel"].shape == (3, 5)
    for name, leaf in trees.named_leaves(params["body"]).items():
        np.testing.assert_array_equal(leaf, trees.named_leaves(other["body"])[name])


def test_replace_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"replace expects names among \('a', 'b'\), got 'c', 'd'"):
        Sequential(a=DOUBLE, b=RELU).replace(c=RELU, a=RELU, d=RELU)


def test_replace_refuses_what_is_no_layer():
    with pytest.raises(TypeError, match="expected 'a' to be a layer"):
        Sequential(a=DOUBLE).replace(a=jax.nn.relu)


def test_layers_are_found_by_path():
    model = nested()
    assert model["stem"] == Conv(3, 4)
    assert model["stage1/block0/conv1"] == Conv(4, 4)
    assert model["stage1/block0/shortcut"] == identity
    assert model["stage1/block1/shortcut/conv"] == Conv(4, 8, 1)


def test_a_path_that_leads_nowhere_is_refused():
    with pytest.raises(KeyError, match=r"expected one of the layers \('block0', 'block1'\), got 'block2'"):
        nested()["stage1/block2/conv1"]


def test_names_are_in_order():
    assert nested().names == ("stem", "stage1", "pool", "head")


def test_the_order_of_layers_makes_a_difference():
    assert Sequential(a=DOUBLE, b=RELU) != Sequential(b=RELU, a=DOUBLE)


@pytest.mark.parametrize("name", ["", "a/b", "/"])
def test_a_name_that_would_break_paths_is_refused(name):
    with pytest.raises(ValueError, match=f"expected a layer name without '/' .* got '{name}'"):
        Sequential(**{name: RELU})


@pytest.mark.parametrize("value", [jax.nn.relu, Conv, None, 3])
def test_what_is_no_layer_is_refused(value):
    with pytest.raises(TypeError, match=r"expected 'a' to be a layer, .* wrap a function in Function"):
        Sequential(a=value)
    with pytest.raises(TypeError, match="expected 'body' to be a layer"):
        Residual(value)
    with pytest.raises(TypeError, match="expected 'shortcut' to be a layer"):
        Residual(RELU, value)


@pytest.mark.parametrize("tree", [{}, {"a": {}, "c": {}}, {"a": {}, "b": {}, "c": {}}, [{}, {}], None])
def test_parameters_and_state_of_another_model_are_refused(tree):
    model, own = Sequential(a=DOUBLE, b=RELU), {"a": {}, "b": {}}
    with pytest.raises(ValueError, match=r"Sequential parameters: expected a dict of the names \('a', 'b'\), got"):
        model.apply(tree, own, VECTOR, train=False)
    with pytest.raises(ValueError, match=r"Sequential state: expected .* was it made by this layer's init\?"):
        model.apply(own, tree, VECTOR, train=False)


def test_a_short_model_prints_on_one_line():
    assert repr(Sequential(conv=Conv(3, 4), relu=RELU)) == "Sequential(conv=Conv(3, 4), relu=Function(jax.nn.relu))"
    assert repr(Sequential()) == "Sequential()"


def test_a_long_model_prints_a_layer_a_line():
    inner = Sequential(**{f"dense{i}": Dense(1234567, 1234567) for i in range(3)})
    assert repr(Sequential(a=inner, relu=RELU)) == (
        "Sequential(\n"
        "    a=Sequential(\n"
        "        dense0=Dense(1234567, 1234567),\n"
        "        dense1=Dense(1234567, 1234567),\n"
        "        dense2=Dense(1234567, 1234567),\n"
        "    ),\n"
        "    relu=Function(jax.nn.relu),\n"
        ")"
    )


# Residual


def test_the_shortcut_is_added_and_the_sum_activated():
    np.testing.assert_array_equal(run(Residual(DOUBLE), VECTOR)[0], [-3, 0, 9])
    np.testing.assert_array_equal(run(Residual(DOUBLE, NEGATE), VECTOR)[0], [-1, 0, 3])
    np.testing.assert_array_equal(run(Residual(DOUBLE, activation=RELU), VECTOR)[0], [0, 0, 9])


def test_body_and_shortcut_read_their_own_parameters():
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.ones(1), "shortcut": {"kernel": jnp.full((1, 1), 10.0)}}
    layer = Residual(Dense(1, 1), Dense(1, 1, use_bias=False))
    y, _ = layer.apply(params, {"shortcut": {}}, jnp.array([3.0]), train=False)
    np.testing.assert_array_equal(y, [2 * 3 + 1 + 10 * 3])


def test_body_and_shortcut_keep_their_own_state():
    layer = Residual(BatchNorm(1, decay=0.0), Sequential(double=DOUBLE, norm=BatchNorm(1, decay=0.0)))
    params, state = layer.init(jax.random.key(0))
    _, new_state = batched(layer)(params, state, jnp.array([[1.0], [5.0]]), train=True)
    np.testing.assert_allclose(new_state["mean"], [3])
    np.testing.assert_allclose(new_state["shortcut"]["norm"]["mean"], [6])
    assert set(new_state) == {"mean", "var", "shortcut"}


def test_different_shapes_of_body_and_shortcut_are_refused():
    with pytest.raises(
        ValueError, match=r"body and shortcut to give the same shape, got \(5, 5, 8\) and \(5, 5, 4\); project the"
    ):
        run(Residual(Conv(4, 8)), jnp.ones((5, 5, 4)))


def test_shapes_that_only_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"got \(5, 5, 1\) and \(5, 5, 4\)"):
        run(Residual(Conv(4, 1)), jnp.ones((5, 5, 4)))


def test_an_activation_that_is_no_function_layer_is_refused():
    with pytest.raises(TypeError, match="Residual expects its activation to be a Function, got Dropout"):
        Residual(RELU, activation=Dropout(0.5))


def test_a_body_that_takes_the_name_of_the_shortcut_is_refused():
    with pytest.raises(ValueError, match="children of different names, got 'shortcut' twice"):
        Residual(Sequential(shortcut=RELU))


def test_parameters_without_a_shortcut_are_refused():
    with pytest.raises(
        ValueError, match=r"Residual parameters: expected a dict with the names \('shortcut',\), got \(\)"
    ):
        Residual(RELU).apply({}, {"shortcut": {}}, VECTOR, train=False)
    with pytest.raises(ValueError, match=r"Residual state: expected a dict with the names \('shortcut',\), got \(\)"):
        Residual(RELU).apply({"shortcut": {}}, {}, VECTOR, train=False)


def test_a_residual_prints_what_differs_from_the_default():
    assert repr(Residual(Conv(4, 4))) == "Residual(body=Conv(4, 4))"
    assert repr(Residual(RELU, Conv(3, 4), RELU)) == (
        "Residual(body=Function(jax.nn.relu), shortcut=Conv(3, 4), activation=Function(jax.nn.relu))"
    )


# Concat


def test_results_are_joined_along_the_channels_in_the_declared_order():
    x = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
    y, state = run(Concat(skip=identity, double=DOUBLE, negate=NEGATE), jnp.asarray(x))
    expected = np.empty((3, 2, 6), np.float32)
    for row, column in np.ndindex(3, 2):
        a, b = x[row, column]
        expected[row, column] = [a, b, 2 * a, 2 * b, -a, -b]
    np.testing.assert_array_equal(y, expected)
    assert state == {"skip": {}, "double": {}, "negate": {}}
    np.testing.assert_array_equal(run(Concat(double=DOUBLE, skip=identity), VECTOR)[0], [-2, 0, 6, -1, 0, 3])


def test_branches_may_have_different_channels():
    y, _ = run(Concat(a=Conv(2, 3), b=Sequential(conv=Conv(2, 1, 1)), c=Sequential()), jnp.ones((4, 5, 2)))
    assert y.shape == (4, 5, 6)


def test_one_branch_is_that_branch():
    np.testing.assert_array_equal(run(Concat(only=DOUBLE), VECTOR)[0], [-2, 0, 6])


def test_each_branch_reads_its_own_parameters():
    model = Concat(a=Dense(1, 1), b=Dense(1, 1, use_bias=False))
    params = {"a": {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.ones(1)}, "b": {"kernel": jnp.full((1, 1), 10.0)}}
    y, _ = model.apply(params, {"a": {}, "b": {}}, jnp.array([3.0]), train=False)
    np.testing.assert_array_equal(y, [7, 30])


def test_each_branch_keeps_its_own_state():
    model = Concat(a=BatchNorm(1, decay=0.0), b=Sequential(double=DOUBLE, norm=BatchNorm(1, decay=0.0)))
    params, state = model.init(jax.random.key(0))
    _, new_state = batched(model)(params, state, jnp.array([[1.0], [5.0]]), train=True)
    np.testing.assert_allclose(new_state["a"]["mean"], [3])
    np.testing.assert_allclose(new_state["b"]["norm"]["mean"], [6])
    assert set(new_state) == {"a", "b"}


def test_branches_draw_and_drop_with_different_keys(key):
    params, _ = Concat(a=Dense(3, 3), b=Dense(3, 3)).init(key)
    assert not np.array_equal(params["a"]["kernel"], params["b"]["kernel"])
    model = Concat(a=Dropout(0.5), b=Dropout(0.5))
    y, _ = model.apply(*model.init(key), jnp.ones(100), train=True, key=key)
    assert not np.array_equal(y[:100], y[100:])


def test_branches_are_found_replaced_and_named_as_layers_are():
    model = Concat(skip=identity, deeper=Sequential(conv=Conv(3, 4)))
    assert model.names == ("skip", "deeper")
    assert model["deeper/conv"] == Conv(3, 4)
    other = model.replace(deeper=RELU)
    assert other == Concat(skip=identity, deeper=RELU)
    with pytest.raises(ValueError, match=r"replace expects names among \('skip', 'deeper'\), got 'body'"):
        model.replace(body=RELU)


def test_branches_side_by_side_are_not_layers_in_a_row():
    assert Concat(a=DOUBLE, b=RELU) != Sequential(a=DOUBLE, b=RELU)
    assert Concat(a=DOUBLE, b=RELU) != Concat(b=RELU, a=DOUBLE)
    assert Concat(a=DOUBLE, b=RELU) == Concat(a=DOUBLE, b=RELU)
    assert repr(Concat(a=RELU, b=Conv(3, 4))) == "Concat(a=Function(jax.nn.relu), b=Conv(3, 4))"


@pytest.mark.parametrize(
    ("branch", "shape"),
    [(Conv(2, 3, strides=2), r"\(3, 3, 3\)"), (Conv(2, 2, (2, 1), padding="VALID"), r"\(5, 6, 2\)")],
)
def test_branches_of_different_sizes_are_refused(branch, shape):
    message = rf"differ in channels only, got skip \(6, 6, 2\), b {shape}; give them the same strides, and a padding"
    with pytest.raises(ValueError, match=message) as caught:
        run(Sequential(a=Sequential(join=Concat(skip=identity, b=branch))), jnp.ones((6, 6, 2)))
    assert places(caught) == ["in layer 'a/join'"]


def test_a_map_beside_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"got a \(6, 6, 2\), b \(2,\); give"):
        run(Concat(a=identity, b=GlobalAvgPool()), jnp.ones((6, 6, 2)))
    with pytest.raises(ValueError, match=r"got a \(\); give"):
        run(Concat(a=Function(jnp.sum)), VECTOR)


def test_an_error_in_a_branch_says_in_which_branch():
    with pytest.raises(ValueError, match="conv expects an image of 5 channels") as caught:
        run(Sequential(join=Concat(skip=identity, b=Sequential(conv=Conv(5, 4)))), jnp.ones((6, 6, 2)))
    assert places(caught) == ["in layer 'join/b/conv'"]


def test_no_branches_are_refused():
    with pytest.raises(ValueError, match="Concat expects at least one branch, got none"):
        Concat()


def test_branches_that_are_no_layers_are_refused():
    with pytest.raises(TypeError, match="expected 'a' to be a layer"):
        Concat(a=jax.nn.relu)
    with pytest.raises(ValueError, match=r"expected a layer name without '/' .* got 'a/b'"):
        Concat(**{"a/b": RELU})


@pytest.mark.parametrize("tree", [{}, {"a": {}, "c": {}}, None])
def test_parameters_and_state_of_other_branches_are_refused(tree):
    model, own = Concat(a=DOUBLE, b=RELU), {"a": {}, "b": {}}
    with pytest.raises(ValueError, match=r"Concat parameters: expected a dict of the names \('a', 'b'\), got"):
        model.apply(tree, own, VECTOR, train=False)
    with pytest.raises(ValueError, match=r"Concat state: expected .* was it made by this layer's init\?"):
        model.apply(own, tree, VECTOR, train=False)


def test_branches_of_a_body_that_take_the_name_of_the_shortcut_are_refused():
    with pytest.raises(ValueError, match="children of different names, got 'shortcut' twice"):
        Residual(Concat(shortcut=RELU))


# AuxiliaryHeads


def with_heads(**layers):
    """Doubles, then negates; on the way one head adds 1 to what comes in, and one adds 10 to what is doubled."""
    named = {"one": Function(add, amount=1), "double": DOUBLE, "ten": Function(add, amount=10), "negate": NEGATE}
    return AuxiliaryHeads("one", "ten", **{**named, **layers})


def test_heads_stand_beside_the_main_result_in_training():
    y, _ = run(with_heads(), VECTOR, train=True)
    jax.tree.map(np.testing.assert_array_equal, y, {"main": [2, 0, -6], "one": [0, 1, 4], "ten": [8, 10, 16]})


def test_heads_are_in_the_order_of_the_layers():
    layers = dict(with_heads().layers)
    assert AuxiliaryHeads("ten", "one", **layers) == with_heads()
    assert AuxiliaryHeads("ten", "one", **layers).heads == ("one", "ten")


class Forbidden:
    """A layer with state that must not be applied."""

    def init(self, key):
        return {}, {"count": jnp.zeros(())}

    def apply(self, params, state, x, *, train, key=None):
        raise AssertionError("applied in evaluation")


def test_heads_are_not_computed_in_evaluation():
    layer = with_heads(ten=Forbidden())
    y, state = run(layer, VECTOR)
    np.testing.assert_array_equal(y, [2, 0, -6])
    assert jax.tree.structure(state) == jax.tree.structure(layer.init(jax.random.key(0))[1])
    with pytest.raises(AssertionError, match="applied in evaluation"):
        run(layer, VECTOR, train=True)


def test_heads_have_parameters_and_state_of_their_own(key):
    layer = AuxiliaryHeads("aux", conv=Conv(3, 4), aux=block(4, 4), tail=block(4, 4))
    params, state = layer.init(key)
    assert not np.allclose(params["aux"]["conv1"]["kernel"], params["tail"]["conv1"]["kernel"])
    images = jax.random.normal(key, (5, 6, 6, 3))
    y, new_state = batched(layer)(params, state, images, train=True)
    assert set(y) == {"main", "aux"}
    inside, _ = batched(layer["conv"])(params["conv"], {}, images, train=True)
    for result, name in (("main", "tail"), ("aux", "aux")):
        outputs, own = batched(layer[name])(params[name], state[name], inside, train=True)
        np.testing.assert_allclose(y[result], outputs, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new_state[name], own)


def test_heads_drop_with_keys_of_their_own(key):
    layer = AuxiliaryHeads("aux", aux=Dropout(0.5), drop=Dropout(0.5))
    main, aux = run(layer, jnp.ones(100), train=True, key=key)[0].values()
    assert set(np.unique(main)) == set(np.unique(aux)) == {0, 2}
    assert not np.array_equal(main, aux)


def test_replacing_a_layer_keeps_the_heads():
    layer = with_heads().replace(negate=identity)
    assert layer.heads == ("one", "ten")
    np.testing.assert_array_equal(run(layer, VECTOR)[0], [-2, 0, 6])


def test_a_model_with_heads_prints_as_its_constructor():
    layer = AuxiliaryHeads("aux", aux=Dense(3, 2), head=Dense(3, 2))
    assert repr(layer) == "AuxiliaryHeads('aux', aux=Dense(3, 2), head=Dense(3, 2))"
    assert eval(repr(layer), {"AuxiliaryHeads": AuxiliaryHeads, "Dense": Dense}) == layer


def test_other_heads_make_another_layer():
    layers = dict(with_heads().layers)
    assert AuxiliaryHeads("one", **layers) != with_heads()
    assert with_heads() != Sequential(**layers)


@pytest.mark.parametrize("heads", [(), ("c",), ("negate",), ("one", "c"), ("main",)])
def test_names_of_heads_that_are_none_are_refused(heads):
    message = r"heads among \('one', 'double', 'ten'\), the layers before the last, and none called 'main', got \("
    with pytest.raises(ValueError, match=message):
        AuxiliaryHeads(*heads, **dict(with_heads().layers))


def test_an_error_in_a_head_says_in_which_head():
    layer = AuxiliaryHeads("aux", aux=Sequential(dense=Dense(4, 2)), head=Dense(3, 2))
    with pytest.raises(ValueError, match="expects") as caught:
        run(layer, VECTOR, train=True)
    assert places(caught) == ["in layer 'aux/dense'"]


# Gate


def test_a_gate_weighs_every_channel_by_what_all_pixels_say():
    x = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    y, state = run(Gate(Sequential(pool=GlobalAvgPool(), double=DOUBLE)), jnp.asarray(x))
    expected = np.empty_like(x)
    for channel in range(4):
        expected[..., channel] = x[..., channel] * 2 * x[..., channel].mean()
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert state == {"pool": {}, "double": {}}


def test_a_gate_may_weigh_pixels_or_single_values():
    x = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    y, _ = run(Gate(Function(jnp.max, axis=2, keepdims=True)), jnp.asarray(x))
    np.testing.assert_allclose(y, x * x.max(2)[:, :, None])
    np.testing.assert_allclose(run(Gate(NEGATE), jnp.asarray(x))[0], -x * x)
    np.testing.assert_array_equal(run(Gate(DOUBLE), VECTOR)[0], [2, 0, 18])


def test_a_gate_has_the_parameters_and_the_state_of_its_body(key):
    body = Sequential(dense=Dense(1, 1), norm=BatchNorm(1, decay=0.0))
    layer = Gate(body)
    params, state = layer.init(key)
    for mine, its in zip(jax.tree.leaves((params, state)), jax.tree.leaves(body.init(key)), strict=True):
        np.testing.assert_array_equal(mine, its)
    params["dense"] = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.ones(1)}
    _, new_state = batched(layer)(params, state, jnp.array([[1.0], [5.0]]), train=True)
    np.testing.assert_allclose(new_state["norm"]["mean"], [7])


def test_the_body_of_a_gate_draws_from_the_key(key):
    y, _ = Gate(Dropout(0.5)).apply({}, {}, jnp.ones(100), train=True, key=key)
    assert set(np.unique(y)) == {0, 2}


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        (Sequential(pool=GlobalAvgPool(), dense=Dense(4, 3)), r"\(3,\)"),
        (Conv(4, 4, strides=2), r"\(2, 3, 4\)"),
        (Function(jnp.expand_dims, axis=0), r"\(1, 4, 6, 4\)"),
    ],
)
def test_weights_that_do_not_spread_are_refused(body, weights):
    with pytest.raises(ValueError, match=rf"broadcasts to the input shape \(4, 6, 4\), got {weights}") as caught:
        run(Sequential(a=Gate(body)), jnp.ones((4, 6, 4)))
    assert places(caught) == ["in layer 'a'"]


def test_layers_of_a_gate_are_found_and_printed():
    layer = Gate(Sequential(pool=GlobalAvgPool(), dense=Dense(4, 4)))
    assert Sequential(a=layer)["a/dense"] == Dense(4, 4)
    assert repr(layer) == "Gate(Sequential(pool=GlobalAvgPool(), dense=Dense(4, 4)))"
    with pytest.raises(TypeError, match="expected 'body' to be a layer"):
        Gate(jax.nn.relu)


# Notes on errors, names for profilers


def broken_at(path):
    """Returns the nested model with a layer for other channels at a path."""
    wrong = Conv(5, 4)
    return {
        "stem": nested().replace(stem=wrong),
        "stage1/block0/conv1": nested().replace(
            stage1=nested()["stage1"].replace(block0=Residual(block(4, 4).replace(conv1=wrong)))
        ),
        "stage1/block0/shortcut/conv": nested().replace(
            stage1=nested()["stage1"].replace(block0=Residual(block(4, 4), Sequential(conv=wrong)))
        ),
    }[path]


@pytest.mark.parametrize("path", ["stem", "stage1/block0/conv1", "stage1/block0/shortcut/conv"])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_error_says_in_which_layer(key, path, compiled):
    model = broken_at(path)
    params, state = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(model.init, key))
    call = jax.jit(batched(model), static_argnames="train") if compiled else batched(model)
    with pytest.raises(ValueError, match="conv expects an image of 5 channels") as caught:
        call(params, state, jnp.ones((2, 5, 5, 3)), train=False)
    assert places(caught) == [f"in layer '{path}'"]


def test_an_error_in_init_says_in_which_layer(key):
    # zeros draws an array itself, where Initializer expects a function that makes an initializer.
    broken = Dense(3, 3, kernel_init=Initializer(jax.nn.initializers.zeros))
    with pytest.raises(TypeError) as caught:
        Sequential(a=Residual(RELU, Sequential(b=broken))).init(key)
    assert places(caught) == ["in layer 'a/shortcut/b'"]


def test_an_error_of_a_random_layer_without_a_key_says_in_which_layer():
    with pytest.raises(ValueError, match=r"Dropout draws random numbers in training .* pass key=") as caught:
        run(Sequential(a=Sequential(drop=Dropout(0.5))), VECTOR, train=True)
    assert places(caught) == ["in layer 'a/drop'"]


def test_other_notes_on_an_error_stay():
    def fail(x):
        error = RuntimeError("no")
        error.add_note("because")
        raise error

    with pytest.raises(RuntimeError, match="no") as caught:
        run(Sequential(a=Sequential(b=Function(fail))), VECTOR)
    assert caught.value.__notes__ == ["because", "in layer 'a/b'"]


def test_profilers_see_the_names_of_the_layers(key):
    model = nested()
    params, state = jax.eval_shape(model.init, key)
    program = jax.jit(model.apply, static_argnames="train").lower(params, state, jnp.ones((5, 5, 3)), train=False)
    text = program.as_text(debug_info=True)
    for path in ("stem", "stage1/block0/conv1", "stage1/block1/shortcut/conv", "head"):
        assert f"/{path}/" in text
