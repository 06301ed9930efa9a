"""Names of the leaves of a tree: list them, choose by pattern, count."""

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


def label_by_name(tree: Any, rules: Mapping[str, Any]) -> Any:
    """Labels every leaf by the one rule that its path matches.

    Made for `optax.partition`: `label_by_name(params, {".*/bias": "plain", "(?!.*/bias).*": "decayed"})`.

    Args:
      tree: any pytree.
      rules: label by regular expression; an expression must match the whole path.

    Returns:
      A tree like `tree` with the labels as its leaves.

    Raises:
      ValueError: a leaf matches no rule or several, or a rule matches no leaf; all of them are listed.
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

    Made for Optax masks: `optax.adamw(1e-3, mask=lambda params: mask_by_name(params, ".*kernel"))` decays kernels only.

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
