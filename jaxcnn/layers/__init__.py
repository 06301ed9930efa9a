"""Layers: frozen dataclasses that pair the ops with parameters and state. See `jaxcnn.types.Layer`."""

from jaxcnn.layers.backbone import Backbone, Level, pyramid_paths
from jaxcnn.layers.batching import Batched, batched
from jaxcnn.layers.composite import Composite, Run, apply_with_hook
from jaxcnn.layers.containers import AuxiliaryHeads, Concat, Gate, Residual, Sequential, Zip
from jaxcnn.layers.conv import Conv, ConvTranspose, StackedConv
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.ensemble import Ensemble
from jaxcnn.layers.feature_maps import batched_features, features
from jaxcnn.layers.fold import fold_batch_norm
from jaxcnn.layers.frozen import Frozen, freeze, trainable, unfreeze
from jaxcnn.layers.function import Flatten, Function, identity
from jaxcnn.layers.initializers import Initializer
from jaxcnn.layers.measures import (
    arithmetic,
    count_parameters,
    multiply_adds,
    output_shape,
    receptive_field,
)
from jaxcnn.layers.norm import BatchNorm, GroupNorm, LayerNorm
from jaxcnn.layers.pad import Pad
from jaxcnn.layers.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from jaxcnn.layers.regularize import Dropout, DropPath
from jaxcnn.layers.resize import PixelShuffle, PixelUnshuffle, Resize
from jaxcnn.layers.scale import LayerScale
from jaxcnn.layers.table import summary
from jaxcnn.layers.views import MeanOverViews

__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AuxiliaryHeads",
    "AvgPool",
    "Backbone",
    "BatchNorm",
    "Batched",
    "Composite",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dense",
    "DropPath",
    "Dropout",
    "Ensemble",
    "Flatten",
    "Frozen",
    "Function",
    "Gate",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Initializer",
    "LayerNorm",
    "LayerScale",
    "Level",
    "MaxPool",
    "MeanOverViews",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "Residual",
    "Resize",
    "Run",
    "Sequential",
    "StackedConv",
    "Zip",
    "apply_with_hook",
    "arithmetic",
    "batched",
    "batched_features",
    "count_parameters",
    "features",
    "fold_batch_norm",
    "freeze",
    "identity",
    "multiply_adds",
    "output_shape",
    "pyramid_paths",
    "receptive_field",
    "summary",
    "trainable",
    "unfreeze",
]
