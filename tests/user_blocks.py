"""Blocks as a user of the library would write them, from the papers."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxcnn import Layer, ops
from jaxcnn.layers import BatchNorm, Composite, Conv, Dense, DropPath, GlobalAvgPool, Residual, Sequential, identity


@dataclass(frozen=True, repr=False)
class SqueezeExcite(Composite):
    pool: Layer
    reduce: Dense
    expand: Dense

    def forward(self, run, x):
        weights = jax.nn.sigmoid(run.expand(jax.nn.relu(run.reduce(run.pool(x)))))
        return x * weights[None, None]


@dataclass(frozen=True, repr=False)
class SqueezeExciteBlock(Composite):
    """A residual block with squeeze-and-excitation (Hu et al. 2018, figure 3)."""

    conv1: Conv
    norm1: BatchNorm
    conv2: Conv
    norm2: BatchNorm
    excite: SqueezeExcite
    shortcut: Layer = identity

    def forward(self, run, x):
        y = jax.nn.relu(run.norm1(run.conv1(x)))
        y = run.excite(run.norm2(run.conv2(y)))
        return jax.nn.relu(y + run.shortcut(x))


def squeeze_excite_block(channels, out_channels):
    return SqueezeExciteBlock(
        Conv(channels, out_channels, use_bias=False),
        BatchNorm(out_channels),
        Conv(out_channels, out_channels, use_bias=False),
        BatchNorm(out_channels),
        SqueezeExcite(GlobalAvgPool(), Dense(out_channels, 3), Dense(3, out_channels)),
        Sequential(conv=Conv(channels, out_channels, 1, use_bias=False), norm=BatchNorm(out_channels)),
    )


@dataclass(frozen=True, repr=False)
class InvertedResidual(Composite):
    """The block of MobileNetV2 (Sandler et al. 2018, table 1)."""

    expand: Conv
    norm1: BatchNorm
    depthwise: Conv
    norm2: BatchNorm
    project: Conv
    norm3: BatchNorm
    drop: DropPath
    is_residual: bool = True

    def forward(self, run, x):
        y = jax.nn.relu6(run.norm1(run.expand(x)))
        y = jax.nn.relu6(run.norm2(run.depthwise(y)))
        y = run.drop(run.norm3(run.project(y)))
        return x + y if self.is_residual else y


def inverted_residual(channels, factor=2):
    wide = factor * channels
    return InvertedResidual(
        Conv(channels, wide, 1, use_bias=False),
        BatchNorm(wide),
        Conv(wide, wide, groups=wide, use_bias=False),
        BatchNorm(wide),
        Conv(wide, channels, 1, use_bias=False),
        BatchNorm(channels),
        DropPath(0.25),
    )


@dataclass(frozen=True, repr=False)
class Pyramid(Composite):
    """A feature pyramid of two levels (Lin et al. 2017, figure 3); the result is a dict of maps."""

    stage1: Layer
    stage2: Layer
    lateral1: Conv
    lateral2: Conv

    def forward(self, run, x):
        fine = jax.nn.relu(run.stage1(x))
        coarse = jax.nn.relu(run.stage2(fine))
        top = run.lateral2(coarse)
        up = ops.resize(top, fine.shape[:2], method="nearest")
        return {"fine": run.lateral1(fine) + up, "coarse": top}


def pyramid(channels=4):
    return Pyramid(
        Conv(channels, 6),
        Sequential(conv=Conv(6, 8, strides=2, use_bias=False), norm=BatchNorm(8)),
        Conv(6, 5, 1),
        Conv(8, 5, 1),
    )


@dataclass(frozen=True, repr=False)
class SharedHead(Composite):
    """One head over all levels of a pyramid (Lin et al. 2017, section 4), its statistics too."""

    pyramid: Layer
    conv: Conv
    norm: BatchNorm
    head: Conv

    def forward(self, run, x):
        maps = run.pyramid(x)
        return {name: run.head(jax.nn.relu(run.norm(run.conv(level)))) for name, level in maps.items()}


def shared_head():
    return SharedHead(pyramid(), Conv(5, 5, use_bias=False), BatchNorm(5), Conv(5, 2, 1))


@dataclass(frozen=True, repr=False)
class TwoInputs(Composite):
    """Joins an image and a smaller one, each through its own layer, with noise drawn by the block itself."""

    left: Conv
    right: Layer
    join: Residual

    def forward(self, run, x):
        image, small = x
        y = jnp.concatenate([run.left(image), ops.resize(run.right(small), image.shape[:2])], axis=-1)
        if run.train:
            noise = 0.1 * jax.random.normal(run.key(), y.shape)
            y = y * (1 + noise.astype(y.dtype))
        return run.join(jax.nn.tanh(y))


def two_inputs():
    return TwoInputs(
        Conv(3, 2, use_bias=False),
        Sequential(conv=Conv(4, 3, use_bias=False), norm=BatchNorm(3)),
        Residual(Sequential(conv=Conv(5, 5, use_bias=False), norm=BatchNorm(5))),
    )


USER_BLOCKS = {
    SqueezeExcite: [((6, 5, 4), lambda: SqueezeExcite(GlobalAvgPool(), Dense(4, 2), Dense(2, 4)))],
    SqueezeExciteBlock: [((6, 5, 4), lambda: squeeze_excite_block(4, 6))],
    InvertedResidual: [((6, 5, 4), lambda: inverted_residual(4))],
    Pyramid: [((6, 5, 4), lambda: pyramid())],
    SharedHead: [((8, 6, 4), lambda: shared_head())],
    TwoInputs: [(((6, 5, 3), (3, 2, 4)), lambda: two_inputs())],
}
"""Shapes of inputs and functions that build the block, by class."""
