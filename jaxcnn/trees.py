"""Names the leaves of a tree: lists, flattens, restores, selects and counts them."""

import re
from collections.abc import Mapping
from typing import Any

import jax


def named_leaves(tree: Any) -> dict[str, Any]:
    """Lists the leaves of a tree under their paths.

    Args:
      tree: any pytree, typically parameters or state.

    Returns:
      Leaves by path, for example `{"stage1/block0/conv1/kernel": ...}`, in the order of `jax.tree.leaves`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested dicts, such as parameters, into one dict by path; `unflatten` is the inverse.

        flatten({"conv": {"kernel": k, "bias": b}, "relu": {}})    # {"conv/kernel": k, "conv/bias": b, "relu": {}}

    The empty dict of a layer without parameters is kept as a value under its own path. For a file that holds only
    arrays, use `named_leaves`, which omits it, and pass the structure to `unflatten`.

    Args:
      tree: nested dicts; their keys are non-empty strings without "/".

    Returns:
      Leaves and empty dicts by path, in the order of the tree. `{}` for `{}`.

    Raises:
      ValueError: a key is not a string, is empty or contains "/".
    """
    flat = {}
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"flatten expects keys that are non-empty strings without '/', got {key!r}")
        if isinstance(value, Mapping) and not _is_empty(value):
            flat.update({f"{key}/{path}": leaf for path, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any], like: Any = None) -> Any:
    """Builds a tree from leaves by path.

        unflatten(flatten(params)) == params
        unflatten(safetensors.numpy.load_file(path), like=jax.eval_shape(model.init, key)[0])

    Args:
      flat: leaves by path, as `flatten` or `named_leaves` returns them.
      like: a tree of the structure to build, empty dicts included; its leaves are ignored. None builds nested dicts; a
        value that is an empty dict stays one.

    Returns:
      The tree, with the values of `flat` as its leaves.

    Raises:
      ValueError: without `like`, a path has an empty part or is a prefix of another path; with `like`, its paths do not
        match. The message lists all of them.
    """
    if like is not None:
        names = list(named_leaves(like))
        leaves = {path: leaf for path, leaf in flat.items() if not _is_empty(leaf)}
        if faults := differences(dict.fromkeys(names, ""), dict.fromkeys(leaves, "")):
            raise ValueError("unflatten expects the paths of `like`, got differences:\n  " + "\n  ".join(faults))
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in names])
    beginnings = {path[:end] for path in flat for end, character in enumerate(path) if character == "/"}
    if faults := [path for path in flat if path in beginnings or not all(path.split("/"))]:
        raise ValueError(
            f"unflatten expects paths of non-empty names between '/', none of them a prefix of another, got {faults}"
        )
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = {} if _is_empty(leaf) else leaf
    return tree


def differences(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """Lists the leaves in which two trees differ.

        differences({"kernel": (3, 3), "bias": (3,)}, {"kernel": (5, 5)})
        # ["missing 'bias'", "'kernel' is (5, 5), expected (3, 3)"]

    Args:
      expected: a description of each leaf, by path, to compare: its shape, or a text with shape and dtype.
      found: the same of the other tree.

    Returns:
      One line for each leaf that is missing, is unexpected or differs, in this order; `[]` for equal mappings.
    """
    return [
        *(f"missing {name!r}" for name in expected if name not in found),
        *(f"unexpected {name!r}" for name in found if name not in expected),
        *(
            f"{name!r} is {found[name]}, expected {wanted}"
            for name, wanted in expected.items()
            if name in found and found[name] != wanted
        ),
    ]


def _is_empty(value: Any) -> bool:
    return isinstance(value, Mapping) and not value


def label_by_name(tree: Any, rules: Mapping[str, Any]) -> Any:
    """Labels every leaf by the rule that its path matches.

    For `optax.partition`: `label_by_name(params, {".*/bias": "plain", "(?!.*/bias).*": "decayed"})`.

    Args:
      tree: any pytree.
      rules: label by regular expression; an expression must match the whole path.

    Returns:
      A tree like `tree` with the labels as its leaves.

    Raises:
      ValueError: a leaf matches no rule or several, or a rule matches no leaf; the message lists all of them.
    """
    labels, faults, used = {}, [], set()
    for name in named_leaves(tree):
        matching = [pattern for pattern in rules if re.fullmatch(pattern, name)]
        used.update(matching)
        if len(matching) == 1:
            labels[name] = rules[matching[0]]
        else:
            faults.append(f"{name!r} matches {matching or 'no rule'}")
    faults += [f"rule {pattern!r} matches no leaf" for pattern in rules if pattern not in used]
    if faults:
        raise ValueError(
            "expected every leaf to match exactly one rule, and every rule a leaf:\n  " + "\n  ".join(faults)
        )
    return jax.tree.unflatten(jax.tree.structure(tree), list(labels.values()))


def mask_by_name(tree: Any, pattern: str) -> Any:
    """Marks the leaves whose whole path matches a regular expression.

    For Optax masks: `optax.adamw(1e-3, mask=lambda params: mask_by_name(params, ".*kernel"))` decays kernels only.

    Args:
      tree: any pytree.
      pattern: regular expression; it must match the whole path.

    Returns:
      A tree like `tree` of bools.

    Raises:
      ValueError: no leaf matches.
    """
    matches = [re.fullmatch(pattern, name) is not None for name in named_leaves(tree)]
    if not any(matches):
        raise ValueError(f"expected pattern {pattern!r} to match a leaf, got none of {list(named_leaves(tree))}")
    return jax.tree.unflatten(jax.tree.structure(tree), matches)


def count(tree: Any) -> int:
    """Counts the numbers in a tree of arrays or of `jax.ShapeDtypeStruct`s.

    Args:
      tree: any pytree whose leaves have a size.

    Returns:
      The sum of the sizes; 0 for an empty tree.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def partition(tree: Any, mask: Any) -> tuple[Any, Any]:
    """Splits a tree into the leaves that a mask chooses and the others; `merge` joins them again.

    Args:
      tree: any pytree.
      mask: a tree like `tree` of bools.

    Returns:
      Two trees with the nesting of `tree`: one with the leaves where the mask is True, one with the others. A leaf that
      is in the other tree is None, which JAX treats as an empty subtree.
    """
    return (
        jax.tree.map(lambda chosen, leaf: leaf if chosen else None, mask, tree),
        jax.tree.map(lambda chosen, leaf: None if chosen else leaf, mask, tree),
    )


def merge(one: Any, other: Any) -> Any:
    """Joins two trees that `partition` returned.

    Args:
      one: a tree with None for each leaf of the other.
      other: a tree of the same nesting.

    Returns:
      The tree with the leaves of both.
    """
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=lambda leaf: leaf is None)
