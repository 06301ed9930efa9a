"""Estimates the data-parallel training of ResNet-50 and ConvNeXt-T on 8 to 4,096 accelerators, on paper.

No accelerator is measured: the figures follow from the assumptions in `Cluster` and from the parameters and
multiply-adds that jaxcnn counts. A step is the time of the computation, and the part of the all-reduce of the gradients
that does not fit under the backward pass. The all-reduce is hierarchical: within a host, then between hosts, each a
ring (2 (n - 1) / n of the bytes; Patarasuk and Yuan 2009), with one latency for each of the 2 (n - 1) messages of a
ring, or for the 2 log2(n) of a tree, whichever is quicker. Writes experiments/results/scaling_estimate.json,
and the table in docs/scale.md.

    python experiments/scaling_estimate.py
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from reports import write_report

from jaxcnn import models
from jaxcnn.files import write_text
from jaxcnn.layers import count_parameters, multiply_adds

ACCELERATORS = (8, 64, 512, 4096)

_HEADINGS = (
    "| | accelerators | batch | compute, ms | all-reduce, ms | efficiency | images/s | input of a host, GB/s "
    "| checkpoint, s | 90 epochs of ImageNet, min |"
)
_RULE = f"|---|{'---:|' * 9}"
_START, _END = "<!-- scaling: start -->", "<!-- scaling: end -->"

MODELS = {"resnet50": models.resnet50, "convnext_tiny": models.convnext_tiny}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The assumptions. Rates are those of a cluster of A100s, as the data sheets give them."""

    peak_flops: float = 312e12
    """bfloat16 operations per second of an accelerator."""
    utilisation: float = 0.19
    """Share of them that a convolutional network reaches: 2,470 images per second of ResNet-50, which NVIDIA's
    DeepLearningExamples publish for one A100 in mixed precision."""
    per_host: int = 8
    within_host: float = 300e9
    """Bytes per second and direction between the accelerators of a host."""
    between_hosts: float = 25e9
    """Bytes per second and direction of each accelerator to the network."""
    latency: float = 10e-6
    """Seconds of a message."""
    overlap: float = 2 / 3
    """Share of the computation, the backward pass, that hides an exchange."""
    images: int = 256
    """Most images of each accelerator in a step."""
    largest_batch: int = 32768
    """Most images in a step: ResNet-50 keeps its accuracy up to here (You et al. 2018)."""
    image_bytes: float = 110e3
    """Bytes of an encoded picture of ImageNet."""
    storage: float = 2e9
    """Bytes per second of the one process that writes a checkpoint."""


def estimate(parameters: int, adds: int, accelerators: int, cluster: Cluster) -> dict[str, float]:
    """Estimates a step of training.

    Args:
      parameters: number of trained numbers.
      adds: multiply-adds of the forward pass of one image.
      accelerators: number of accelerators.
      cluster: the assumptions.

    Returns:
      Seconds, bytes and shares by name; the efficiency is the share of the rate of as many accelerators without any
      exchange.
    """
    # Two operations for a multiply-add; the backward pass costs twice the forward pass.
    images = min(cluster.images, cluster.largest_batch // accelerators)
    compute = 3 * 2 * adds * images / (cluster.peak_flops * cluster.utilisation)
    bytes_ = 4 * parameters
    inner = min(accelerators, cluster.per_host)
    outer = accelerators // inner
    # Within a host, each accelerator ends with its part of the sum, and exchanges only this part between hosts.
    exchange = _all_reduce(bytes_, inner, cluster.within_host, cluster.latency)
    exchange += _all_reduce(bytes_ / inner, outer, cluster.between_hosts, cluster.latency)
    step = compute + max(exchange - cluster.overlap * compute, 0.0)
    rate = accelerators * images / step
    return {
        "batch": accelerators * images,
        "compute_seconds": compute,
        "all_reduce_bytes": bytes_,
        "all_reduce_seconds": exchange,
        "step_seconds": step,
        "efficiency": compute / step,
        "images_per_second": rate,
        "input_bytes_per_second_and_host": rate / outer * cluster.image_bytes,
        # Parameters, momentum and the parameters of the best epoch, float32.
        "checkpoint_seconds": 3 * bytes_ / cluster.storage,
        "imagenet_90_epochs_minutes": 90 * 1281167 / rate / 60,
    }


def _all_reduce(bytes_: float, count: int, rate: float, latency: float) -> float:
    if count == 1:
        return 0.0
    messages = min(2 * (count - 1), 2 * math.ceil(math.log2(count)))
    return 2 * (count - 1) / count * bytes_ / rate + messages * latency


def main() -> None:
    """Estimates all cases, and prints and writes them."""
    cluster, found, lines = Cluster(), {}, [_HEADINGS, _RULE]
    for name, build in MODELS.items():
        model: Any = build(1000)
        parameters, adds = count_parameters(model), multiply_adds(model, (224, 224, 3))
        found[name] = {
            "parameters": parameters,
            "multiply_adds": adds,
            "estimates": {count: estimate(parameters, adds, count, cluster) for count in ACCELERATORS},
        }
        for count, row in found[name]["estimates"].items():
            lines.append(
                f"| {name} | {count:,} | {row['batch']:,} | {1e3 * row['compute_seconds']:.1f} | "
                f"{1e3 * row['all_reduce_seconds']:.2f} | {row['efficiency']:.1%} | {row['images_per_second']:,.0f} | "
                f"{row['input_bytes_per_second_and_host'] / 1e9:.1f} | {row['checkpoint_seconds']:.2f} | "
                f"{row['imagenet_90_epochs_minutes']:,.1f} |"
            )
    page = Path(__file__).parents[1] / "docs" / "scale.md"
    before, _, rest = page.read_text().partition(_START)
    write_text(page, "\n".join([before + _START, *lines, _END + rest.partition(_END)[2]]))
    print(write_report(__file__, {"assumptions": dataclasses.asdict(cluster), "models": found}))


if __name__ == "__main__":
    main()
