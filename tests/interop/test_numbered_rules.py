"""Names of MobileNets and EfficientNets at the sources, as their own code makes them."""

import pytest

from jaxcnn.interop import conversion
from jaxcnn.interop.records import RECORDS
from jaxcnn.models import mobilenet_v3_small

NAMES = {
    "torchvision/mobilenet_v2": {
        "stem/norm/var": "features.0.1.running_var",
        "stage1/block0/depthwise/conv/kernel": "features.1.conv.0.0.weight",
        "stage1/block0/project/conv/kernel": "features.1.conv.1.weight",
        "stage3/block2/depthwise/norm/scale": "features.6.conv.1.1.weight",
        "stage3/block2/project/norm/bias": "features.6.conv.3.bias",
        "last/conv/kernel": "features.18.0.weight",
        "head/kernel": "classifier.1.weight",
    },
    "torchvision/mobilenet_v3_small": {
        "stage1/block0/project/conv/kernel": "features.1.block.2.0.weight",
        "stage3/block0/squeeze_excite/reduce/bias": "features.4.block.2.fc1.bias",
        "stage3/block0/squeeze_excite/expand/kernel": "features.4.block.2.fc2.weight",
        "last/norm/mean": "features.12.1.running_mean",
        "dense/kernel": "classifier.0.weight",
    },
    "torchvision/efficientnet_v2_s": {
        "stage1/block1/project/conv/kernel": "features.1.1.block.0.0.weight",
        "stage2/block0/project/norm/scale": "features.2.0.block.1.1.weight",
        "last/conv/kernel": "features.7.0.weight",
    },
    "timm/mobilenetv3_small_100": {
        "stage1/block0/project/norm/scale": "blocks.0.0.bn2.weight",
        "stage2/block1/expand/conv/kernel": "blocks.1.1.conv_pw.weight",
        "stage3/block0/squeeze_excite/reduce/kernel": "blocks.2.0.se.conv_reduce.weight",
        "last/conv/kernel": "blocks.5.0.conv.weight",
        "dense/bias": "conv_head.bias",
    },
    "timm/tf_efficientnetv2_s": {
        "stage1/block1/project/norm/scale": "blocks.0.1.bn1.weight",
        "stage2/block0/expand/conv/kernel": "blocks.1.0.conv_exp.weight",
        "stage2/block0/project/conv/kernel": "blocks.1.0.conv_pwl.weight",
        "stage4/block0/project/norm/bias": "blocks.3.0.bn3.bias",
        "last/norm/scale": "bn2.weight",
    },
    "keras/MobileNet": {
        "stage2/block1/depthwise/conv/kernel": "conv_dw_3/kernel",
        "stage5/block1/pointwise/norm/bias": "conv_pw_13_bn/beta",
        "head/bias": "conv_preds/bias",
    },
    "keras/MobileNetV2": {
        "stage1/block0/project/norm/mean": "expanded_conv_project_BN/moving_mean",
        "stage7/block0/expand/conv/kernel": "block_16_expand/kernel",
        "last/norm/var": "Conv_1_bn/moving_variance",
    },
    "keras/MobileNetV3Large": {
        "stage1/block0/depthwise/norm/scale": "expanded_conv_depthwise_bn/gamma",
        "stage6/block2/squeeze_excite/expand/kernel": "expanded_conv_14_squeeze_excite_conv_1/kernel",
        "head/kernel": "logits/kernel",
    },
    "keras/EfficientNetB4": {
        "stage5/block5/depthwise/conv/kernel": "block5f_dwconv/kernel",
        "stage5/block5/depthwise/norm/bias": "block5f_bn/beta",
        "stage2/block0/squeeze_excite/reduce/bias": "block2a_se_reduce/bias",
    },
    "keras/EfficientNetV2S": {
        "stage6/block14/depthwise/conv/kernel": "block6o_dwconv2/kernel",
        "stage1/block1/project/conv/kernel": "block1b_project_conv/kernel",
    },
    "keras/Xception": {
        "entry/block0/shortcut/conv/kernel": "conv2d_0/kernel",
        "exit/block0/shortcut/norm/scale": "batch_normalization_3/gamma",
        "middle/block7/conv3/depthwise/kernel": "block12_sepconv3/depthwise_kernel",
        "exit/conv2/pointwise/kernel": "block14_sepconv2/pointwise_kernel",
    },
}
by_name = {record.name: record for record in RECORDS}


@pytest.mark.parametrize("name", NAMES)
def test_leaves_are_named_as_at_the_source(name):
    record = by_name[name]
    found = {"/".join(target.keys): array for array, target in conversion.targets(record, record.build()).items()}
    assert {path: found[path] for path in NAMES[name]} == NAMES[name]


@pytest.mark.parametrize(
    ("architecture", "old", "new"),
    [
        ("MobileNetV3Small", "Conv/kernel", "conv/kernel"),
        ("MobileNetV3Small", "Conv/BatchNorm/gamma", "conv_bn/gamma"),
        ("MobileNetV3Small", "expanded_conv/depthwise/depthwise_kernel", "expanded_conv_depthwise/kernel"),
        ("MobileNetV3Small", "expanded_conv_3/expand/kernel", "expanded_conv_3_expand/kernel"),
        ("MobileNetV3Small", "expanded_conv_3/project/BatchNorm/beta", "expanded_conv_3_project_bn/beta"),
        ("MobileNetV3Small", "expanded_conv/squeeze_excite/Conv/bias", "expanded_conv_squeeze_excite_conv/bias"),
        (
            "MobileNetV3Small",
            "expanded_conv_9/squeeze_excite/Conv_1/kernel",
            "expanded_conv_9_squeeze_excite_conv_1/kernel",
        ),
        ("MobileNetV3Small", "Conv_1/BatchNorm/moving_mean", "conv_1_bn/moving_mean"),
        ("MobileNetV3Small", "Conv_2/bias", "conv_2/bias"),
        ("MobileNetV3Small", "Logits/bias", "logits/bias"),
        ("MobileNetV2", "Logits/kernel", "predictions/kernel"),
        ("MobileNetV2", "block_1_depthwise/depthwise_kernel", "block_1_depthwise/kernel"),
        ("MobileNet", "conv_dw_1/depthwise_kernel", "conv_dw_1/kernel"),
        ("EfficientNetB0", "block1a_dwconv/depthwise_kernel", "block1a_dwconv/kernel"),
    ],
)
def test_names_of_older_keras_are_todays(architecture, old, new):
    record = by_name[f"keras/{architecture}"]
    assert record.rewritten(old) == new
    assert new in conversion.targets(record, record.build())


def test_layers_that_keras_counts_through_a_session_are_told_apart_by_their_order():
    record = by_name["keras/Xception"]
    names = {
        *(f"conv2d_{number}/kernel" for number in (9, 10, 11, 12)),
        *(f"batch_normalization_{number}/gamma" for number in (99, 100, 101, 102)),
        "block1_conv1/kernel",
    }
    assert record.renumbered(names) == {
        "conv2d_9/kernel": "conv2d_0/kernel",
        "conv2d_10/kernel": "conv2d_1/kernel",
        "conv2d_11/kernel": "conv2d_2/kernel",
        "conv2d_12/kernel": "conv2d_3/kernel",
        "batch_normalization_99/gamma": "batch_normalization_0/gamma",
        "batch_normalization_100/gamma": "batch_normalization_1/gamma",
        "batch_normalization_101/gamma": "batch_normalization_2/gamma",
        "batch_normalization_102/gamma": "batch_normalization_3/gamma",
        "block1_conv1/kernel": "block1_conv1/kernel",
    }
    fresh = ("conv2d/kernel", "conv2d_1/kernel", "conv2d_2/kernel", "conv2d_3/kernel")
    assert record.renumbered(fresh) == {name: f"conv2d_{i}/kernel" for i, name in enumerate(fresh)}


def test_a_path_without_a_rule_is_refused():
    record = by_name["torchvision/mobilenet_v3_small"]
    layer = mobilenet_v3_small()["head"]
    with pytest.raises(KeyError, match="no rule of torchvision names the layer 'neck'"):
        record.names("neck", layer, "kernel")
