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
    trainable,
    unfreeze,
)


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
def test_what_is_frozen_keeps_its_trees_and_is_not_trained(pattern, trained):
    model = freeze(MODEL, pattern)
    assert jax.tree.structure(model.init(jax.random.key(0))) == jax.tree.structure((PARAMS, STATE))
    assert [name for name, learns in trees.named_leaves(trainable(model, PARAMS)).items() if learns] == trained
    assert unfreeze(model) == MODEL
    gradients = jax.grad(lambda params: jnp.sum(batched(model)(params, STATE, IMAGES, train=True, key=KEY)[0] ** 2))
    nonzero = [name for name, leaf in trees.named_leaves(gradients(PARAMS)).items() if np.any(leaf)]
    assert set(nonzero) <= set(trained)
    assert [name for name in trained if name.startswith("head")] == [n for n in nonzero if n.startswith("head")]


def test_a_frozen_part_computes_in_training_what_it_does_in_evaluation():
    frozen, frozen_state = batched(freeze(MODEL, "(?!head).*"))(PARAMS, STATE, IMAGES, train=True, key=KEY)
    expected, _ = batched(MODEL)(PARAMS, STATE, IMAGES, train=False)
    np.testing.assert_array_equal(frozen, expected)
    assert_same(frozen_state, STATE)
    trained, _ = batched(MODEL)(PARAMS, STATE, IMAGES, train=True, key=KEY)
    assert not np.allclose(frozen, trained, atol=1e-3)


def test_only_the_statistics_of_the_frozen_part_stay():
    _, new_state = batched(freeze(MODEL, "stem"))(PARAMS, STATE, IMAGES, train=True, key=KEY)
    assert_same(new_state["stem"], STATE["stem"])
    assert not np.array_equal(new_state["mixed"]["b"]["norm"]["mean"], STATE["mixed"]["b"]["norm"]["mean"])


def test_a_frozen_layer_after_one_that_learns_passes_the_gradient_on():
    row = Sequential(a=Dense(3, 3), tanh=Function(jnp.tanh), b=Dense(3, 2))
    params, state = row.init(KEY)
    x = jnp.array([1.0, -2.0, 0.5])

    def loss(params, state, model):
        return jnp.sum(model.apply(params, state, x, train=True)[0] ** 2)

    gradients = jax.grad(loss)(params, state, freeze(row, "b"))
    assert_same(gradients["a"], jax.grad(loss)(params, state, row)["a"])
    assert_same(gradients["b"], jax.tree.map(jnp.zeros_like, params["b"]))


def test_a_training_step_has_no_backward_pass_through_the_frozen_layers_before_all_others():
    def work(model):
        def loss(params):
            return jnp.sum(batched(model)(params, STATE, IMAGES, train=True, key=KEY)[0] ** 2)

        return jax.jit(jax.grad(loss)).lower(PARAMS).compile().cost_analysis()["flops"]

    forward = jax.jit(lambda params: batched(MODEL)(params, STATE, IMAGES, train=False)[0])
    assert work(freeze(MODEL, "(?!head).*")) < 1.5 * forward.lower(PARAMS).compile().cost_analysis()["flops"]
    assert work(MODEL) > 2 * forward.lower(PARAMS).compile().cost_analysis()["flops"]


def test_freezing_what_is_frozen_in_part_freezes_it_once():
    assert freeze(freeze(MODEL, "mixed/b|mixed/a"), "mixed") == freeze(MODEL, "mixed")
    assert freeze(freeze(MODEL, "mixed"), "mixed/a") == freeze(MODEL, "mixed")


def test_the_arithmetic_of_a_frozen_model_is_that_of_the_model():
    model = freeze(MODEL, "(?!head).*")
    assert output_shape(model, (6, 5, 3)) == (2,)
    assert multiply_adds(model, (6, 5, 3)) == multiply_adds(MODEL, (6, 5, 3)) > 0
    assert count_parameters(model) == count_parameters(MODEL) == trees.count(PARAMS)
    table, whole = summary(model, (6, 5, 3)), summary(MODEL, (6, 5, 3))
    assert table.parameters == whole.parameters
    assert [row.path for row in table.rows] == [row.path for row in whole.rows]
    assert [row.receptive_field for row in table.rows] == [row.receptive_field for row in whole.rows]


def test_what_is_no_regular_expression_is_refused():
    with pytest.raises(ValueError, match=r"freeze expects a regular expression, got '\(': missing \)"):
        freeze(Sequential(conv=Conv(3, 4)), "(")
    with pytest.raises(TypeError, match=r"freeze expects a regular expression as a string, got \['conv'\]"):
        freeze(Sequential(conv=Conv(3, 4)), ["conv"])


def test_a_pattern_that_matches_no_layer_is_refused_with_the_paths():
    with pytest.raises(ValueError, match=r"path of a layer, got 'stage1'; paths: stem, stem/conv, stem/norm, mixed"):
        freeze(MODEL, "stage1")
    many = Sequential(**{f"layer{i}": Function(jax.nn.relu) for i in range(30)})
    with pytest.raises(ValueError, match=r"layer19, \.\.\.$"):
        freeze(many, "head")


def test_layers_beside_an_auxiliary_head_freeze_and_the_head_stays_one():
    head = Sequential(pool=GlobalAvgPool(), dense=Dense(4, 2))
    model = AuxiliaryHeads("aux", stem=block(3, 4), aux=head, end=head)
    params, state = model.init(jax.random.key(0))
    frozen = freeze(model, "stem")
    assert frozen == AuxiliaryHeads("aux", stem=Frozen(model["stem"]), aux=head, end=head)
    images = jax.random.normal(jax.random.key(1), (3, 5, 4, 3))
    y, _ = batched(frozen)(params, state, images, train=True)
    seen, _ = batched(model["stem"])(params["stem"], state["stem"], images, train=False)
    for name, place in (("main", "end"), ("aux", "aux")):
        expected, _ = batched(head)(params[place], state[place], seen, train=True)
        np.testing.assert_allclose(y[name], expected, rtol=1e-5, atol=1e-6)
    assert unfreeze(frozen) == model
