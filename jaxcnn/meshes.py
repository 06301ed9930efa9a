"""Handles arrays on a mesh of devices with explicit axes (`jax.sharding.AxisType.Explicit`)."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def spec_of(x: Any) -> PartitionSpec:
    """Returns the explicit mesh axes that each axis of an array is split over.

    Args:
      x: an array or a tracer.

    Returns:
      One entry for each axis; all None if the array is not on such a mesh.
    """
    return jax.typeof(x).sharding.spec


def with_automatic_axes(function: Callable[..., Any], *args: Any, out_specs: Callable[[], Any]) -> Any:
    """Calls a function with the explicit mesh axes made automatic.

    Along an explicit axis, JAX derives the sharding of every operation's result. It refuses operations without a rule
    and ambiguous ones: `jax.vmap` over a sharded and a replicated array, reshapes, convolutions. Within `function`, the
    compiler chooses the shardings; only the results get the sharding that is asked for.

    Args:
      function: called with the arguments; it must not close over arrays.
      *args: pytrees of arrays. If no array is on a mesh with explicit axes, this is a plain call.
      out_specs: returns a pytree of `PartitionSpec`s, a prefix of the results' tree; called only if needed.

    Returns:
      The result of the function.
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(args)]
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(*args)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), out_specs(), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=shardings)(*args)
