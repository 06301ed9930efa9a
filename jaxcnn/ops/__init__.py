"""Array functions on one image: no parameter trees, no hyper-parameter objects.

An image is (height, width, channels), floating point; a kernel is (height, width, in_channels / groups, out_channels).
Boxes are (boxes, 4): left, top, right and bottom edge, in pixels; see `jaxcnn.ops.boxes`. Map the functions over a
batch with `jax.vmap`. Convolution and pooling of sequences (1-D) and volumes (3-D) are out of scope: a sequence is an
image of height 1, for volumes use `jax.lax`.
"""

from jaxcnn.ops.activation import gelu
from jaxcnn.ops.anchors import GridPoints, anchor_boxes, default_boxes, default_scales, grid_points
from jaxcnn.ops.arithmetic import (
    compose_kernels,
    conv_output_size,
    conv_transpose_output_size,
    padding_sides,
    pool_output_size,
)
from jaxcnn.ops.box_coding import (
    decode_deltas,
    decode_distances,
    decode_yolox,
    encode_deltas,
    encode_distances,
    encode_yolox,
)
from jaxcnn.ops.boxes import (
    aligned_iou,
    box_area,
    clip_boxes,
    convert_boxes,
    denormalize_boxes,
    normalize_boxes,
    pairwise_iou,
)
from jaxcnn.ops.channels import channel_shuffle, channel_slice, pixel_shuffle, pixel_unshuffle
from jaxcnn.ops.convolution import conv, conv_transpose, pad
from jaxcnn.ops.linear import dense
from jaxcnn.ops.matching import (
    BACKGROUND,
    IGNORED,
    Assignment,
    Sample,
    match_atss,
    match_by_iou,
    match_fcos,
    match_simota,
    match_ssd,
    match_task_aligned,
    sample_balanced,
)
from jaxcnn.ops.norm import (
    batch_count,
    batch_moments,
    group_norm,
    layer_norm,
    local_response_norm,
    normalize,
)
from jaxcnn.ops.pool import (
    adaptive_avg_pool,
    adaptive_max_pool,
    adaptive_max_pool_with_indices,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_with_indices,
    max_unpool,
)
from jaxcnn.ops.regions import pyramid_roi_align, roi_align
from jaxcnn.ops.regularize import drop_path, dropout
from jaxcnn.ops.resizing import resize
from jaxcnn.ops.suppression import Kept, Pairs, nms, top_pairs

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Assignment",
    "GridPoints",
    "Kept",
    "Pairs",
    "Sample",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "adaptive_max_pool_with_indices",
    "aligned_iou",
    "anchor_boxes",
    "avg_pool",
    "batch_count",
    "batch_moments",
    "box_area",
    "channel_shuffle",
    "channel_slice",
    "clip_boxes",
    "compose_kernels",
    "conv",
    "conv_output_size",
    "conv_transpose",
    "conv_transpose_output_size",
    "convert_boxes",
    "decode_deltas",
    "decode_distances",
    "decode_yolox",
    "default_boxes",
    "default_scales",
    "denormalize_boxes",
    "dense",
    "drop_path",
    "dropout",
    "encode_deltas",
    "encode_distances",
    "encode_yolox",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "grid_points",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "match_atss",
    "match_by_iou",
    "match_fcos",
    "match_simota",
    "match_ssd",
    "match_task_aligned",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "nms",
    "normalize",
    "normalize_boxes",
    "pad",
    "padding_sides",
    "pairwise_iou",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pool_output_size",
    "pyramid_roi_align",
    "resize",
    "roi_align",
    "sample_balanced",
    "top_pairs",
]
