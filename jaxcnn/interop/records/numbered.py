"""Names in models of stages and blocks, for sources that number blocks and layers where the models here name them."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxcnn.interop.records.record import Rules
from jaxcnn.layers.composite import layer_names
from jaxcnn.types import Layer
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class NumberedRules(Value):
    """Rules that know the place of a layer in its block and of the block in its model.

    The rules get the path "stage2/block1/expand/conv" as "stage2/block1/2/expand/0/expand/conv": with the number of the
    block in the whole model from 0, the name of its first layer, and the number of this layer in the block. They get
    the path "last/conv" as "last/7/16/conv", with the numbers of stages and blocks.

    Attributes:
      rules: the rules.
      build: builds the model, of which names and order of layers count.
    """

    rules: Rules
    build: Callable[..., Any]

    def __call__(self, path: str, layer: Layer, leaf: str) -> str:
        """Names a leaf; see `Rules`."""
        layout = _layout(self.build)
        first, *rest = path.split("/")
        if first.startswith("stage"):
            block = f"{first}/{rest[0]}"
            number, names = layout.blocks[block]
            return self.rules(
                "/".join([block, str(number), names[0], str(names.index(rest[1])), *rest[1:]]), layer, leaf
            )
        if first == "last":
            return self.rules("/".join([first, str(layout.stages), str(len(layout.blocks)), *rest]), layer, leaf)
        return self.rules(path, layer, leaf)


class _Layout(NamedTuple):
    """The number of stages, and of each block its number in the model and the names of its layers."""

    stages: int
    blocks: Mapping[str, tuple[int, tuple[str, ...]]]


@functools.lru_cache(maxsize=64)
def _layout(build: Callable[..., Any]) -> _Layout:
    model = build()
    stages = [name for name in model.names if name.startswith("stage")]
    blocks: dict[str, tuple[int, tuple[str, ...]]] = {}
    for stage in stages:
        for name in model[stage].names:
            # A shortcut comes last, so it does not count.
            blocks[f"{stage}/{name}"] = len(blocks), layer_names(model[stage][name])
    return _Layout(len(stages), blocks)
