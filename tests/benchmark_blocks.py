"""Blocks with operations between their layers, as a user would write them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import Layer, ops
from jaxcnn.layers import BatchNorm, Composite, Conv

SCALE = np.linspace(0.5, 1.5, 4, dtype=np.float32)


@dataclass(frozen=True, repr=False)
class Operations(Composite):
    """Every operation on images that the peers share."""

    conv: Conv

    def forward(self, run, x):
        y = run.conv(x)
        height, width, channels = y.shape
        left, right = jnp.split(y, [1], axis=-1)
        framed = jnp.pad(y, ((1, 0), (0, 2), (0, 0)), constant_values=0.5)[1:, :width]
        turned = jnp.transpose(y, (1, 0, 2)).reshape(width * height, channels).mean(0)
        means = jnp.sqrt(jnp.square(y).mean((0, 1), keepdims=True) + 1e-3) - jnp.abs(turned)
        brightest = jnp.where(y > y.max(), y, 0.0) + jnp.maximum(y, y.min()) * jnp.minimum(2.0, y)
        constant = jnp.broadcast_to(jnp.asarray(SCALE), y.shape)
        mixed = jax.lax.stop_gradient(y) * jnp.asarray(SCALE) + jnp.flip(y, 0) ** 3 - jnp.clip(y, -0.1, 0.2)
        smooth = jnp.exp(-jnp.abs(y)) / (1 + jnp.log1p(jnp.abs(y))) + jnp.tanh(y) * jax.nn.sigmoid(y)
        return jnp.concatenate([left, right, framed, means + y, brightest, mixed, smooth, constant], axis=-1)


@dataclass(frozen=True, repr=False)
class Activations(Composite):
    """Activations between the layers, of which some are several operations."""

    conv: Conv

    def forward(self, run, x):
        y = 3 * run.conv(x)
        results = [jax.nn.relu(y), jax.nn.relu6(y), jax.nn.silu(y), jax.nn.gelu(y), ops.gelu(y)]
        results += [jax.nn.gelu(y, approximate=False), jax.nn.hard_swish(y), jax.nn.leaky_relu(y, 0.3), jax.nn.elu(y)]
        return jnp.concatenate([*results, jax.nn.softplus(y), jax.nn.hard_sigmoid(y), jax.nn.softmax(y)], axis=-1)


@dataclass(frozen=True, repr=False)
class Levels(Composite):
    """One head over two levels, whose results are a dict."""

    stage: Conv
    conv: Conv
    norm: BatchNorm
    head: Layer

    def forward(self, run, x):
        maps = {"fine": x, "coarse": run.stage(x)}
        return {name: run.head(jax.nn.relu(run.norm(run.conv(level)))) for name, level in maps.items()}


@dataclass(frozen=True, repr=False)
class Noise(Composite):
    """A layer after noise that the block draws itself."""

    conv: Conv

    def forward(self, run, x):
        if run.train:
            x = x + jax.random.normal(run.key(), x.shape, x.dtype)
        return run.conv(x)


@dataclass(frozen=True, repr=False)
class Sorted(Composite):
    """A layer whose result is sorted."""

    conv: Conv

    def forward(self, run, x):
        return jnp.sort(run.conv(x), axis=0)


@dataclass(frozen=True, repr=False)
class Rescaled(Composite):
    """A layer and a resize by a factor that is not the quotient of the sizes."""

    conv: Conv

    def forward(self, run, x):
        return ops.resize(run.conv(x), scale_factor=1.3)


@dataclass(frozen=True, repr=False)
class Resizes(Composite):
    """Resizes between the layers, of which some are equal in several methods."""

    conv: Conv

    def forward(self, run, x):
        y = run.conv(x)
        height, width, _ = y.shape
        smaller = ops.resize(ops.resize(y, (3, 2)), (height, width))
        filtered = ops.resize(ops.resize(y, (4, 3), antialias=True), (height, width), method="nearest-exact")
        cubic = ops.resize(ops.resize(y, (4, 3), method="bicubic", antialias=True), (height, width))
        doubled = ops.resize(y, (2 * height, 2 * width), method="nearest")[::2, ::2]
        return jnp.concatenate([smaller, filtered, cubic, doubled, jax.nn.relu(ops.resize(y, scale_factor=1.0))], -1)
