"""The contestants: jaxcnn itself and the libraries it is compared with.

A model is traced once (`plan.make_plan`): its layers in order of use, and the operations between them. Each peer's
module translates a layer into the peer's own module, by a `functools.singledispatch` over the kinds of layers. A layer
made of layers, such as a `Composite` of your own, needs no translation; another layer of your own joins in by
registering one. Detectors are not translated: torchvision's own are their peers.
"""

import importlib
from typing import NamedTuple

from jaxcnn.benchmark.program import Program, Untranslatable
from jaxcnn.benchmark.spec import Spec


class Contestant(NamedTuple):
    """One row of the table.

    Attributes:
      module: module of this package that makes its program.
      imports: what its process imports first, which is timed.
      install: the command that installs it.
    """

    module: str
    imports: tuple[str, ...]
    install: str


_FLAX = Contestant("to_flax", ("jax", "optax", "flax.linen"), "pip install flax")
_TORCH = Contestant("to_torch", ("torch",), "pip install torch")

OURS = "jaxcnn"

CONTESTANTS: dict[str, Contestant] = {
    OURS: Contestant("ours", ("jax", "optax", "jaxcnn.models"), "pip install jaxcnn"),
    "torch": _TORCH,
    "torch-compile": _TORCH,
    "flax": _FLAX,
    "flax-flags": _FLAX,
    "equinox": Contestant("to_equinox", ("jax", "optax", "equinox"), "pip install equinox"),
    "torchvision": Contestant("to_torchvision", ("torch",), "pip install torchvision"),
    "keras": Contestant("to_keras", ("jax", "optax", "keras"), "pip install keras"),
}
"""The contestants by name, in the order of the table; flax-flags is flax with the best known XLA options."""

PEERS = tuple(name for name in CONTESTANTS if name != OURS)


def implied(peers: tuple[str, ...], *, gpu: bool) -> list[str]:
    """Completes a choice of peers.

    Args:
      peers: names of `PEERS`.
      gpu: whether jaxcnn runs on a GPU.

    Returns:
      The peers in the order of the table: with flax also flax-flags, and on a GPU with torch also torch-compile.
    """
    chosen = {*peers, *(("flax-flags",) if "flax" in peers else ())}
    if gpu and "torch" in peers:
        chosen.add("torch-compile")
    return [name for name in PEERS if name in chosen]


def make_program(spec: Spec) -> Program:
    """Builds and compiles a contestant's program.

    Args:
      spec: what to measure.

    Returns:
      The program, before its first step.

    Raises:
      Unavailable: the contestant cannot run here.
      Untranslatable: the model has a layer that the peer has no translation for.
    """
    if spec.contestant not in (OURS, "torchvision") and spec.task is not None:
        raise Untranslatable("expects a model of logits, got a detector; its peer is torchvision")
    module = importlib.import_module(f"jaxcnn.benchmark.peers.{CONTESTANTS[spec.contestant].module}")
    return module.make_program(spec)
