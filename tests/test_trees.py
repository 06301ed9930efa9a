import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import trees
from jaxcnn.layers import Conv, Dense, Function, Sequential

TREE = {
    "stage1": {"block0": {"conv1": {"kernel": 1, "bias": 2}, "relu": {}}},
    "head": {"kernel": 3, "bias": 4},
    "extra": (5, [6]),
}

LAYERS = Sequential(conv=Conv(1, 2, use_bias=False), relu=Function(jax.nn.relu), head=Dense(2, 3, use_bias=False))

NAMED = {
    "extra/0": 5,
    "extra/1/0": 6,
    "head/bias": 4,
    "head/kernel": 3,
    "stage1/block0/conv1/bias": 2,
    "stage1/block0/conv1/kernel": 1,
}


def test_leaves_are_named_by_their_paths():
    assert trees.named_leaves(TREE) == NAMED


def test_leaves_are_named_in_the_order_of_jax():
    assert list(trees.named_leaves(TREE).values()) == jax.tree.leaves(TREE)


@pytest.mark.parametrize(("tree", "expected"), [({}, {}), ({"a": {}}, {}), (7, {"": 7})])
def test_trees_without_names_have_none(tree, expected):
    assert trees.named_leaves(tree) == expected


PARAMS = {"stage1": {"conv1": {"kernel": 1, "bias": 2}, "relu": {}}, "head": {"kernel": 3}, "empty": {"block": {}}}
FLAT = {
    "stage1/conv1/kernel": 1,
    "stage1/conv1/bias": 2,
    "stage1/relu": {},
    "head/kernel": 3,
    "empty/block": {},
}


def test_a_flattened_tree_keeps_its_empty_dicts_and_its_order():
    assert list(trees.flatten(PARAMS).items()) == list(FLAT.items())


@pytest.mark.parametrize("tree", [PARAMS, {}, {"a": {}}, {"a": {"b": {"c": {}}}}, {"a": 1, "ab": {"c": 2}}])
def test_unflatten_is_the_way_back(tree):
    restored = trees.unflatten(trees.flatten(tree))
    assert restored == tree
    assert trees.flatten(restored) == trees.flatten(tree)


def test_parameters_of_a_model_come_back_from_a_file_that_holds_arrays_alone(key):
    params, _ = LAYERS.init(key)
    restored = trees.unflatten(trees.named_leaves(params), like=jax.eval_shape(LAYERS.init, key)[0])
    assert restored == params
    assert set(restored) == {"conv", "relu", "head"}
    assert trees.unflatten(trees.named_leaves(params)).keys() == {"conv", "head"}
    assert trees.unflatten(trees.flatten(params), like=params) == params


def test_trees_of_other_nodes_are_built_after_their_like():
    assert trees.unflatten(trees.named_leaves(TREE), like=TREE) == TREE


def test_the_tree_and_what_it_was_made_of_share_no_dict():
    empty = {}
    tree = trees.unflatten({"a": empty, "b": 1})
    tree["a"]["c"] = 2
    assert empty == {}


@pytest.mark.parametrize("key", ["a/b", "", 3, None])
def test_keys_that_make_no_path_are_refused(key):
    with pytest.raises(ValueError, match=f"flatten expects keys that are non-empty strings without '/', got {key!r}"):
        trees.flatten({"x": {key: 1}})


@pytest.mark.parametrize(
    ("flat", "bad"),
    [
        ({"a": 1, "a/b": 2}, ["a"]),
        ({"a/b": 2, "a": {}}, ["a"]),
        ({"a/b": 1, "a/b/c/d": 2, "c": 3}, ["a/b"]),
        ({"": 1}, [""]),
        ({"a//b": 1, "/c": 2, "d/": 3}, ["a//b", "/c", "d/"]),
    ],
)
def test_paths_that_make_no_tree_are_refused(flat, bad):
    with pytest.raises(ValueError, match="none of them a prefix of another") as caught:
        trees.unflatten(flat)
    assert str(caught.value).endswith(f"got {bad}")


def test_leaves_of_another_structure_are_listed():
    with pytest.raises(ValueError, match="expects the paths of `like`, got differences") as caught:
        trees.unflatten({"a": 1, "b/c": 2, "d": {}}, like={"a": 0, "b": {"e": 0}})
    assert str(caught.value).splitlines()[1:] == ["  missing 'b/e'", "  unexpected 'b/c'"]


def test_labels_follow_the_one_rule_that_matches():
    labels = trees.label_by_name(TREE, {".*/bias": "plain", ".*/kernel": "decayed", "extra/.*": 0})
    assert labels == {
        "stage1": {"block0": {"conv1": {"kernel": "decayed", "bias": "plain"}, "relu": {}}},
        "head": {"kernel": "decayed", "bias": "plain"},
        "extra": (0, [0]),
    }


def test_labels_partition_an_optimizer():
    params = {"body": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(3)}}
    labels = trees.label_by_name(params, {"body/.*": "frozen", "head/.*": "trained"})
    optimizer = optax.partition({"frozen": optax.set_to_zero(), "trained": optax.sgd(0.5)}, labels)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["body"]["kernel"], np.zeros(2))
    np.testing.assert_array_equal(updates["head"]["kernel"], np.full(3, -0.5))


def test_a_rule_must_match_the_whole_path():
    with pytest.raises(ValueError, match=r"'head/kernel' matches no rule"):
        trees.label_by_name({"head": {"kernel": 1}}, {"head": "a"})
    with pytest.raises(ValueError, match=r"rule 'head' matches no leaf"):
        trees.label_by_name({"head": {"kernel": 1}}, {"head": "a", "head/kernel": "b"})


def test_every_fault_of_the_rules_is_listed():
    with pytest.raises(ValueError, match="expected every leaf to match exactly one rule") as caught:
        trees.label_by_name(TREE, {"head/.*": 1, ".*/bias": 2, "tail/.*": 3})
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "'extra/0' matches no rule",
        "'extra/1/0' matches no rule",
        "'head/bias' matches ['head/.*', '.*/bias']",
        "'stage1/block0/conv1/kernel' matches no rule",
        "rule 'tail/.*' matches no leaf",
    ]


def test_a_mask_marks_the_leaves_whose_whole_path_matches():
    assert trees.mask_by_name(TREE, ".*kernel") == {
        "stage1": {"block0": {"conv1": {"kernel": True, "bias": False}, "relu": {}}},
        "head": {"kernel": True, "bias": False},
        "extra": (False, [False]),
    }


def test_a_mask_chooses_what_optax_decays():
    params = {"conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    optimizer = optax.add_decayed_weights(0.1, mask=lambda params: trees.mask_by_name(params, ".*kernel"))
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["conv"]["kernel"], 0.1)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0)


def test_a_mask_that_marks_nothing_is_refused():
    with pytest.raises(ValueError, match=r"expected pattern 'kernel' to match a leaf, got none of \['a/kernel'\]"):
        trees.mask_by_name({"a": {"kernel": 1}}, "kernel")


def test_count_adds_up_the_sizes():
    assert trees.count({"a": jnp.zeros((2, 3)), "b": [jnp.zeros(4), jnp.zeros(())]}) == 6 + 4 + 1
    assert trees.count({"a": jax.ShapeDtypeStruct((5, 7), jnp.float32)}) == 35
    assert trees.count({}) == trees.count({"relu": {}}) == 0


def test_a_partition_is_merged_to_the_tree_again():
    tree = {"a": {"x": 1, "y": 2}, "b": {}, "c": 3}
    mask = {"a": {"x": True, "y": False}, "b": {}, "c": True}
    chosen, others = trees.partition(tree, mask)
    assert (chosen, others) == (
        {"a": {"x": 1, "y": None}, "b": {}, "c": 3},
        {"a": {"x": None, "y": 2}, "b": {}, "c": None},
    )
    assert trees.merge(chosen, others) == trees.merge(others, chosen) == tree
    assert list(trees.named_leaves(chosen)) == ["a/x", "c"]


def test_differences_are_named_leaf_by_leaf():
    expected = {"a/kernel": (3, 3), "a/bias": (3,), "b/scale": (1,)}
    assert trees.differences(expected, dict(reversed(expected.items()))) == []
    assert trees.differences(expected, {"a/kernel": (5, 5), "old": (2,), "b/scale": (1,)}) == [
        "missing 'a/bias'",
        "unexpected 'old'",
        "'a/kernel' is (5, 5), expected (3, 3)",
    ]
