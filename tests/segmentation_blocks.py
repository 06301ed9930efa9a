"""What the tests of segmentation models share."""

from jaxcnn.layers import Backbone, BatchNorm, Conv, GlobalAvgPool, Sequential


def tiny(depth=3, channels=3, norm=BatchNorm):
    """An encoder of a few small convolutions."""
    layers = {}
    for i in range(depth):
        layers |= {f"conv{i}": Conv(channels, 16 + i, 3, 2, padding=1, use_bias=False), f"norm{i}": norm(16 + i)}
        channels = 16 + i
    return Backbone(Sequential(**layers, pool=GlobalAvgPool()), [f"norm{i}" for i in range(depth)])
