"""The laws that every layer and every model obeys, whatever it computes."""

import copy
import dataclasses
import functools
import importlib
import inspect
import pickle
import pkgutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_members import DEEP, LARGER
from user_blocks import USER_BLOCKS

import jaxcnn
from jaxcnn import batched, layers, models, ops
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AuxiliaryHeads,
    AvgPool,
    Backbone,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    DropPath,
    Ensemble,
    Flatten,
    Frozen,
    Function,
    Gate,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    Initializer,
    LayerNorm,
    LayerScale,
    MaxPool,
    MeanOverViews,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Residual,
    Resize,
    Sequential,
    StackedConv,
    Zip,
    identity,
)
from jaxcnn.layers.flow import structure
from jaxcnn.models import catalog
from jaxcnn.models.detection.detector import Detector
from jaxcnn.models.detection.faster_rcnn import FasterRCNN, RegionHead, RegionTower
from jaxcnn.models.detection.fcos import FCOS, FCOSHead, fcos_head
from jaxcnn.models.detection.feature_pyramid import CoarserLevels, FeaturePyramid, feature_pyramid
from jaxcnn.models.detection.mask_rcnn import MaskHead, MaskRCNN
from jaxcnn.models.detection.rcnn import RCNN
from jaxcnn.models.detection.region_proposals import RegionProposals, region_proposals
from jaxcnn.models.detection.retinanet import RetinaNet, RetinaNetHead, retinanet_head
from jaxcnn.models.detection.ssd import SSD, SSDHead, SSDNeck, ssd_head, unit_length
from jaxcnn.models.detection.yolov1 import YOLOv1, YOLOv1Head
from jaxcnn.models.detection.yolov3 import YOLOv3, YOLOv3Head, YOLOv3Neck, yolov3_head
from jaxcnn.models.detection.yolox import YOLOX, PathAggregation, YOLOXHead
from jaxcnn.models.efficientnet import fused_block
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.lenet import C3_TABLE, Gaussian, Subsampling, TableConv
from jaxcnn.models.normalized import Normalized
from jaxcnn.models.resnet import ZeroPadShortcut, bottleneck_block
from jaxcnn.models.segmentation.context import GridContext, OnCoarsest
from jaxcnn.models.segmentation.deeplab import EveryPixel, deeplabv3
from jaxcnn.models.segmentation.deeplabv3_plus import DeepLabV3PlusDecoder
from jaxcnn.models.segmentation.encoder_unet import UNetDecoder, UNetPlusPlusDecoder, UpBlock
from jaxcnn.models.segmentation.fcn import fcn
from jaxcnn.models.segmentation.fpn import FPNDecoder
from jaxcnn.models.segmentation.linknet import LinkNetDecoder
from jaxcnn.models.segmentation.lraspp import LiteRASPP, TwoScaleHead, lraspp
from jaxcnn.models.segmentation.segmenter import Segmenter
from jaxcnn.models.segmentation.u_net import CroppedConcat
from jaxcnn.models.segmentation.upernet import UPerNetDecoder
from jaxcnn.values import Partial

HE_NORMAL = Initializer(jax.nn.initializers.he_normal)
RELU, TANH = Function(jax.nn.relu), Function(jnp.tanh)

# The shapes of the maps of an encoder, and what a decoder makes of them.
PYRAMID = ((16, 16, 2), (8, 8, 3), (4, 4, 4), (2, 2, 5))
FPN_LATERALS = (Conv(5, 2, 1), Conv(4, 2, 1), Conv(3, 2, 1), Conv(2, 2, 1))
FPN_LEVELS = (
    *(Sequential(conv=Conv(2, 3), double=Resize(scale_factor=2**i, align_corners=True)) for i in (3, 2, 1)),
    Conv(2, 3),
)


def two_maps():
    """A backbone of two convolutions."""
    body = Sequential(
        fine=Conv(4, 8, use_bias=False), norm=BatchNorm(8), coarse=Conv(8, 12, 3, 2, 1, use_bias=False), last=RELU
    )
    return Backbone(body, ["norm", "coarse"])


def two_stages(kind, head, **parts):
    """A two-stage detector for two maps."""
    return kind(
        two_maps(),
        feature_pyramid((8, 12), 4),
        head,
        region_proposals(4, ((3.0,), (6.0,)), aspect_ratios=(1.0,), activation=TANH, candidates=(12, 9), slots=(8, 6)),
        RegionTower(identity, Sequential(fc=Dense(7 * 7 * 4, 5))),
        strides=(1, 2),
        canonical_size=64.0,
        **parts,
    )


def one_box_head(*channels):
    """A head of YOLOX for two maps."""
    stems = Zip(**{f"p{3 + i}": Conv(size, 4, 1) for i, size in enumerate(channels)})
    tower = Zip(p3=Sequential(conv=Conv(4, 5), norm=BatchNorm(5)), p4=Conv(4, 5))
    classes, boxes, objectness = (Zip(p3=Conv(5, size, 1), p4=Conv(5, size, 1)) for size in (3, 4, 1))
    return YOLOXHead(stems, tower, classes, tower, boxes, objectness)


# Each layer is built anew by every call, so that equality is never identity.
LAYERS = {
    AdaptiveAvgPool: [
        ((6, 5, 4), lambda: AdaptiveAvgPool(3)),
        ((6, 5, 4), lambda: AdaptiveAvgPool((2, 7))),
        ((6, 5, 4), lambda: AdaptiveAvgPool((None, 2))),
    ],
    AdaptiveMaxPool: [((6, 5, 4), lambda: AdaptiveMaxPool((4, None)))],
    AuxiliaryHeads: [
        (
            (6, 5, 4),
            lambda: AuxiliaryHeads(
                "aux",
                a=Conv(4, 6),
                aux=Sequential(pool=GlobalAvgPool(), d=Dense(6, 3)),
                b=GlobalAvgPool(),
                c=Dense(6, 3),
            ),
        ),
        (
            (6, 5, 4),
            lambda: AuxiliaryHeads(
                "aux1",
                "aux2",
                conv=Conv(4, 6, use_bias=False),
                aux1=Sequential(norm=BatchNorm(6), drop=Dropout(0.5)),
                aux2=Function(jnp.tanh),
                norm=BatchNorm(6),
            ),
        ),
    ],
    AvgPool: [
        ((6, 5, 4), lambda: AvgPool()),
        ((6, 5, 4), lambda: AvgPool(3, strides=(2, 1), padding="SAME", count_include_pad=False)),
        ((6, 5, 4), lambda: AvgPool((2, 3), padding=((1, 0), (0, 2)), ceil_mode=True)),
    ],
    Backbone: [
        (
            (6, 5, 4),
            lambda: Backbone(
                Sequential(conv=Conv(4, 6, use_bias=False), norm=BatchNorm(6), down=Conv(6, 5, 3, 2), head=Conv(5, 2)),
                at=("norm", "down"),
            ),
        ),
        (
            (6, 5, 4),
            lambda: Backbone(
                Sequential(
                    stem=Conv(4, 6),
                    block=Residual(
                        Sequential(drop=Dropout(0.5), conv1=Conv(6, 6), norm1=BatchNorm(6), conv2=Conv(6, 6)),
                        Conv(6, 6),
                    ),
                ),
                at=("stem", "block/conv1"),
            ),
        ),
    ],
    BatchNorm: [
        ((6, 5, 4), lambda: BatchNorm(4)),
        ((4,), lambda: BatchNorm(4, decay=0.5, epsilon=1e-3, unbiased=False)),
        ((6, 5, 4), lambda: BatchNorm(4, use_scale=False, bias_init=jax.nn.initializers.ones)),
        ((6, 5, 4), lambda: BatchNorm(4, use_bias=False, scale_init=Initializer(jax.nn.initializers.normal))),
        ((6, 5, 4), lambda: BatchNorm(4, use_scale=False, use_bias=False)),
    ],
    Concat: [
        ((6, 5, 4), lambda: Concat(skip=identity, conv=Conv(4, 6))),
        ((6, 5, 4), lambda: Concat(a=Sequential(conv=Conv(4, 2, use_bias=False), norm=BatchNorm(2)), b=Dropout(0.5))),
        ((7,), lambda: Concat(a=Dense(7, 3), b=Dense(7, 2))),
    ],
    Conv: [
        ((6, 5, 4), lambda: Conv(4, 6)),
        ((6, 5, 4), lambda: Conv(4, 6, (3, 2), 2, "VALID", use_bias=False)),
        ((6, 5, 4), lambda: Conv(4, 6, strides=(1, 2), padding=((1, 0), (2, 1)), dilation=2, groups=2)),
        ((6, 5, 4), lambda: Conv(4, 4, 5, padding=2, groups=4, border="reflect", kernel_init=HE_NORMAL)),
        ((6, 5, 4), lambda: Conv(4, 6, border="circular", bias_init=jax.nn.initializers.ones)),
    ],
    ConvTranspose: [
        ((6, 5, 4), lambda: ConvTranspose(4, 6)),
        ((6, 5, 4), lambda: ConvTranspose(4, 6, 3, (2, 3), 1, output_padding=(1, 2), groups=2)),
        ((6, 5, 4), lambda: ConvTranspose(4, 6, (3, 2), 1, dilation=2, use_bias=False, kernel_init=HE_NORMAL)),
        ((6, 5, 4), lambda: ConvTranspose(4, 6, 3, padding=1, border="circular")),
    ],
    Dense: [
        ((7,), lambda: Dense(7, 3)),
        ((6, 5, 4), lambda: Dense(4, 3, use_bias=False)),
        ((7,), lambda: Dense(7, 3, kernel_init=HE_NORMAL, bias_init=jax.nn.initializers.ones)),
    ],
    DropPath: [
        ((6, 5, 4), lambda: DropPath(0.5)),
        ((7,), lambda: DropPath(0.0)),
    ],
    Dropout: [
        ((6, 5, 4), lambda: Dropout(0.5)),
        ((7,), lambda: Dropout(0.0)),
        ((6, 5, 4), lambda: Dropout(0.5, whole_channels=True)),
    ],
    Ensemble: [
        ((6, 5, 4), lambda: Ensemble(Sequential(conv=Conv(4, 6), norm=BatchNorm(6), drop=Dropout(0.5)), 3)),
        ((6, 5, 4), lambda: Ensemble(Conv(4, 6), 2, combine="outputs")),
    ],
    Flatten: [((6, 5, 4), lambda: Flatten())],
    Frozen: [
        ((6, 5, 4), lambda: Frozen(Conv(4, 6))),
        ((6, 5, 4), lambda: Frozen(Residual(Sequential(conv=Conv(4, 4), norm=BatchNorm(4), drop=Dropout(0.5))))),
    ],
    Function: [
        ((6, 5, 4), lambda: Function(jax.nn.relu)),
        ((7,), lambda: Function(ops.gelu)),
        ((6, 5, 4), lambda: Function(jnp.transpose, axes=(1, 0, 2))),
        ((6, 5, 4), lambda: Function(identity.function)),
    ],
    Gate: [
        ((6, 5, 4), lambda: Gate(Sequential(pool=GlobalAvgPool(), dense=Dense(4, 4), gate=Function(jax.nn.sigmoid)))),
        ((6, 5, 4), lambda: Gate(Sequential(conv=Conv(4, 1, use_bias=False), norm=BatchNorm(1), drop=Dropout(0.5)))),
        ((7,), lambda: Gate(Dense(7, 7))),
    ],
    GlobalAvgPool: [((6, 5, 4), lambda: GlobalAvgPool())],
    GlobalMaxPool: [((6, 5, 4), lambda: GlobalMaxPool())],
    GroupNorm: [
        ((6, 5, 32), lambda: GroupNorm(32)),
        ((6, 5, 4), lambda: GroupNorm(4, 2, epsilon=1e-3, use_bias=False)),
        ((6, 5, 4), lambda: GroupNorm(4, 4, use_scale=False)),
    ],
    LayerNorm: [
        ((6, 5, 4), lambda: LayerNorm(4)),
        ((7,), lambda: LayerNorm(7, epsilon=1e-3, use_scale=False)),
        ((6, 5, 4), lambda: LayerNorm((5, 4))),
        ((6, 5, 4), lambda: LayerNorm(4, use_bias=False, scale_init=Initializer(jax.nn.initializers.normal))),
    ],
    LayerScale: [
        ((6, 5, 4), lambda: LayerScale(4)),
        ((7,), lambda: LayerScale(7, init_value=0.5)),
    ],
    MeanOverViews: [
        ((6, 5, 4), lambda: MeanOverViews(Sequential(conv=Conv(4, 6), pool=GlobalAvgPool()))),
        ((6, 5, 4), lambda: MeanOverViews(Sequential(norm=BatchNorm(4), drop=Dropout(0.5)), "mirror-shift")),
    ],
    MaxPool: [
        ((6, 5, 4), lambda: MaxPool()),
        ((6, 5, 4), lambda: MaxPool(3, strides=(2, 1), padding="SAME")),
        ((6, 5, 4), lambda: MaxPool((2, 3), padding=1, ceil_mode=True)),
        ((6, 5, 4), lambda: MaxPool(2, strides=1, padding="SAME_LOWER", dilation=2)),
    ],
    Pad: [
        ((6, 5, 4), lambda: Pad(1)),
        ((6, 5, 4), lambda: Pad(((0, 2), (1, 0)), border="edge")),
        ((6, 5, 4), lambda: Pad(2, border="reflect")),
        ((6, 5, 4), lambda: Pad(((1, 1), (0, 3)), border="circular")),
        ((6, 5, 4), lambda: Pad(1, border=-1.5)),
    ],
    PixelShuffle: [((3, 5, 8), lambda: PixelShuffle(2))],
    PixelUnshuffle: [((6, 9, 2), lambda: PixelUnshuffle(3))],
    Residual: [
        ((6, 5, 4), lambda: Residual(Conv(4, 4))),
        ((6, 5, 4), lambda: Residual(Sequential(conv=Conv(4, 6), drop=DropPath(0.5)), Conv(4, 6, 1), RELU)),
        ((6, 5, 4), lambda: bottleneck_block(4, 8, 2)),
        ((6, 5, 4), lambda: fused_block(4, 4, expansion=2)),
    ],
    Resize: [
        ((6, 5, 4), lambda: Resize(7)),
        ((6, 5, 4), lambda: Resize((3, 9), method="bicubic", antialias=True)),
        ((6, 5, 4), lambda: Resize(scale_factor=(0.5, 1.7), method="nearest-exact")),
    ],
    Sequential: [
        ((6, 5, 4), lambda: Sequential()),
        ((6, 5, 4), lambda: Sequential(conv=Conv(4, 6, use_bias=False), norm=BatchNorm(6), drop=Dropout(0.5))),
        ((6, 5, 4), lambda: Sequential(a=Sequential(a=Conv(4, 6), b=RELU), b=Sequential(), pool=GlobalAvgPool())),
    ],
    StackedConv: [
        ((6, 5, 4), lambda: StackedConv(4, 6, padding=1, height=3)),
        ((6, 5, 4), lambda: StackedConv(4, 6, padding=1, use_bias=False, height=2)),
    ],
    SSD: [
        (
            (9, 8, 4),
            lambda: SSD(
                two_maps(),
                SSDNeck(Function(unit_length), Backbone(Sequential(a=Conv(12, 5), b=Conv(5, 6, 3, 2, 1)), ["a", "b"])),
                ssd_head(3, (8, 5, 6), (4, 6, 4)),
                ((2.0,), (2.0, 3.0), (2.0,)),
                (0.1, 0.2, 0.4, 0.8),
            ),
        ),
    ],
    SSDHead: [(((6, 5, 4), (3, 2, 5)), lambda: ssd_head(3, (4, 5), (4, 6)))],
    SSDNeck: [
        (
            ((6, 5, 4), (3, 2, 5)),
            lambda: SSDNeck(LayerScale(4), Backbone(Sequential(a=Conv(5, 4), b=Conv(4, 6)), ["a", "b"])),
        ),
    ],
    Zip: [
        (((6, 5, 4), (3, 2, 4)), lambda: Zip(a=Conv(4, 6), b=Conv(4, 3, use_bias=False))),
        (((6, 5, 4), (7,)), lambda: Zip(a=Sequential(norm=BatchNorm(4), drop=Dropout(0.5)), b=Dense(7, 3))),
    ],
    AuxiliaryPool: [((18, 17, 4), lambda: AuxiliaryPool())],
    CoarserLevels: [((6, 5, 4), lambda: CoarserLevels(Conv(4, 6, 3, 2, 1), Conv(6, 6, 3, 2, 1)))],
    Detector: [
        (
            (9, 8, 4),
            lambda: Detector(two_maps(), feature_pyramid((8, 12), 4), retinanet_head(3, 4, anchors=1, depth=1)),
        ),
    ],
    FasterRCNN: [((9, 8, 4), lambda: two_stages(FasterRCNN, RegionHead(Dense(5, 4), Dense(5, 16))))],
    MaskHead: [
        (
            {"features": (5, 7), "maps": (2, 4, 4, 3)},
            lambda: MaskHead(RegionHead(Dense(7, 4), Dense(7, 16)), Conv(3, 4, 1)),
        ),
    ],
    MaskRCNN: [
        (
            (9, 8, 4),
            lambda: two_stages(
                MaskRCNN,
                MaskHead(RegionHead(Dense(5, 4), Dense(5, 16)), Conv(3, 4, 1)),
                mask_tower=ConvTranspose(4, 3, 2, 2),
                max_detections=4,
                score_threshold=0.0,
            ),
        ),
    ],
    RCNN: [
        (
            {"image": (9, 8, 3), "proposals": (5, 4), "valid": (5,)},
            lambda: RCNN(
                Sequential(conv=Conv(3, 2, 3), flatten=Flatten()), RegionHead(Dense(50, 4), Dense(50, 16)), 5, 1
            ),
        ),
    ],
    RegionHead: [((5, 7), lambda: RegionHead(Dense(7, 4), Dense(7, 16)))],
    RegionProposals: [
        (
            ((6, 5, 4), (3, 2, 4)),
            lambda: region_proposals(4, ((3.0, 4.0), (6.0, 8.0)), depth=2, activation=TANH),
        ),
    ],
    RegionTower: [
        (
            (3, 2, 5, 4),
            lambda: RegionTower(
                Sequential(conv=StackedConv(4, 3, padding=1, height=2), norm=BatchNorm(3)), Dense(30, 7)
            ),
        ),
    ],
    FCOS: [
        (
            (9, 8, 4),
            lambda: FCOS(
                two_maps(),
                feature_pyramid((8, 12), 4),
                fcos_head(3, 4, depth=1, norm=Partial(GroupNorm, num_groups=2)),
                (1, 2),
            ),
        ),
    ],
    FCOSHead: [
        (((6, 5, 4), (3, 2, 4)), lambda: fcos_head(3, 4, depth=1, norm=Partial(GroupNorm, num_groups=2))),
    ],
    FeaturePyramid: [
        (((9, 8, 4), (5, 4, 6)), lambda: feature_pyramid((4, 6), 5, norm=BatchNorm)),
        (((17, 15, 4), (9, 8, 6)), lambda: feature_pyramid((4, 6), 5, extra_input="backbone")),
    ],
    RetinaNet: [
        (
            (9, 8, 4),
            lambda: RetinaNet(
                two_maps(),
                feature_pyramid((8, 12), 4),
                retinanet_head(3, 4, anchors=2, depth=1, norm=Partial(GroupNorm, num_groups=2)),
                ((4.0,), (8.0,)),
                (0.5, 2.0),
            ),
        ),
    ],
    RetinaNetHead: [(((6, 5, 4), (3, 2, 4)), lambda: retinanet_head(3, 4, anchors=2, depth=1))],
    PathAggregation: [
        (
            ((7, 6, 4), (4, 3, 6), (2, 2, 8)),
            lambda: PathAggregation(
                reduce5=Conv(8, 5, 1),
                merge4=Conv(11, 4, 1),
                reduce4=BatchNorm(4),
                merge3=Conv(8, 3, 1),
                shrink3=Conv(3, 3, 3, 2, 1),
                merge_up4=Conv(7, 2, 1),
                shrink4=Conv(2, 2, 3, 2, 1),
                merge_up5=Conv(7, 4, 1),
            ),
        ),
    ],
    YOLOX: [((9, 8, 4), lambda: YOLOX(two_maps(), identity, one_box_head(8, 12), (1, 2)))],
    YOLOv1: [
        (
            (9, 8, 4),
            lambda: YOLOv1(
                Backbone(Sequential(conv=Conv(4, 3, 3, 4, 1), norm=BatchNorm(3)), ["norm"]),
                identity,
                YOLOv1Head(Dense(18, 5), Dense(5, 6 * 13), 3),
            ),
        ),
    ],
    YOLOv1Head: [(((3, 2, 4),), lambda: YOLOv1Head(Dense(24, 7), Dense(7, 6 * 8), 3, boxes=1))],
    YOLOv3: [
        (
            (9, 8, 4),
            lambda: YOLOv3(
                two_maps(),
                YOLOv3Neck(Conv(12, 4, 1), Conv(4, 3, 1), identity),
                yolov3_head(3, (11, 4), anchors=1),
                (1, 2),
                (((4.0, 4.0),), ((8.0, 9.0),)),
            ),
        ),
    ],
    YOLOv3Head: [(((6, 5, 4), (3, 3, 6)), lambda: yolov3_head(3, (4, 6), anchors=2))],
    YOLOv3Neck: [
        (((6, 5, 4), (3, 3, 6)), lambda: YOLOv3Neck(Conv(6, 4, 1), BatchNorm(4), Conv(8, 2, 1))),
        (
            ((9, 7, 3), (6, 5, 4), (3, 3, 6)),
            lambda: YOLOv3Neck(Conv(6, 4, 1), identity, Conv(8, 2, 1), Conv(2, 2), BatchNorm(5)),
        ),
    ],
    YOLOXHead: [(((6, 5, 4), (3, 3, 6)), lambda: one_box_head(4, 6))],
    CroppedConcat: [((6, 5, 4), lambda: CroppedConcat(Conv(4, 3, (3, 1), padding="VALID")))],
    EveryPixel: [
        ((6, 5, 4), lambda: EveryPixel(Sequential(pool=GlobalAvgPool(), dense=Dense(4, 3, use_bias=False)))),
        ((6, 5, 4), lambda: EveryPixel(Sequential(pool=GlobalAvgPool(), norm=BatchNorm(4)))),
    ],
    Gaussian: [((7,), lambda: Gaussian(7, 3))],
    LiteRASPP: [((9, 8, 4), lambda: lraspp(two_maps(), 3, channels=7))],
    Normalized: [((6, 5, 4), lambda: Normalized(Function(jnp.tanh), Conv(4, 6)))],
    Segmenter: [
        ((9, 8, 4), lambda: fcn(two_maps(), 3)),
        ((9, 8, 4), lambda: deeplabv3(two_maps(), 3, rates=(2,), aux_heads=False)),
    ],
    Subsampling: [((6, 4, 4), lambda: Subsampling(4))],
    TableConv: [
        ((6, 5, 6), lambda: TableConv(6, C3_TABLE)),
        ((6, 5, 3), lambda: TableConv(3, ((2,), (0, 1)))),
    ],
    DeepLabV3PlusDecoder: [
        (
            ((8, 6, 2), (4, 4, 3), (2, 2, 5)),
            lambda: DeepLabV3PlusDecoder(Conv(5, 4), Conv(3, 2), Sequential(norm=BatchNorm(6), conv=Conv(6, 3))),
        ),
    ],
    FPNDecoder: [
        (
            PYRAMID,
            lambda: FPNDecoder(*FPN_LATERALS, *FPN_LEVELS, dropout=Dropout(0.5, whole_channels=True)),
        ),
        (
            PYRAMID,
            lambda: FPNDecoder(*FPN_LATERALS, *FPN_LEVELS, dropout=BatchNorm(12), merge="cat", method="bilinear"),
        ),
    ],
    GridContext: [
        ((6, 5, 4), lambda: GridContext(Conv(4, 3, 1), 1)),
        ((6, 5, 4), lambda: GridContext(Sequential(conv=Conv(4, 3, 1), norm=BatchNorm(3)), 3, align_corners=True)),
    ],
    LinkNetDecoder: [
        (
            PYRAMID[:3],
            lambda: LinkNetDecoder(
                a=ConvTranspose(4, 3, 2, 2),
                b=ConvTranspose(3, 2, 2, 2),
                c=Sequential(norm=BatchNorm(2), drop=Dropout(0.5)),
            ),
        ),
    ],
    OnCoarsest: [(PYRAMID[:2], lambda: OnCoarsest(Sequential(norm=BatchNorm(3), conv=Conv(3, 2))))],
    UPerNetDecoder: [
        (
            PYRAMID[:3],
            lambda: UPerNetDecoder(
                norm0=LayerNorm(3),
                norm1=LayerNorm(4),
                context=GridContext(Conv(4, 2, 1), 2),
                lateral0=Conv(3, 2, 1),
                output0=Dropout(0.5),
                fuse=Sequential(norm=BatchNorm(4), conv=Conv(4, 3)),
            ),
        ),
    ],
    UNetDecoder: [
        (
            ((4, 6, 3), (2, 3, 4)),
            lambda: UNetDecoder(
                center=Conv(4, 4), block0=UpBlock(Conv(7, 2), BatchNorm(2)), block1=UpBlock(Conv(2, 3), Conv(3, 2))
            ),
        ),
    ],
    UNetPlusPlusDecoder: [
        (
            ((8, 4, 2), (4, 2, 3), (2, 1, 5)),
            lambda: UNetPlusPlusDecoder(
                x_0_0=UpBlock(Conv(8, 4), BatchNorm(4)),
                x_0_1=UpBlock(Conv(8, 3), identity),
                x_1_1=UpBlock(Conv(5, 2), identity),
                x_0_2=UpBlock(Conv(3, 3), Dropout(0.5)),
            ),
        ),
    ],
    UpBlock: [
        (((2, 3, 4),), lambda: UpBlock(Conv(4, 3), Conv(3, 2), attention2=Gate(Conv(2, 1)), method="bilinear")),
        (((2, 3, 4), (4, 6, 1)), lambda: UpBlock(Conv(5, 3), BatchNorm(3), attention1=Dropout(0.5))),
    ],
    TwoScaleHead: [(((6, 5, 4), (3, 2, 5)), lambda: TwoScaleHead(Conv(4, 3), Conv(5, 3, 1)))],
    ZeroPadShortcut: [((6, 5, 4), lambda: ZeroPadShortcut(4, 6, 2))],
}

BATCH = 4


class Subject:
    """A layer or model under test, with what several laws need and only one of them should compute."""

    def __init__(self, build, input_shape, is_model, is_deep):
        self.build, self.is_model, self.is_deep, self.traces = build, is_model, is_deep, Counter()
        self.layer = build()
        self.init_key = jax.random.key(0)
        self.params, self.state = self.layer.init(self.init_key)
        # Dicts that no layer is given, so that none can change them.
        self.fresh = copied((self.params, self.state))
        # Distinct values of both signs: ties have no one maximum, and a relu of negative numbers has no gradient.
        draw = np.random.default_rng(0).normal
        self.images = jax.tree.map(
            lambda shape: jnp.asarray(draw(size=(BATCH, *shape)), jnp.float32), input_shape, is_leaf=is_shape
        )
        self.key = jax.random.key(2)
        # As a caller would: the layer is a static argument, so that an equal one finds the compiled program.
        self.step = jax.jit(self._step, static_argnums=0)
        self.forward = jax.jit(self._forward, static_argnums=0, static_argnames="train")

    def _step(self, layer, params, state, images, key):
        self.traces["step"] += 1

        def loss(params):
            outputs, new_state = batched(layer)(params, state, images, train=True, key=key)
            floating = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            # Boxes in pixels are float32 in every computation.
            return sum(weighted(leaf.astype(floating[0].dtype)) for leaf in floating), (outputs, new_state)

        gradients, (outputs, new_state) = jax.grad(loss, has_aux=True)(params)
        return outputs, new_state, gradients

    def _forward(self, layer, params, state, images, key, *, train):
        self.traces["train" if train else "eval"] += 1
        return batched(layer)(params, state, images, train=train, key=key)

    @property
    def holds_layers(self):
        """Whether the layer applies other layers, as models do."""
        return self.is_model or isinstance(self.layer, layers.Composite)

    @functools.cached_property
    def trained(self):
        """Outputs, new state and gradients of a training step."""
        return self.step(self.layer, self.params, self.state, self.images, self.key)

    @property
    def used_state(self):
        """A state other than the initial one, where there is one."""
        return self.trained[1]

    @property
    def mixes_images(self):
        """Whether an image's result in training depends on the others by design."""
        return bool(jax.tree.leaves(self.state)) and any(
            not np.array_equal(new, old)
            for new, old in zip(jax.tree.leaves(self.used_state), jax.tree.leaves(self.state), strict=True)
        )

    def images_of(self, dtype):
        """The images as shapes and a dtype."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), self.images)

    def image(self, i):
        """One of the images."""
        return jax.tree.map(lambda leaf: leaf[i], self.images)

    def results(self, dtype, *, train, key):
        """The outputs and the state for images of a dtype, as shapes and dtypes."""
        images = self.images_of(dtype)
        run = functools.partial(batched(self.layer), train=train)
        return jax.eval_shape(lambda p, s, x, k: run(p, s, x, key=k), self.params, self.state, images, key)


def weighted(outputs):
    """A sum in which no two outputs weigh the same: the plain sum of normalised values does not change at all."""
    weights = np.cos(np.arange(outputs.size)).reshape(outputs.shape)
    return jnp.sum(outputs * jnp.asarray(weights, outputs.dtype))


def is_shape(value):
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)


def copied(tree):
    """Returns new dicts of the same arrays."""
    return jax.tree.map(lambda leaf: leaf, tree)


def small_shape(entry):
    """The shape of an image small enough to be quick, and large enough for the model."""
    size = max(32, entry.min_size)
    return size, size, entry.image_shape[2]


def slowly(group):
    """Marks one of many alike, for `pytest.mark.parametrize`."""
    return [pytest.mark.slow, pytest.mark.heavy(group)]


def subjects():
    for kind, cases in {**LAYERS, **USER_BLOCKS}.items():
        # By default, a small U-Net and a small RetinaNet stand for them.
        is_dense = kind.__module__.startswith(("jaxcnn.models.detection.", "jaxcnn.models.segmentation."))
        marks = slowly(kind.__name__) if is_dense else []
        for i, (shape, build) in enumerate(cases):
            yield pytest.param((build, shape, False, False), id=f"{kind.__name__}-{i}", marks=marks)
    for name, entry in catalog.CATALOG.items():
        # The same model functions with another stem, which the tests of the models look at.
        if name.endswith("_cifar") or name in LARGER:
            continue
        shape = small_shape(entry)
        build = functools.partial(catalog.build, name, 10, shape)
        deep = name in DEEP
        yield pytest.param((build, shape, True, deep), id=name, marks=slowly(name) if deep else [])


@pytest.fixture(scope="module", params=subjects())
def subject(request):
    subject = Subject(*request.param)
    yield subject
    if subject.is_deep:
        jax.clear_caches()  # the programs of all of them together take gigabytes


def assert_close(actual, expected, tolerance=1e-4):
    """Compares trees of arrays; the largest value of each array sets the scale."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        want = np.asarray(want, np.float64)
        np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance * (np.abs(want).max() + 1e-6))


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)


def kinds(tree):
    """The shape and dtype of every leaf, and whether it is weakly typed, which would make a jitted step trace again."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_a_compiled_batch_gives_what_a_plain_loop_over_its_images_gives(subject, train):
    if train and subject.mixes_images:
        pytest.skip("does not apply: in training, batch norm makes each image depend on the others: see the next law")
    state, keys = subject.used_state, jax.random.split(subject.key, BATCH)
    outputs, _ = subject.forward(subject.layer, subject.params, state, subject.images, subject.key, train=train)
    apply = functools.partial(subject.layer.apply, train=train)
    # Op by op, every op is a program of its own. What holds layers compiles each image: these are in the table, too.
    apply = jax.jit(apply) if subject.holds_layers else apply
    loop = [apply(subject.params, state, subject.image(i), key=key)[0] for i, key in enumerate(keys)]
    assert_close(outputs, jax.tree.map(lambda *leaves: np.stack(leaves), *loop))


def test_jit_changes_nothing_where_images_depend_on_each_other(subject):
    if subject.holds_layers or not subject.mixes_images:
        pytest.skip("does not apply: compared image by image by the law above, in evaluation at least")
    call = functools.partial(batched(subject.layer), train=True)
    eager = call(subject.params, subject.used_state, subject.images, key=subject.key)
    jitted = jax.jit(call)(subject.params, subject.used_state, subject.images, key=subject.key)
    assert_close(jitted, eager)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_apply_is_pure(subject, train):
    if train and subject.is_model and subject.mixes_images:
        pytest.skip("does not apply: the parts of the model are layers of the table")
    if train and subject.mixes_images:
        run, x = functools.partial(batched(subject.layer), train=True), subject.images
    else:
        run, x = functools.partial(subject.layer.apply, train=train), subject.image(0)
    # Fresh ones, since the laws before this one may have left their traces in the others.
    arguments = (*copied(subject.fresh), x)
    before, values = copied(arguments), jax.tree.map(np.array, arguments)
    if subject.holds_layers:
        # Traced on the very trees, for the same reason as above, and run as compiled.
        jax.eval_shape(lambda: run(*arguments, key=subject.key))
        compiled = functools.partial(subject.forward, subject.layer, subject.params, subject.state, subject.images)
        first, second = compiled(subject.key, train=train), compiled(subject.key, train=train)
    else:
        first, second = run(*arguments, key=subject.key), run(*arguments, key=subject.key)
    assert jax.tree.structure(arguments) == jax.tree.structure(before)
    assert all(now is then for now, then in zip(jax.tree.leaves(arguments), jax.tree.leaves(before), strict=True))
    assert_same(arguments, values)
    assert_same(first, second)


def test_init_is_pure(subject):
    assert_same(subject.layer.init(subject.init_key), (subject.params, subject.state))


def test_what_init_draws_is_known_without_drawing(subject):
    assert kinds(structure(subject.layer)) == kinds((subject.params, subject.state))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_state_keeps_its_names_shapes_and_dtypes(subject, dtype):
    _, new_state = subject.results(dtype, train=True, key=subject.key)
    assert kinds(new_state) == kinds(subject.state)


def test_evaluation_returns_the_state_unchanged(subject):
    _, state = subject.forward(
        subject.layer, subject.params, subject.used_state, subject.images, subject.key, train=False
    )
    assert_same(state, subject.used_state)


def test_evaluation_ignores_batch_mates_and_key(subject):
    forward = functools.partial(subject.forward, subject.layer, subject.params, subject.used_state, train=False)
    outputs, _ = forward(subject.images, subject.key)
    others = jax.tree.map(lambda leaf: leaf.at[1:].multiply(-3.0).at[1:].add(5.0), subject.images)
    changed, _ = forward(others, jax.random.key(9))
    assert_same(*(jax.tree.map(lambda leaf: leaf[0], tree) for tree in (changed, outputs)))


def test_equal_constructions_are_equal_and_hash_equal(subject):
    again = subject.build()
    assert again is not subject.layer
    assert again == subject.layer
    assert hash(again) == hash(subject.layer)


def test_repr_is_the_constructor(subject):
    names = {name: getattr(layers, name) for name in layers.__all__}
    names |= {kind.__name__: kind for kind in (*model_layers(), *USER_BLOCKS)}
    again = eval(repr(subject.layer), {"jax": jax, "jaxcnn": jaxcnn, **names})
    assert again == subject.layer
    assert hash(again) == hash(subject.layer)


def test_it_is_a_frozen_layer_value(subject):
    assert isinstance(subject.layer, jaxcnn.Layer)
    for field in dataclasses.fields(subject.layer):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(subject.layer, field.name, None)


def test_no_two_leaves_share_an_array(subject):
    leaves = jax.tree.leaves((subject.params, subject.state))
    assert len({id(leaf) for leaf in leaves}) == len(leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_leaves_are_float32_arrays(subject):
    for leaf in jax.tree.leaves((subject.params, subject.state)):
        assert isinstance(leaf, jax.Array)
        assert (leaf.dtype, leaf.weak_type) == (jnp.float32, False)


def test_params_and_state_have_the_same_nesting(subject):
    def nesting(tree):
        return {name: nesting(inner) for name, inner in tree.items() if isinstance(inner, dict)}

    assert nesting(subject.params) == nesting(subject.state)


def test_the_gradient_is_finite_and_reaches_every_parameter_that_is_not_frozen(subject):
    _, _, gradients = subject.trained
    assert kinds(gradients) == kinds(subject.params)
    is_frozen = isinstance(subject.layer, Frozen)
    for name, gradient in jaxcnn.trees.named_leaves(gradients).items():
        assert np.isfinite(gradient).all(), name
        # A unit of a deep network may be dead; a single layer has no excuse.
        reached = np.asarray(gradient) != 0
        assert not reached.any() if is_frozen else (np.any if subject.is_model else np.all)(reached), name


def test_a_second_call_does_not_retrace(subject):
    for layer, state in ((subject.layer, subject.state), (subject.build(), subject.used_state)):
        subject.step(layer, subject.params, state, subject.images, subject.key)
        subject.forward(layer, subject.params, state, subject.images, subject.key, train=False)
    assert (subject.traces["step"], subject.traces["eval"]) == (1, 1)


def test_no_layer_relies_on_promotion_of_ranks(subject):
    with jax.numpy_rank_promotion("raise"):
        # In bfloat16, which is computed as float32 is, with casts of the parameters on top.
        operands = (subject.params, subject.state, subject.images_of(jnp.bfloat16), subject.key)
        jax.eval_shape(functools.partial(subject._step, subject.layer), *operands)
        jax.eval_shape(functools.partial(subject._forward, subject.layer, train=False), *operands)


def test_bfloat16_in_gives_bfloat16_out(subject):
    for train, key in ((False, None), (True, subject.key)):
        outputs, _ = subject.results(jnp.bfloat16, train=train, key=key)
        if isinstance(subject.layer, FasterRCNN):
            # In pixels, which need more than eight bits, and in slots.
            assert (outputs.pop("proposals").dtype, outputs.pop("valid").dtype) == (jnp.float32, jnp.bool_)
            assert outputs.pop("detections", {"boxes": jnp.zeros(1)})["boxes"].dtype == jnp.float32
        assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(outputs))


def test_bfloat16_computes_the_same_up_to_its_precision(subject):
    if subject.is_model:
        pytest.skip("does not apply: rounding adds up with the depth; the parts are layers of the table")
    if isinstance(subject.layer, FasterRCNN):
        pytest.skip("does not apply: rounding changes the order of the proposals; the parts are layers of the table")
    run = functools.partial(subject.forward, subject.layer, subject.params, subject.used_state, train=True)
    # Rounded before, so that both see the same numbers.
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), subject.images)
    as_float32 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)
    assert_close(run(rounded, subject.key), run(as_float32, subject.key), 0.03)


def test_init_maps_over_keys(subject):
    keys = jax.random.split(jax.random.key(3), 2)
    ensemble = jax.eval_shape(jax.vmap(subject.layer.init), keys)
    assert kinds(ensemble) == jax.tree.map(
        lambda leaf: ((2, *leaf.shape), leaf.dtype, leaf.weak_type), (subject.params, subject.state)
    )


def test_other_options_make_another_layer():
    built = [build() for cases in LAYERS.values() for _, build in cases]
    assert len(set(built)) == len(built)


@pytest.mark.slow
def test_no_two_models_of_the_catalog_are_equal():
    assert len({catalog.build(name, 10, small_shape(e)) for name, e in catalog.CATALOG.items()}) == len(catalog.CATALOG)


# Every layer of the table, and every model of the catalog; nothing is drawn.
BUILDS = [
    *(
        pytest.param(build, id=f"{kind.__name__}-{i}")
        for kind, cases in LAYERS.items()
        for i, (_, build) in enumerate(cases)
    ),
    *(
        pytest.param(
            functools.partial(catalog.build, name, 10, entry.image_shape),
            id=name,
            marks=slowly(name) if name in LARGER else [],
        )
        for name, entry in catalog.CATALOG.items()
    ),
]


@pytest.mark.parametrize("build", BUILDS)
def test_copies_and_pickles_are_equal(build):
    value = build()
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), copy.copy(value)):
        assert again == value
        assert (hash(again), repr(again)) == (hash(value), repr(value))


def in_numpy(value):
    """The same with NumPy's numbers in the place of Python's."""
    kinds = {bool: np.bool_, int: np.int64, float: np.float64}
    if type(value) is tuple:
        return tuple(map(in_numpy, value))
    return kinds[type(value)](value) if type(value) in kinds else value


@pytest.mark.parametrize("build", BUILDS)
def test_layers_made_with_numbers_of_numpy_hold_those_of_python(build):
    value = build()
    if isinstance(value, Partial):
        again = type(value)(value.function, **{name: in_numpy(option) for name, option in value.options})
    elif isinstance(build, functools.partial):
        name, num_classes, shape = build.args
        again = catalog.build(name, in_numpy(num_classes), in_numpy(shape))
    elif hasattr(value, "layers"):
        again = value.replace(**dict(value.layers))
    else:
        again = type(value)(*(in_numpy(getattr(value, field.name)) for field in dataclasses.fields(value)))
    assert (again, repr(again)) == (value, repr(value))


def is_layer_class(value):
    return inspect.isclass(value) and callable(getattr(value, "init", None)) and callable(getattr(value, "apply", None))


def model_layers():
    """Finds the layers that models bring along."""
    for module in pkgutil.walk_packages(models.__path__, "jaxcnn.models."):
        for value in vars(importlib.import_module(module.name)).values():
            if is_layer_class(value) and value.__module__ == module.name:
                yield value


def test_every_layer_is_under_test():
    public = {value for value in (getattr(layers, name) for name in layers.__all__) if is_layer_class(value)}
    assert set(LAYERS) == (public - {layers.Composite}) | set(model_layers())
    assert all(isinstance(build(), kind) for kind, cases in LAYERS.items() for _, build in cases)


def options_of(function):
    """Lists the names of a function's parameters, and those of the TypedDict that annotates its **options."""
    names = set()
    for name, parameter in inspect.signature(function).parameters.items():
        unpacked = parameter.kind is inspect.Parameter.VAR_KEYWORD
        names |= set(parameter.annotation.__args__[0].__annotations__) if unpacked else {name}
    return names


def test_every_model_is_in_the_catalog():
    takes_depth = {"cifar_resnet", "wide_resnet"}
    takes_proposals = {"rcnn", "small_rcnn"}
    functions = set()
    for name, entry in catalog.CATALOG.items():
        function = entry.build.function if isinstance(entry.build, Partial) else entry.build
        functions.add(function.__name__)
        assert function is getattr(models, function.__name__)
        if name.endswith("_cifar"):
            assert entry.build == Partial(getattr(models, name.removesuffix("_cifar")), stem="cifar")
        elif isinstance(entry.build, Partial):
            assert name == f"{function.__name__.removeprefix('encoder_')}_{dict(entry.build.options)['encoder']}"
        else:
            assert name == function.__name__
        assert set(entry.takes) == {"in_channels", "image_size"} & options_of(function)
    assert functions == set(models.__all__) - takes_depth - takes_proposals
    assert set(catalog.CATALOG) >= DEEP | LARGER
