"""Peak arithmetic of known accelerators, for model FLOP utilisation (Chowdhery et al. 2022, appendix B).

Dense peaks, without sparsity, of one device. "float32" is what XLA computes float32 convolutions in by default: TF32 on
NVIDIA's Ampere and later, plain float32 before. On TPU it depends on the chosen matrix precision, so no peak is given.

Sources: NVIDIA's data sheets of V100 (SXM2), T4, A100, L4, H100 (SXM5 and PCIe) and H200, whose tensor core numbers are
halved where they are given with sparsity; "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" in
https://cloud.google.com/tpu/docs/system-architecture-tpu-vm.
"""

PEAKS: dict[str, dict[str, float]] = {
    "V100-SXM2": {"float32": 15.7e12},
    "Tesla T4": {"float32": 8.1e12},
    "A100": {"float32": 156e12, "bfloat16": 312e12},
    "NVIDIA L4": {"float32": 60e12, "bfloat16": 121e12},
    "H100 PCIe": {"float32": 378e12, "bfloat16": 756e12},
    "H100 80GB HBM3": {"float32": 495e12, "bfloat16": 989e12},
    "NVIDIA H200": {"float32": 495e12, "bfloat16": 989e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5e": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
    "TPU v6e": {"bfloat16": 918e12},
}
"""FLOP/s by dtype, by a part of the name of the device (`jax.Device.device_kind`); the first match counts."""


def peak_flops(device_kind: str, precision: str) -> float | None:
    """Looks up the peak of a device.

    Args:
      device_kind: its name, as JAX or CUDA reports it.
      precision: "float32" or "bfloat16".

    Returns:
      FLOP/s of one device; None if unknown.
    """
    for name, peaks in PEAKS.items():
        # "NVIDIA L4" must not match an L40.
        if name in device_kind and not device_kind.partition(name)[2][:1].isalnum():
            return peaks.get(precision)
    return None


def step_flops(multiply_adds: int, batch_size: int, mode: str) -> int:
    """Counts the floating-point operations of a step by the model's arithmetic, not by the executed operations.

    Args:
      multiply_adds: of the forward pass on one image (`jaxcnn.layers.multiply_adds`).
      batch_size: images in a step.
      mode: "train" or "infer".

    Returns:
      Two for each multiply-add and image, three times that in training: the gradients with respect to inputs and
      kernels cost as much as the forward pass each.
    """
    return 2 * multiply_adds * batch_size * (3 if mode == "train" else 1)
