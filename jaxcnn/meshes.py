"""Arrays on a mesh of devices with explicit axes (`jax.sharding.AxisType.Explicit`)."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def spec_of(x: Any) -> PartitionSpec:
    """Returns which axes of an array are split over which explicit axes of a mesh.

    Args:
      x: an array, also one that is being traced.

    Returns:
      One entry for each axis; all None for an array that is on no such mesh.
    """
    return jax.typeof(x).sharding.spec


def with_automatic_axes(function: Callable[..., Any], *args: Any, out_specs: Callable[[], Any]) -> Any:
    """Calls a function in which the compiler splits the work over the devices, whatever the axes of the mesh are.

    Along an explicit axis JAX decides for each operation by itself how its result is split, and refuses those for which
    it has no rule or more than one answer: `jax.vmap` over a split and a whole array, reshapes, convolutions. What
    happens within a training step or a model is the compiler's to decide; only the results are laid out as asked for.

    Args:
      function: of the arguments; it closes over no arrays.
      *args: pytrees of arrays. If none is on a mesh with explicit axes, this is a plain call.
      out_specs: returns a pytree of `PartitionSpec`s for the results, or for subtrees of them; called only if needed.

    Returns:
      What the function returns.
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(args)]
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(*args)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), out_specs(), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=shardings)(*args)
