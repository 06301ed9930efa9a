"""UPerNet: a feature pyramid with pooled context at its top.

Source: Xiao, Liu, Zhou, Jiang & Sun, "Unified perceptual parsing for scene understanding", 2018. The sizes are those of
segmentation_models_pytorch (Iakubovskii 2019).
"""

import jax

from jaxcnn.layers import Backbone, BatchNorm, Concat, Function, LayerNorm, Run, Sequential, identity
from jaxcnn.layers.containers import NamedLayers
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.segmentation.context import GridContext
from jaxcnn.models.segmentation.decoding import conv_relu, encoder_and_channels, encoder_decoder, joined
from jaxcnn.models.segmentation.pspnet import GRIDS
from jaxcnn.ops.resizing import resize


def upernet(
    num_classes: int = 2,
    encoder: str | Backbone = "convnext_tiny",
    *,
    in_channels: int = 3,
    norm: Norm | None = BatchNorm,
    activation: Function = relu,
    depth: int = 5,
    channels: int = 256,
) -> Sequential:
    """Builds a UPerNet for segmentation: `UPerNet` of segmentation_models_pytorch (Xiao et al. 2018, figure 4).

    Args:
      num_classes: number of logits of each pixel.
      encoder: name of a classifier of the catalog, such as "convnext_tiny"; or the encoder itself, whose maps from
        stride 4 on are used.
      in_channels: channels of the image.
      norm: makes the normalisations of the decoder; None for none, with biases instead.
      activation: the nonlinearity of the decoder.
      depth: how often the encoder halves the image: from 3 to 5.
      channels: channels of the decoder.

    Returns:
      The model: check, encoder, decoder, head and upsample. An image (height, width, in_channels), both multiples of
      2**depth, gives a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: there is no such encoder.
    """
    encoder, widths = encoder_and_channels(encoder, depth, in_channels)
    widths = widths[1 - depth :]

    def project(in_channels: int, kernel_size: int = 3, norm: Norm | None = norm) -> Sequential:
        return conv_relu(in_channels, channels, kernel_size, norm=norm, activation=activation)

    *finer, last = widths
    # Numbered as the decoder uses them: from the coarsest map to the finest.
    laterals = {f"lateral{i}": project(width, 1) for i, width in enumerate(reversed(finer))}
    decoder = UPerNetDecoder(
        **{f"norm{i}": LayerNorm(width) for i, width in enumerate(widths)},
        context=Sequential(
            pool=Concat(map=identity, **{f"grid{size}": GridContext(project(last, 1), size) for size in GRIDS}),
            project=project(last + len(GRIDS) * channels, norm=BatchNorm),
        ),
        **laterals,
        **{f"output{i}": project(channels) for i in range(len(finer))},
        fuse=project(len(widths) * channels),
    )
    return encoder_decoder("upernet", encoder, decoder, channels, num_classes, depth=depth, head_size=1, upsampling=4)


class UPerNetDecoder(NamedLayers):
    """The pyramid, which takes the maps of an encoder, the finest first, and uses as many of the last as it has norms.

    Args:
      **layers: the layers by name: norm0 and so on, of each map, the finest first; context, of the coarsest; lateral0
        and output0 and so on, of each other map, the coarsest first; fuse, of all levels joined.
    """

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Turns the maps of an encoder into one."""
        count = sum(name.startswith("norm") for name in self.children())
        *finer, coarsest = (run[f"norm{i}"](map_) for i, map_ in enumerate(x[-count:]))
        levels = [run.context(coarsest)]
        for i, map_ in enumerate(reversed(finer)):
            lateral = run[f"lateral{i}"](map_)
            levels.append(lateral + resize(levels[-1], lateral.shape[:2]))
        outputs = [levels[0], *(run[f"output{i}"](level) for i, level in enumerate(levels[1:]))]
        size = outputs[-1].shape[:2]
        return run.fuse(joined([*(resize(y, size) for y in reversed(outputs))]))
