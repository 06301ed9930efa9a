"""Layers made of layers, written as a user would: what a forward may do, and what sees inside it."""

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass, replace
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from user_blocks import inverted_residual, pyramid, shared_head, squeeze_excite_block, two_inputs

from jaxcnn import Layer, batched
from jaxcnn.layers import (
    BatchNorm,
    Composite,
    Conv,
    Dense,
    Dropout,
    Frozen,
    Gate,
    GlobalAvgPool,
    LayerNorm,
    LayerScale,
    Residual,
    Sequential,
    apply_with_hook,
    features,
    freeze,
    identity,
    trainable,
    unfreeze,
)
from jaxcnn.layers.flow import called_path, dataflow
from jaxcnn.trees import named_leaves

IMAGE = jax.random.normal(jax.random.key(1), (8, 6, 4))
KEY = jax.random.key(2)


@dataclass(frozen=True, repr=False)
class Twice(Composite):
    """Applies one layer two times, then another."""

    inner: Layer
    last: Layer = identity

    def forward(self, run, x):
        return run.last(run["inner"](run.inner(x)))


@dataclass(frozen=True, repr=False)
class Noisy(Composite):
    drop: Layer = identity

    def forward(self, run, x):
        noise = [jax.random.normal(run.key(), x.shape) for _ in range(2)] if run.train else [0.0, 0.0]
        return {"drop": run.drop(x), "again": run.drop(x), "noise": noise}


def drawn(layer):
    return layer.init(jax.random.key(0))


def test_parameters_are_named_by_the_fields():
    params, state = drawn(squeeze_excite_block(4, 6))
    assert set(params) == {"conv1", "norm1", "conv2", "norm2", "excite", "shortcut"}
    assert set(params["excite"]) == {"pool", "reduce", "expand"}
    assert set(named_leaves(state)) == {
        f"{path}/{leaf}" for path in ("norm1", "norm2", "shortcut/norm") for leaf in ("mean", "var")
    }


def test_children_are_drawn_as_those_of_a_sequential():
    block = inverted_residual(4)
    params, _ = drawn(block)
    row, _ = drawn(Sequential(**block.children()))
    jax.tree.map(np.testing.assert_array_equal, params, row)


def test_a_forward_computes_what_it_says():
    block = squeeze_excite_block(4, 6)
    params, state = drawn(block)

    def call(name, x, layer=block, params=params, state=state):
        return layer[name].apply(params[name], state[name], x, train=False)[0]

    y = call("norm2", call("conv2", jax.nn.relu(call("norm1", call("conv1", IMAGE)))))
    excite = {"layer": block.excite, "params": params["excite"], "state": state["excite"]}
    weights = jax.nn.sigmoid(call("expand", jax.nn.relu(call("reduce", jnp.mean(y, (0, 1)), **excite)), **excite))
    expected = jax.nn.relu(y * weights + call("shortcut", IMAGE))
    np.testing.assert_allclose(block.apply(params, state, IMAGE, train=False)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_child_called_twice_shares_its_parameters_and_threads_its_state():
    layer = Twice(Sequential(norm=BatchNorm(1, decay=0.5), after=identity))
    params, state = drawn(layer)
    images = jnp.array([[[[1.0]]], [[[5.0]]]])
    _, new_state = batched(layer)(params, state, images, train=True)
    # The second call sees the normalised batch, with mean 0, and a running mean that the first has moved to 1.5.
    np.testing.assert_allclose(new_state["inner"]["norm"]["mean"], [0.5 * 1.5], atol=1e-6)
    dense = Twice(Dense(3, 3))
    params, state = drawn(dense)
    y, _ = dense.apply(params, state, jnp.ones(3), train=False)
    kernel, bias = params["inner"]["kernel"], params["inner"]["bias"]
    np.testing.assert_allclose(y, (jnp.ones(3) @ kernel + bias) @ kernel + bias, rtol=1e-5)


def test_every_call_draws_from_a_key_of_its_own():
    layer = Noisy(Dropout(0.5))
    y, _ = layer.apply(*drawn(layer), jnp.ones(64), train=True, key=KEY)
    assert not np.array_equal(y["drop"], y["again"])
    assert not np.array_equal(*y["noise"])
    again, _ = layer.apply(*drawn(layer), jnp.ones(64), train=True, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, y, again)
    # A forward's own keys are none of those that its children split theirs into.
    first_of_child = jax.random.split(jax.random.split(KEY, 1)[0], 2)
    assert not any(
        np.array_equal(jax.random.normal(key, (64,)), noise) for key in first_of_child for noise in y["noise"]
    )


def test_a_forward_that_draws_needs_a_key():
    layer = Noisy()
    with pytest.raises(
        ValueError, match="Noisy draws random numbers and expects a key in training, got none; pass key="
    ):
        layer.apply(*drawn(layer), jnp.ones(3), train=True)


@dataclass(frozen=True, repr=False)
class Within(Composite):
    """Applies a layer within a function that JAX transforms."""

    inner: Layer
    apply_within: Callable

    def forward(self, run, x):
        return self.apply_within(run, x)


def in_scan(run, x):
    return jax.lax.scan(lambda x, _: (run.inner(x), None), x, length=3)[0]


TRANSFORMS = {
    "scan": in_scan,
    "while_loop": lambda run, x: jax.lax.fori_loop(0, jnp.int32(3), lambda _, x: run.inner(x), x),
    "cond": lambda run, x: jax.lax.cond(jnp.sum(x) > 0, run.inner, lambda x: x, x),
    "vmap": lambda run, x: jax.vmap(run.inner)(jnp.stack([x, x]))[0],
    "jit": lambda run, x: jax.jit(run.inner)(x),
    "checkpoint": lambda run, x: jax.checkpoint(run.inner)(x),
}


@pytest.mark.parametrize(
    ("inner", "transform"),
    [*((BatchNorm(4), transform) for transform in TRANSFORMS.values()), (Sequential(norm=BatchNorm(4)), in_scan)],
    ids=[*TRANSFORMS, "composite"],
)
def test_a_state_cannot_change_within_a_transformed_function(inner, transform):
    layer = Within(inner, transform)
    with pytest.raises(
        ValueError,
        match=r"Within expects 'inner', whose state changes in training, to be called outside of functions that JAX "
        r"transforms, got a call within one, such as .*; call it in a Python loop, or use a layer without state",
    ):
        batched(layer)(*drawn(layer), IMAGE[None], train=True)


def test_a_state_is_used_within_a_loop_in_evaluation():
    layer = Within(BatchNorm(4, epsilon=0.0), in_scan)
    params, state = {"inner": {"scale": 2 * jnp.ones(4), "bias": jnp.ones(4)}}, drawn(layer)[1]
    y, new_state = layer.apply(params, state, jnp.ones((1, 1, 4)), train=False)
    np.testing.assert_allclose(y, np.full((1, 1, 4), 2 * (2 * (2 + 1) + 1) + 1), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new_state, state)


@pytest.mark.parametrize(
    ("inner", "transform"),
    [
        *((Dropout(0.5), transform) for transform in TRANSFORMS.values()),
        (Sequential(dense=Dense(4, 4), drop=Dropout(0.5)), in_scan),
    ],
    ids=[*TRANSFORMS, "composite"],
)
def test_draws_within_a_transformed_function_need_a_key_of_their_own(inner, transform):
    layer = Within(inner, transform)
    with pytest.raises(
        ValueError,
        match=r"Within expects 'inner', which draws random numbers, to be given a key in functions that JAX "
        r"transforms, got a call within one, .*; split run.key\(\) outside, and call run.inner\(x, key=key\)",
    ):
        layer.apply(*drawn(layer), jnp.ones(4), train=True, key=KEY)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_other_layers_work_within_a_transformed_function(transform):
    layer = Within(Sequential(norm=LayerNorm(4), drop=Dropout(0.0)), transform)
    y, _ = layer.apply(*drawn(layer), jnp.arange(4.0), train=True, key=KEY)
    np.testing.assert_allclose(y, jax.nn.standardize(jnp.arange(4.0), epsilon=1e-6), atol=1e-5)


def test_a_loop_may_hand_keys_to_a_layer():
    def forward(run, x):
        keys = jax.random.split(run.key(), 3) if run.train else None
        return jax.lax.scan(lambda x, key: (x, run.inner(x, key=key)), x, keys, length=3)[1]

    layer = Within(Dropout(0.5), forward)
    y, _ = layer.apply(*drawn(layer), jnp.ones(64), train=True, key=KEY)
    assert not np.array_equal(y[0], y[1])
    assert not np.array_equal(y[1], y[2])
    np.testing.assert_array_equal(layer.apply(*drawn(layer), jnp.ones(64), train=False)[0], jnp.ones((3, 64)))


def test_a_key_that_is_given_is_used_instead_of_that_of_the_layer():
    layer = Within(Dropout(0.5), lambda run, x: run.inner(x, key=jax.random.key(7)))
    y, _ = layer.apply(*drawn(layer), jnp.ones(64), train=True, key=KEY)
    np.testing.assert_array_equal(y, Dropout(0.5).apply({}, {}, jnp.ones(64), train=True, key=jax.random.key(7))[0])


def test_a_forward_draws_its_keys_outside_of_loops():
    layer = Within(
        identity, lambda run, x: jax.lax.map(lambda x: run.inner(x) + jax.random.normal(run.key(), x.shape), x)
    )
    with pytest.raises(
        ValueError,
        match=r"Within expects run.key\(\) to be called outside of functions that JAX transforms, got a call within "
        r"one, .*; call it before, and hand the keys in",
    ):
        layer.apply(*drawn(layer), jnp.ones(4), train=True, key=KEY)


@dataclass(frozen=True, repr=False)
class Faulty(Composite):
    conv: Conv
    unused: Layer = identity
    name: str = "cnv"

    def forward(self, run, x):
        return run[self.name](x)


def test_an_unknown_child_is_refused_with_the_names():
    layer = Sequential(block=Faulty(Conv(4, 4)))
    with pytest.raises(
        AttributeError, match=r"Faulty expects one of its layers \('conv', 'unused'\), got 'cnv'"
    ) as caught:
        layer.apply(*drawn(layer), IMAGE, train=False)
    assert "in layer 'block'" in caught.value.__notes__


def test_a_child_that_is_never_called_is_refused_in_training():
    layer = Faulty(Conv(4, 4), name="conv")
    assert layer.apply(*drawn(layer), IMAGE, train=False)[0].shape == IMAGE.shape
    message = "Faulty expects forward to apply every layer in training, got no call of 'unused'; .* or remove the field"
    with pytest.raises(ValueError, match=message):
        layer.apply(*drawn(layer), IMAGE, train=True)


@pytest.mark.parametrize("value", [(Conv(3, 4), Conv(4, 4)), [Conv(3, 4)], {"a": Conv(3, 4)}])
def test_layers_in_a_tuple_are_refused_with_what_to_write(value):
    with pytest.raises(TypeError, match=r"fields that are layers or hashable options, got inner=.* into a Sequential"):
        Twice(value)


def test_parameters_with_other_names_are_refused():
    params, state = drawn(Twice(Conv(4, 4)))
    with pytest.raises(ValueError, match=r"Twice parameters: expected a dict of the names \('inner', 'last'\), got"):
        Twice(Conv(4, 4)).apply({"inner": params["inner"]}, state, IMAGE, train=False)


def test_a_class_without_a_forward_says_so():
    @dataclass(frozen=True, repr=False)
    class Empty(Composite):
        conv: Conv

    with pytest.raises(NotImplementedError, match="Empty expects a method forward"):
        Empty(Conv(4, 4)).apply(*drawn(Empty(Conv(4, 4))), IMAGE, train=False)


def test_it_prints_as_its_constructor_on_several_lines():
    layer = Twice(Sequential(conv=Conv(4, 4), norm=BatchNorm(4)), last=Conv(4, 4))
    names = {"Twice": Twice, "Sequential": Sequential, "Conv": Conv, "BatchNorm": BatchNorm}
    assert eval(repr(layer), names) == layer
    assert repr(layer) == "Twice(Sequential(conv=Conv(4, 4), norm=BatchNorm(4)), last=Conv(4, 4))"
    assert "\n" in repr(squeeze_excite_block(4, 6))


def test_layers_are_replaced_by_path_at_any_depth():
    model = Sequential(stem=Conv(3, 4), stage=Residual(Sequential(block=squeeze_excite_block(4, 4)), Conv(4, 4, 1)))
    other = model.replace({"stage/block/excite/reduce": Dense(4, 9), "stage/shortcut": identity}, stem=Conv(1, 4))
    assert other["stage/block/excite/reduce"] == Dense(4, 9)
    assert other["stage/shortcut"] == identity
    assert other["stem"] == Conv(1, 4)
    assert other["stage/block"] == replace(model["stage/block"], excite=other["stage/block/excite"])
    for path in ("stage/block/excite/redus", "stag", "stem/kernel"):
        with pytest.raises(ValueError, match="replace expects"):
            model.replace({path: identity})
    with pytest.raises(ValueError, match="paths apart from each other, got 'stage/block'"):
        model.replace({"stage": identity, "stage/block": identity})
    with pytest.raises(TypeError, match="expected 'conv1' to be a layer"):
        model.replace({"stage/block/conv1": jax.nn.relu})


def test_a_layer_within_an_inlined_one_may_have_its_name():
    model = Residual(Sequential(body=Conv(4, 4), last=Conv(4, 4)))
    params, state = drawn(model)
    assert set(params) == {"body", "last", "shortcut"}
    assert model["body"] == Conv(4, 4)
    assert model.replace(body=Conv(4, 4, 1)).body == Sequential(body=Conv(4, 4, 1), last=Conv(4, 4))
    assert freeze(model, "body").body == Sequential(body=Frozen(Conv(4, 4)), last=Conv(4, 4))
    assert list(features(model, params, state, IMAGE, at=["body"])) == ["body"]


# What sees inside


def test_features_of_ones_own_blocks():
    model = shared_head()
    params, state = drawn(model)
    y, _ = model.apply(params, state, IMAGE, train=False)
    found = features(model, params, state, IMAGE, at=["pyramid", "pyramid/stage2/conv", "head", "head#2", "conv#2"])
    maps, _ = model.pyramid.apply(params["pyramid"], state["pyramid"], IMAGE, train=False)
    jax.tree.map(np.testing.assert_array_equal, found["pyramid"], maps)
    np.testing.assert_array_equal(found["head"], y["fine"])
    np.testing.assert_array_equal(found["head#2"], y["coarse"])
    assert found["conv#2"].shape == (4, 3, 5)
    with pytest.raises(ValueError, match="paths of layers that the model applies in evaluation, got 'head#3'"):
        features(model, params, state, IMAGE, at=["head#3"])


def test_a_hook_changes_results_on_their_way():
    model = pyramid()
    params, state = drawn(model)
    seen = []

    def hook(path, layer, y):
        seen.append((path, type(layer)))
        return jnp.zeros_like(y) if path == "lateral2" else y

    changed, new_state = apply_with_hook(model, params, state, IMAGE, hook)
    assert [path for path, _ in seen] == ["stage1", "stage2/conv", "stage2/norm", "stage2", "lateral2", "lateral1"]
    assert seen[3] == ("stage2", Sequential)
    assert new_state == state
    np.testing.assert_array_equal(changed["coarse"], 0)
    fine, _ = model.lateral1.apply(
        params["lateral1"],
        {},
        jax.nn.relu(model.stage1.apply(params["stage1"], {}, IMAGE, train=False)[0]),
        train=False,
    )
    np.testing.assert_allclose(changed["fine"], fine, rtol=1e-6)


def test_hooks_work_in_training_and_in_a_compiled_batch():
    model = squeeze_excite_block(4, 6)
    params, state = drawn(model)
    images = jax.random.normal(KEY, (3, 8, 6, 4))

    def statistics(image):
        found = {}
        y, new_state = apply_with_hook(
            model, params, state, image, lambda path, layer, y: found.setdefault(path, y), train=True
        )
        return found["norm1"], y, new_state

    norm1, y, new_state = jax.jit(jax.vmap(statistics, axis_name="batch", out_axes=(0, 0, None)))(images)
    np.testing.assert_allclose(jnp.mean(norm1, (0, 1, 2)), 0, atol=1e-5)
    expected, expected_state = batched(model)(params, state, images, train=True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new_state, expected_state)


def test_ones_own_blocks_freeze():
    model = Sequential(block=squeeze_excite_block(4, 6), join=shared_head().replace(pyramid=pyramid(6)))
    params, state = drawn(model)
    frozen = freeze(model, "block/excite|join/pyramid")
    assert isinstance(frozen["block/excite"], Frozen)
    learns = named_leaves(trainable(frozen, params))
    assert {name for name, learns in learns.items() if not learns} == {
        name for name in learns if name.startswith(("block/excite", "join/pyramid"))
    }
    images = jax.random.normal(KEY, (3, 8, 6, 4))
    _, new_state = batched(frozen)(params, state, images, train=True)
    for name, leaf in named_leaves(new_state).items():
        assert np.array_equal(leaf, named_leaves(state)[name]) == name.startswith("join/pyramid"), name
    assert unfreeze(frozen) == model


def test_the_dataflow_has_one_equation_for_each_call():
    flow = dataflow(two_inputs(), (IMAGE[..., :3], IMAGE[:3, :2]))
    assert list(flow.layers) == ["left", "right/conv", "right/norm", "join/conv", "join/norm", "join/shortcut"]
    assert list(flow.calls()) == list(flow.layers)
    between = [equation.primitive.name for equation in flow.jaxpr.jaxpr.eqns if called_path(equation) is None]
    assert {"concatenate", "tanh", "add"} <= set(between)
    assert flow.output.shape == (8, 6, 5)
    flow = dataflow(shared_head(), IMAGE)
    assert [path for path in flow.layers if "#" in path] == ["conv#2", "norm#2", "head#2"]
    assert flow.output["coarse"].shape == (4, 3, 2)
    alone = dataflow(Conv(4, 5), IMAGE)
    assert list(alone.calls()) == [""]


def test_a_layer_that_is_inlined_is_seen_by_the_path_of_its_composite():
    model = Sequential(gate=Gate(Conv(4, 4)))
    params, state = drawn(model)
    assert set(params["gate"]) == {"kernel", "bias"}
    assert list(dataflow(model, IMAGE).layers) == ["gate"]
    y, _ = model.apply(params, state, IMAGE, train=False)
    np.testing.assert_array_equal(features(model, params, state, IMAGE, at=["gate"])["gate"], y)


@pytest.mark.parametrize("value", [((Conv(3, 4),), 2), frozenset({Conv(3, 4)}), MappingProxyType({"a": Conv(3, 4)})])
def test_layers_deep_in_a_container_are_refused_too(value):
    with pytest.raises(TypeError, match=r"fields that are layers or hashable options, got inner=.* into a Sequential"):
        Twice(value)


def test_layers_in_a_tuple_are_children_of_a_class_that_says_so():
    @dataclass(frozen=True, repr=False)
    class Row(Composite):
        layers: tuple

        def children(self):
            return {f"layer{i}": layer for i, layer in enumerate(self.layers)}

        def forward(self, run, x):
            for name in self.children():
                x = run[name](x)
            return x

    row = Row((Conv(4, 2), Conv(2, 3)))
    assert row.apply(*drawn(row), IMAGE, train=True)[0].shape == (8, 6, 3)


def test_a_class_that_is_no_frozen_dataclass_is_refused():
    @dataclass
    class Mutable(Composite):
        conv: Conv

    class Plain(Composite):
        pass

    for kind in (Mutable, Plain):
        with pytest.raises(TypeError, match=rf"{kind.__name__} expects to be a frozen dataclass; write @data"):
            kind(Conv(4, 4))


@pytest.mark.parametrize("name", ["init", "apply", "children", "names", "parts", "replace"])
def test_a_field_with_the_name_of_a_method_is_refused(name):
    kind = make_dataclass("Clash", [(name, Layer)], bases=(Composite,), frozen=True)
    with pytest.raises(TypeError, match=f"Clash expects fields with other names than .* Composite, got '{name}'"):
        kind(Conv(4, 4))


def test_a_forward_without_a_return_is_refused():
    @dataclass(frozen=True, repr=False)
    class Forgets(Composite):
        conv: Conv

        def forward(self, run, x):
            run.conv(x)

    layer = Forgets(Conv(4, 4))
    with pytest.raises(TypeError, match="Forgets expects forward to return its result, got None"):
        layer.apply(*drawn(layer), IMAGE, train=False)


@pytest.mark.parametrize("last", [Conv(5, 2), Dense(5, 2), BatchNorm(5), LayerNorm(5), LayerScale(5), GlobalAvgPool()])
def test_a_layer_that_takes_an_array_refuses_a_dict_by_name(last):
    layer = Sequential(pyramid=pyramid(), last=last)
    with pytest.raises(TypeError, match=r"expects an array, got a dict of 'fine', 'coarse'; choose one") as caught:
        layer.apply(*drawn(layer), IMAGE, train=False)
    assert "in layer 'last'" in caught.value.__notes__
