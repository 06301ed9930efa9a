import dataclasses

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
    Frozen,
    Function,
    Gate,
    GlobalAvgPool,
    Residual,
    Sequential,
    count_parameters,
    freeze,
    multiply_adds,
    output_shape,
    summary,
    unfreeze,
)
from jaxcnn.layers.stateless import Stateless


def block(in_channels, out_channels):
    return Sequential(conv=Conv(in_channels, out_channels, use_bias=False), norm=BatchNorm(out_channels))


MODEL = Sequential(
    stem=block(3, 4),
    mixed=Concat(a=Conv(4, 2), b=Residual(block(4, 4), Sequential(conv=Conv(4, 4, 1)))),
    gate=Gate(Sequential(pool=GlobalAvgPool(), dense=Dense(6, 6))),
    pool=GlobalAvgPool(),
    drop=Dropout(0.5),
    head=Dense(6, 2),
)
IMAGES = jax.random.normal(jax.random.key(1), (4, 6, 5, 3))
KEY = jax.random.key(2)


def drawn():
    """Parameters, and moments that a step of training has moved."""
    params, state = MODEL.init(jax.random.key(0))
    _, state = batched(MODEL)(params, state, IMAGES, train=True, key=KEY)
    return params, state


PARAMS, STATE = drawn()


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def names(tree):
    return list(trees.named_leaves(tree))


@pytest.mark.parametrize(
    ("pattern", "trained"),
    [
        ("(?!head).*", ["head/bias", "head/kernel"]),
        ("stem|gate|head", [name for name in names(PARAMS) if name.startswith("mixed")]),
        (
            "mixed/b/conv|.*/norm|.*/dense",
            [n for n in names(PARAMS) if not any(w in n for w in ("b/conv", "norm", "dense"))],
        ),
        (".*", []),
    ],
)
def test_what_is_frozen_is_state_and_comes_back_as_it_was(pattern, trained):
    model, params, state = freeze(MODEL, PARAMS, STATE, pattern)
    assert names(params) == trained
    everything = trees.named_leaves(PARAMS) | trees.named_leaves(STATE)
    assert {**trees.named_leaves(params), **trees.named_leaves(state)}.keys() == everything.keys()
    for name, leaf in (trees.named_leaves(params) | trees.named_leaves(state)).items():
        assert leaf is everything[name], name
    assert jax.tree.structure((params, state)) == jax.tree.structure(model.init(jax.random.key(0)))
    back, back_params, back_state = unfreeze(model, params, state)
    assert back == MODEL
    assert_same((back_params, back_state), (PARAMS, STATE))


def test_a_frozen_part_computes_in_training_what_it_does_in_evaluation():
    model, params, state = freeze(MODEL, PARAMS, STATE, "(?!head).*")
    frozen, frozen_state = batched(model)(params, state, IMAGES, train=True, key=KEY)
    expected, _ = batched(MODEL)(PARAMS, STATE, IMAGES, train=False)
    np.testing.assert_array_equal(frozen, expected)
    assert_same(frozen_state, state)
    trained, _ = batched(MODEL)(PARAMS, STATE, IMAGES, train=True, key=KEY)
    assert not np.allclose(frozen, trained, atol=1e-3)


def test_only_the_statistics_of_the_frozen_part_stay():
    model, params, state = freeze(MODEL, PARAMS, STATE, "stem")
    _, new_state = batched(model)(params, state, IMAGES, train=True, key=KEY)
    assert_same(new_state["stem"], state["stem"])
    assert not np.array_equal(new_state["mixed"]["b"]["norm"]["mean"], state["mixed"]["b"]["norm"]["mean"])


def test_a_frozen_layer_after_a_trained_one_passes_the_gradient_on():
    row = Sequential(a=Dense(3, 3), tanh=Function(jnp.tanh), b=Dense(3, 2))
    params, state = row.init(KEY)
    x = jnp.array([1.0, -2.0, 0.5])

    def loss(params, state, model):
        return jnp.sum(model.apply(params, state, x, train=True)[0] ** 2)

    model, kept, frozen = freeze(row, params, state, "b")
    gradients = jax.grad(loss)(kept, frozen, model)
    assert names(gradients) == ["a/bias", "a/kernel"]
    assert_same(gradients["a"], jax.grad(loss)(params, state, row)["a"])


def test_freezing_what_is_frozen_in_part_freezes_it_once():
    once = freeze(MODEL, PARAMS, STATE, "mixed")
    twice = freeze(*freeze(MODEL, PARAMS, STATE, "mixed/b|mixed/a"), "mixed")
    assert twice[0] == once[0]
    assert_same(twice[1:], once[1:])


def test_the_arithmetic_of_a_frozen_model_is_that_of_the_model_with_fewer_parameters():
    model, params, _ = freeze(MODEL, PARAMS, STATE, "(?!head).*")
    assert output_shape(model, (6, 5, 3)) == (2,)
    assert multiply_adds(model, (6, 5, 3)) == multiply_adds(MODEL, (6, 5, 3)) > 0
    assert count_parameters(model) == trees.count(params) == 14
    table, whole = summary(model, (6, 5, 3)), summary(MODEL, (6, 5, 3))
    assert table.parameters == 14
    assert [row.path for row in table.rows] == [row.path for row in whole.rows]
    assert [row.receptive_field for row in table.rows] == [row.receptive_field for row in whole.rows]


def test_a_pattern_that_matches_no_layer_is_refused_with_the_paths():
    with pytest.raises(ValueError, match=r"path of a layer, got 'stage1'; paths: stem, stem/conv, stem/norm, mixed"):
        freeze(MODEL, PARAMS, STATE, "stage1")
    many = Sequential(**{f"layer{i}": Function(jax.nn.relu) for i in range(30)})
    with pytest.raises(ValueError, match=r"layer19, \.\.\.$"):
        freeze(many, *many.init(KEY), "head")


def test_parameters_and_state_of_another_layout_are_refused():
    model, params, state = freeze(MODEL, PARAMS, STATE, "(?!head).*")
    with pytest.raises(ValueError, match="expects no parameters, since its own are state, got 3 of them"):
        model.apply(PARAMS, state, IMAGES[0], train=False)
    with pytest.raises(ValueError, match=r"Frozen state: .* the names \('kernel',\), got \(\)") as caught:
        model.apply(params, STATE, IMAGES[0], train=False)
    assert "in layer 'stem'" in caught.value.__notes__


@dataclasses.dataclass(frozen=True)
class Clashing(Stateless):
    def init(self, key):
        return {"mean": jnp.zeros(1)}, {"mean": jnp.zeros(1)}

    def apply(self, params, state, x, *, train, key=None):
        return x, state


def test_a_layer_whose_leaves_have_one_name_cannot_be_frozen():
    with pytest.raises(ValueError, match="no leaf name in common, got 'mean' in both"):
        Frozen(Clashing()).init(KEY)


def test_layers_beside_an_auxiliary_head_freeze_and_the_head_stays_one():
    head = Sequential(pool=GlobalAvgPool(), dense=Dense(4, 2))
    model = AuxiliaryHeads("aux", stem=block(3, 4), aux=head, end=head)
    params, state = model.init(jax.random.key(0))
    frozen, frozen_params, frozen_state = freeze(model, params, state, "stem")
    assert frozen == AuxiliaryHeads("aux", stem=Frozen(model["stem"]), aux=head, end=head)
    assert set(trees.named_leaves(frozen_params)) == {
        f"{name}/dense/{leaf}" for name in ("aux", "end") for leaf in ("kernel", "bias")
    }
    images = jax.random.normal(jax.random.key(1), (3, 5, 4, 3))
    y, _ = batched(frozen)(frozen_params, frozen_state, images, train=True)
    seen, _ = batched(model["stem"])(params["stem"], state["stem"], images, train=False)
    expected = [batched(head)(params[name], state[name], seen, train=True)[0] for name in ("end", "aux")]
    np.testing.assert_allclose(y, np.stack(expected, 1), rtol=1e-5, atol=1e-6)
    again = unfreeze(frozen, frozen_params, frozen_state)
    assert again[0] == model
    assert jax.tree.structure(again[1:]) == jax.tree.structure((params, state))
