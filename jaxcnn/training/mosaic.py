"""Joins the images of a batch with their objects: mosaic, and mixup for detection."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.data.geometry import Viewport
from jaxcnn.data.objects import OBJECTS, moved_objects
from jaxcnn.ops.check import at_least_float32
from jaxcnn.types import Example
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Mosaic(Value):
    """Joins four images of the batch around a point in the image.

    The point is drawn from the middle half of the image in each direction, and a scale from `scale`. At this scale,
    each image stands with one corner at the point: the example itself at the top left, and those of three other
    examples around it. What no image covers is filled (Bochkovskiy et al. 2020, "YOLOv4", section 3.3). All examples
    need the entries of objects; see `jaxcnn.data.Step`. Objects are clipped and dropped as a `Step` does.

    The slots of the four are kept, so that examples leave with four times as many, whatever the probability: nothing is
    lost. `max_objects` limits them; then valid ones come first, and those of least area are lost if there are more.

    Attributes:
      scale: least and greatest scale of the images in the window, above 0.
      probability: that an example becomes a mosaic, in [0, 1].
      fill: value of the pixels that no image covers.
      max_objects: number of slots of the examples that leave; None for four times as many.
      least_visible: the part of a box that must be visible, in [0, 1].
    """

    scale: tuple[float, float] = (0.5, 1.5)
    probability: float = 1.0
    fill: float = 0.5
    max_objects: int | None = None
    least_visible: float = 0.1

    def __post_init__(self) -> None:
        if not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] < float("inf")):
            raise ValueError(f"Mosaic expects scale, a pair (least, greatest) above 0, got {self.scale!r}")
        for name in ("probability", "least_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Mosaic expects {name} in [0, 1], got {getattr(self, name)!r}")
        _check_slots(self, self.max_objects)

    def __call__(self, key: jax.Array, batch: Example) -> dict[str, Any]:
        """Joins the images of a batch.

        Args:
          key: typed random key, consumed.
          batch: "image", floating point, shape (batch, height, width, channels), and objects, with the batch as their
            first axis, without "weight".

        Returns:
          The batch, with images of the same shape and more slots for objects.

        Raises:
          ValueError: the batch lacks an entry, or has one that a mosaic cannot join.
        """
        _check(self, batch)
        count = batch["image"].shape[0]
        order_key, *keys = jax.random.split(key, 1 + count)
        # The example itself, and others that differ from each other if there are at least four.
        shuffled = jax.random.permutation(order_key, count)
        places = jnp.argsort(shuffled)
        four = jnp.stack([shuffled[(places + step) % count] for step in range(4)], axis=1)
        tiles = jax.tree.map(lambda array: jnp.asarray(array)[four], _entries(batch))
        joined = jax.vmap(self._join)(jnp.stack(keys), tiles)
        slots = self.max_objects or joined["valid"].shape[1]
        return dict(batch) | jax.vmap(lambda one: _limited(one, slots))(joined)

    def _join(self, key: jax.Array, tiles: Example) -> dict[str, Any]:
        """Joins four examples, as the first axis of the entries."""
        chance_key, scale_key, point_key = jax.random.split(key, 3)
        height, width = tiles["image"].shape[1:3]
        size = jnp.array([height, width], jnp.float32)
        is_mosaic = jax.random.bernoulli(chance_key, self.probability)
        scale = jax.random.uniform(scale_key, (), jnp.float32, *self.scale)
        extent = jnp.where(is_mosaic, size / scale, size)
        # Where the window begins, from the point.
        start = -extent * jax.random.uniform(point_key, (2,), jnp.float32, 0.25, 0.75)
        total, objects = jnp.zeros((), jnp.float32), []
        for tile in range(4):
            corner = size * jnp.array([tile // 2 - 1, tile % 2 - 1], jnp.float32)
            # Without a mosaic, the first image fills the window, and the others lie beyond it.
            alone = 0 * size if tile == 0 else 2 * size
            view = Viewport(jnp.where(is_mosaic, start - corner, alone), extent, (height, width))
            pixels = tiles["image"][tile].astype(at_least_float32(tiles["image"].dtype))
            # A channel of ones tells which part of each pixel the image covers.
            total = total + view.image(jnp.concatenate([pixels, jnp.ones_like(pixels[..., :1])], axis=2), 0)
            own = {name: tiles[name][tile] for name in (*OBJECTS, "valid") if name in tiles}
            boxes = view.boxes(own["boxes"], height, width)
            if "masks" in own:
                own["masks"] = jax.vmap(lambda mask, view=view: view.mask(mask, False))(own["masks"])
            objects.append(moved_objects(own, boxes, (height, width), least_visible=self.least_visible))
        joined = {name: jnp.concatenate([one[name] for one in objects]) for name in objects[0]}
        image = total[..., :-1] + (1 - total[..., -1:]) * self.fill
        return joined | {"image": image.astype(tiles["image"].dtype)}


@dataclass(frozen=True, repr=False)
class ObjectMixup(Value):
    """Blends each image with another one of the batch, and keeps the objects of both.

    The share of the first image is one number for the whole batch, drawn from Beta(alpha, alpha); all objects count in
    full (Zhang et al. 2019, "Bag of Freebies for Training Object Detection Neural Networks", section 3.1).

    Attributes:
      alpha: parameter of the distribution, above 0; 1.5 in the paper.
      max_objects: number of slots of the examples that leave; None for twice as many. See `Mosaic`.
    """

    alpha: float = 1.5
    max_objects: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"ObjectMixup expects a finite alpha above 0, got {self.alpha!r}")
        _check_slots(self, self.max_objects)

    def __call__(self, key: jax.Array, batch: Example) -> dict[str, Any]:
        """Blends the images of a batch; see `Mosaic.__call__`."""
        _check(self, batch)
        share_key, order_key = jax.random.split(key)
        images = jnp.asarray(batch["image"])
        share = jax.random.beta(share_key, self.alpha, self.alpha, dtype=jnp.float32).astype(images.dtype)
        shuffled = jax.random.permutation(order_key, images.shape[0])
        other = shuffled[(jnp.argsort(shuffled) + 1) % images.shape[0]]
        entries = _entries(batch)
        joined = {
            name: jnp.concatenate([jnp.asarray(array), jnp.asarray(array)[other]], axis=1)
            for name, array in entries.items()
            if name != "image"
        }
        joined["image"] = share * images + (1 - share) * images[other]
        slots = self.max_objects or joined["valid"].shape[1]
        return dict(batch) | jax.vmap(lambda one: _limited(one, slots))(joined)


def _limited(example: Example, slots: int) -> dict[str, Any]:
    """Puts the objects into a number of slots: valid ones first, by area if there are too many."""
    boxes, valid = example["boxes"], example["valid"]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).astype(jnp.float32)
    crowded = jnp.sum(valid, dtype=jnp.int32) > slots
    rank = jnp.where(valid, jnp.where(crowded, -areas, -1.0), 1.0)
    kept = jnp.argsort(rank, stable=True)[:slots]
    missing = max(slots - len(valid), 0)

    def chosen(array: jax.Array) -> jax.Array:
        return jnp.pad(array[kept], [(0, missing)] + [(0, 0)] * (array.ndim - 1))

    return {name: array if name == "image" else chosen(array) for name, array in example.items()}


def _entries(batch: Example) -> dict[str, Any]:
    return {name: batch[name] for name in ("image", *OBJECTS, "valid") if name in batch}


def _check_slots(mix: Mosaic | ObjectMixup, slots: int | None) -> None:
    if slots is not None and slots < 1:
        raise ValueError(f"{type(mix).__name__} expects max_objects of at least 1, or None, got {slots}")


def _check(mix: Mosaic | ObjectMixup, batch: Example) -> None:
    name = type(mix).__name__
    if "weight" in batch:
        raise ValueError(f'{name} expects a batch without "weight", got one; mix whole batches of training examples')
    missing = [entry for entry in ("image", "boxes", "valid") if entry not in batch]
    if missing:
        raise ValueError(f"{name} expects a batch with 'image', 'boxes' and 'valid', got {sorted(batch)}")
    others = sorted(batch.keys() & {"mask", "label", "target"})
    if others:
        raise ValueError(f"{name} cannot join {', '.join(map(repr, others))}; omit them, or train without {name}")
