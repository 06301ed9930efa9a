"""Where the arrays of a training are: on one device, on many, or on the devices of many hosts."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.trees import named_leaves

T = TypeVar("T")

Sharded = Literal["nothing", "parameters"]
"""What `make_placement` shards besides the batch."""


@dataclass(frozen=True)
class Placement:
    """Devices, and how the arrays of a training are laid out on them; hashable.

    The batch is split along its first axis. The train state is on every device, except for the parameters that a rule
    names, and the optimizer's state and the moving averages of these parameters, which are laid out as they are. The
    numbers do not depend on the placement, up to rounding: batch norm and the loss are those of the whole batch.

        mesh = jax.make_mesh((4, 2), ("data", "model"))
        Placement(mesh, rules=((".*/kernel", "data"), ("head/bias", PartitionSpec("model"))))

    Attributes:
      mesh: the devices; its axes may be automatic or explicit.
      data_axes: names of the axes of the mesh over which the batch is split.
      rules: pairs of a regular expression that matches the whole path of a parameter, and how it is kept between steps:
        a `PartitionSpec`, or the name of an axis of the mesh, over which the longest axis of the parameter is split
        that divides evenly; a parameter without such an axis is on every device. The first rule that matches counts. A
        step gathers the parameters before it computes with them (ZeRO, Rajbhandari et al. 2020, section 5).

    Raises:
      ValueError: an axis is not in the mesh, a rule has no valid pattern, or the processes have unequal parts of the
        batch.
    """

    mesh: Mesh
    data_axes: tuple[str, ...] = ("data",)
    rules: tuple[tuple[str, PartitionSpec | str], ...] = ()

    def __post_init__(self) -> None:
        self._check_axes("data_axes", self.data_axes)
        for pattern, layout in self.rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"Placement expects a regular expression in a rule, got {pattern!r}: {error}"
                ) from error
            self._check_axes(
                f"the rule {pattern!r}", _names(PartitionSpec(layout) if isinstance(layout, str) else layout)
            )
        _ = self.shard

    def _check_axes(self, where: str, names: Any) -> None:
        if unknown := [name for name in names if name not in self.mesh.axis_names]:
            raise ValueError(
                f"Placement expects axes of the mesh, {', '.join(self.mesh.axis_names)}, in {where}, got "
                f"{', '.join(map(repr, unknown))}"
            )

    @property
    def parts(self) -> int:
        """Number of parts that the batch is split into."""
        return math.prod(self.mesh.shape[name] for name in self.data_axes)

    @property
    def shard(self) -> tuple[int, int]:
        """(i, n): this process holds the i-th of n equal parts of each batch, as `jaxcnn.data.Batches` takes it."""
        rows: Any = self._batch_sharding.addressable_devices_indices_map((self.parts,)).values()
        held = sorted({row.indices(self.parts)[0] for (row,) in rows})
        size = len(held)
        if size == 0 or held != list(range(held[0], held[0] + size)) or held[0] % size or self.parts % size:
            raise ValueError(
                "Placement expects a mesh in which each process holds equal, adjacent parts of the batch, got the "
                f"parts {held} of {self.parts} in process {jax.process_index()}; order its devices by process"
            )
        return held[0] // size, self.parts // size

    @property
    def spans_processes(self) -> bool:
        """Whether the mesh has devices of other processes."""
        return not self._batch_sharding.is_fully_addressable

    @property
    def _batch_sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(self.data_axes))

    def check_batch_size(self, size: int) -> None:
        """Refuses a batch that cannot be split evenly.

        Args:
          size: number of examples, over all processes.

        Raises:
          ValueError: the number of parts does not divide it.
        """
        if size % self.parts:
            below = size // self.parts * self.parts
            valid = f"{below} or {below + self.parts}" if below else f"{self.parts}"
            raise ValueError(
                f"expected a batch size that divides over {self.parts} devices, got {size}; use {valid}, or fewer "
                "devices"
            )

    def spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Returns how a parameter is laid out.

        Args:
          name: its path, such as "stage1/conv/kernel".
          shape: its shape.

        Raises:
          ValueError: the rule does not fit the shape.
        """
        for pattern, layout in self.rules:
            if re.fullmatch(pattern, name):
                return (
                    self._along_longest(layout, shape)
                    if isinstance(layout, str)
                    else self._checked(layout, name, shape)
                )
        return PartitionSpec()

    def _along_longest(self, axis: str, shape: tuple[int, ...]) -> PartitionSpec:
        fitting = [i for i, size in enumerate(shape) if size and size % self.mesh.shape[axis] == 0]
        if not fitting:
            return PartitionSpec()
        # Of equally long axes the last one: that of the outputs of a kernel.
        chosen = max(fitting, key=lambda i: (shape[i], i))
        return PartitionSpec(*(axis if i == chosen else None for i in range(len(shape))))

    def _checked(self, layout: PartitionSpec, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        parts = [math.prod(self.mesh.shape[axis] for axis in _names([entry])) for entry in layout]
        if len(parts) > len(shape) or any(size % count for size, count in zip(shape, parts, strict=False)):
            raise ValueError(
                f"expected a rule whose axes divide the parameter {name!r} of shape {shape}, got "
                f"PartitionSpec{tuple(layout)} on a mesh of {dict(self.mesh.shape)}"
            )
        return layout

    def shardings(self, train_state: Any) -> Any:
        """Returns the sharding of each array of a train state, in its structure.

        Args:
          train_state: a `TrainState`, of arrays or of shapes.
        """
        params = named_leaves(train_state.params)
        specs = {name: self.spec(name, leaf.shape) for name, leaf in params.items()}

        def sharding(name: str, leaf: Any) -> NamedSharding:
            # The optimizer's moments, and the moving averages, are trees like the parameters: their paths end alike.
            words = name.split("/")
            ends = ("/".join(words[i:]) for i in range(len(words)))
            owner = next((end for end in ends if end in specs), None)
            fits = owner is not None and params[owner].shape == leaf.shape
            return NamedSharding(self.mesh, specs[owner] if fits and owner is not None else PartitionSpec())

        leaves = [sharding(name, leaf) for name, leaf in named_leaves(train_state).items()]
        return jax.tree.unflatten(jax.tree.structure(train_state), leaves)

    def put(self, train_state: T) -> T:
        """Puts a train state on the devices.

        Args:
          train_state: a `TrainState`, the same in every process.

        Returns:
          The train state; it shares no memory with the given one.
        """
        return jax.tree.map(_put, train_state, self.shardings(train_state))

    def put_whole(self, tree: T) -> T:
        """Puts arrays, such as a key, on every device.

        Args:
          tree: arrays, the same in every process; an array that is already on the devices is not copied.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec())

        def put(leaf: Any) -> jax.Array:
            is_there = isinstance(leaf, jax.Array) and leaf.sharding == sharding
            return leaf if is_there else _put(leaf, sharding)

        return jax.tree.map(put, tree)

    def split(self, batch: T) -> T:
        """Splits a batch over the devices.

        Args:
          batch: a tree of arrays; of several processes, each gives its part (`shard`).

        Returns:
          The whole batch, as arrays of JAX.

        Raises:
          ValueError: the batch does not divide over the devices.
        """
        sharding = self._batch_sharding

        def split(array: Any) -> jax.Array:
            if isinstance(array, jax.Array) and array.sharding == sharding:
                return array
            self.check_batch_size(len(array) * self.shard[1])
            if self.spans_processes:
                return jax.make_array_from_process_local_data(sharding, np.asarray(array))
            return jax.device_put(array, sharding)

        return jax.tree.map(split, batch)

    def keep(self, train_state: T) -> T:
        """Within jit: lays out a new train state as `put` does. Along explicit axes, JAX does so by itself."""
        if self.mesh.abstract_mesh.explicit_axes:
            return train_state
        return jax.lax.with_sharding_constraint(train_state, self.shardings(train_state))

    def gathered(self, params: T) -> T:
        """Within jit and automatic axes: returns parameters whole on every device, for the computation with them.

        Otherwise the compiler may split the activations as it finds the parameters, and exchange them in each layer.
        """
        if not self.rules:
            return params
        is_explicit = bool(self.mesh.abstract_mesh.explicit_axes)
        whole = PartitionSpec() if is_explicit else NamedSharding(self.mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(params, whole)

    def whole(self, tree: T) -> T:
        """Within jit: puts arrays on every device as a whole, so that each process can read them."""
        if self.mesh.abstract_mesh.explicit_axes:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))

    def gather(self, tree: T) -> T:
        """Returns arrays as a whole in the memory of every process. All processes must call it.

        Args:
          tree: arrays on the mesh.

        Returns:
          Arrays of NumPy; typed keys are arrays of JAX.
        """
        leaves, structure = jax.tree.flatten(tree)
        # Arrays with parts on devices of other processes, which this process cannot read.
        spread = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and not _is_readable(leaf)}
        if spread:
            spread = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, PartitionSpec()))(spread)
        leaves = [spread.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, [leaf if _is_key(leaf) else np.asarray(leaf) for leaf in leaves])


def make_placement(devices: int | None = None, *, shard: Sharded = "nothing") -> Placement:
    """Makes a placement on a mesh of one axis, "data", of all processes.

    Args:
      devices: number of devices, over all processes; all of them if None.
      shard: "parameters" splits every parameter over the devices, with its optimizer state and moving average (ZeRO,
        fully sharded data parallel), so that a device needs only its part of this memory; "nothing" keeps all of them
        on every device.

    Returns:
      The placement.

    Raises:
      ValueError: there are fewer devices, or the number does not include each process.
    """
    if shard not in get_args(Sharded):
        raise ValueError(f"make_placement expects shard to be one of {', '.join(get_args(Sharded))}, got {shard!r}")
    # The parts of a batch follow the processes, whose numbers the runtime gives.
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        hint = " (XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of a CPU)" * (found[0].platform == "cpu")
        raise ValueError(
            f"expected a number of devices from 1 to {len(found)}, which is how many there are, got {count}; use "
            f"fewer, or start more processes{hint}"
        )
    if jax.process_count() > 1 and count != len(found):
        raise ValueError(
            f"expected all {len(found)} devices of the {jax.process_count()} processes, got {count}; omit the number, "
            "or start fewer processes"
        )
    rules = ((".*", "data"),) if shard == "parameters" else ()
    return Placement(Mesh(np.array(found[:count]), ("data",)), rules=rules)


def _names(spec: Any) -> list[str]:
    """Lists the axes of the mesh in a `PartitionSpec`."""
    return [name for entry in spec if entry is not None for name in ((entry,) if isinstance(entry, str) else entry)]


def _is_readable(leaf: jax.Array) -> bool:
    return leaf.is_fully_addressable or leaf.is_fully_replicated


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding, may_alias=False)
    if _is_key(leaf):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
