"""Calls the C++ kernels once on each device where a batch is split over several.

XLA's partitioner does not know what a foreign call computes: it would gather all operands of the call on every device.
So the lowering of a program for a mesh wraps the call in `jax.shard_map`: each device computes its images, and sums
over images are added over the devices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec


class Split(NamedTuple):
    """How the images of a call are split over devices.

    Attributes:
      mesh: the mesh; None for a program of one device, or one that is already written for each device.
      axes: the axes of the mesh over which the images are split.
    """

    mesh: Any
    axes: tuple[str, ...]

    def each(
        self, rule: Callable[..., Any], is_split: Sequence[bool], *, is_summed: bool = False
    ) -> Callable[..., Any]:
        """Returns a function of the whole operands that calls a rule on each device.

        Args:
          rule: a function of operands, and of options by name.
          is_split: for each operand, whether its first axis is that of the images.
          is_summed: whether the result is a sum over all images, rather than one for each.
        """
        if self.mesh is None:
            return rule
        images, whole = PartitionSpec(self.axes), PartitionSpec()

        def on_all(*operands: jax.Array, **options: Any) -> Any:
            def on_one(*parts: jax.Array) -> Any:
                results = rule(*parts, **options)
                return jax.lax.psum(results, self.axes) if is_summed else results

            return jax.shard_map(
                on_one,
                mesh=self.mesh,
                in_specs=tuple(images if split else whole for split in is_split),
                out_specs=whole if is_summed else images,
                check_vma=False,
            )(*operands)

        return on_all


_WHOLE = Split(None, ())


def split_of(ctx: Any) -> Split | None:
    """Tells how a program that is being lowered for CPU may call the C++ kernels.

    Along automatic axes of a mesh, the split of an array is unknown at this time. The images are then split over as
    many axes as divide their number, the first ones first: this is the split of a batch that is laid out along the
    first axes, and any other costs an exchange, but gives the same numbers.

    Args:
      ctx: context of the lowering; the first axis of the first operand is that of the images.

    Returns:
      The split; None if the program may not call them: an exported program could not run without this package, and
      one whose mesh is unknown, or whose images cannot be divided, is better left to the compiler.
    """
    module = ctx.module_context
    if module.lowering_parameters.for_export:
        return None
    context = module.axis_context
    if getattr(context, "num_devices", None) == 1:
        return _WHOLE
    if hasattr(context, "manual_axes"):
        return _WHOLE if context.manual_axes == frozenset(context.mesh.axis_names) else None
    shardings = [aval.sharding for aval in ctx.avals_in]
    mesh = next((sharding.mesh for sharding in shardings if not sharding.mesh.empty), None)
    images = ctx.avals_in[0].shape[0]
    if mesh is None or mesh.manual_axes or mesh.explicit_axes or not isinstance(images, int):
        return None
    axes = mesh.axis_names
    while axes and images % math.prod(mesh.shape[name] for name in axes):
        axes = axes[:-1]
    return Split(mesh, axes) if axes else None
