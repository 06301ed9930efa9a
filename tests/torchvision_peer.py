"""Makes torchvision and timm importable beside a CPU build of torch, and fills their models with weights worth testing.

Import it before `torchvision` or `timm`; where one of them is missing, the test module that does so is skipped.
"""

import importlib.util
import sys

import numpy as np
import pytest

from jaxcnn.benchmark.loading import import_torchvision

torch = pytest.importorskip("torch")
nn = torch.nn


def _nms(boxes, scores, iou_threshold):
    """Greedy suppression, box by box."""
    order, kept = torch.argsort(scores, descending=True, stable=True).tolist(), []
    overlaps = sys.modules["torchvision.ops.boxes"].box_iou(boxes, boxes)
    for i in order:
        if all(overlaps[i, j] <= iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)
torchvision = import_torchvision()
if not torchvision.extension._has_ops():
    # Its detectors call `nms` and a pooling of regions: here in plain torch, without compiling it.
    torch.library.impl("torchvision::nms", "CPU", _nms)
    torchvision.ops.boxes._assert_has_ops = lambda: None
    # The function `roi_align` hides the module.
    pooling = sys.modules["torchvision.ops.roi_align"]
    pooling._roi_align = getattr(pooling._roi_align, "__wrapped__", pooling._roi_align)
timm = pytest.importorskip("timm")

SMALLEST_VARIANCE = 1e-3


def calibrate(module, images, seed):
    """Fills a torch module with random weights under which activations keep their size and every mistake shows.

    Kernels are normal with variance 2 / fan_in, biases small, other parameters (scales) between 1/2 and 3/2. Batch-norm
    moments are near those that `images` have at that place, so that activations neither vanish nor grow with depth, as
    they do where moments are drawn blindly: beside logits of 1e14 a missing bias does not show. In a quarter of the
    channels the running variance lies around epsilon, from a tenth to ten times, and the scale makes up for it: there
    an epsilon of 1.001e-5 for 1e-5 changes the output by up to 5e-4 of its size.

    Args:
      module: any torch module; it is left in evaluation mode.
      images: what the module takes, such as shape (batch, 3, height, width), in its dtype; at least two, of
        standard deviation near one.
      seed: other seeds give other weights.

    Returns:
      The module.
    """
    rng = np.random.default_rng(seed)

    def fill(tensor, values):
        tensor.copy_(torch.from_numpy(np.asarray(values)))

    def draw_moments(norm, inputs):
        (x,) = inputs
        channels = x.transpose(0, 1).flatten(1).double()
        mean, var = channels.mean(1).numpy(), channels.var(1).numpy().clip(SMALLEST_VARIANCE)
        running_var = var * rng.uniform(0.8, 1.25, var.shape)
        if norm.affine:
            near_eps = rng.permutation(len(var)) < len(var) // 4
            running_var = np.where(near_eps, norm.eps * 10 ** rng.uniform(-1, 1, var.shape), running_var)
            fill(norm.weight, rng.uniform(0.5, 1.5, var.shape) * np.sqrt((running_var + norm.eps) / var))
        fill(norm.running_mean, mean + 0.1 * np.sqrt(var) * rng.normal(size=mean.shape))
        fill(norm.running_var, running_var)

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            shape = tuple(parameter.shape)
            if name.endswith("bias"):
                fill(parameter, 0.1 * rng.normal(size=shape))
            elif name.endswith("weight") and len(shape) > 1:
                fill(parameter, rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:])))
            else:
                fill(parameter, rng.uniform(0.5, 1.5, shape))
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        hooks = [norm.register_forward_pre_hook(draw_moments) for norm in norms]
        module.eval()(images)
        for hook in hooks:
            hook.remove()
    return module


class HardSigmoid(nn.Module):
    """torch's own holds 1/6 in float32, so that its gradient is off by 3e-8."""

    def forward(self, x):
        return nn.functional.relu6(x + 3) / 6


def with_exact_hard_sigmoid(module):
    """Replaces the gates of the squeeze-and-excitation blocks of a MobileNet; returns the module."""
    for part in module.modules():
        if hasattr(part, "scale_activation"):
            part.scale_activation = HardSigmoid()
    return module
