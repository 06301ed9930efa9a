"""Measures the first use of a program: parameters, gradients per image, gradients of max pooling.

Each case runs in separate processes. `init` of two models: seconds from the call to the result, with compilation.
`vmap(grad)` of a convolution for several numbers of images, and the gradient of a global max pooling for several image
sizes: seconds of compilation.

    python experiments/compile_times.py
"""

import json
import platform
import statistics
import subprocess
import sys

from reports import write_report

REPEATS = 5

_PRELUDE = """
import json, sys, time
import jax, jax.numpy as jnp
from jaxcnn import models, ops
jax.block_until_ready(jax.random.key(0))
size = sys.argv[1]
"""
# One call of `run` is timed.
_TIMED = {
    "init": """
model, key = getattr(models, size)(), jax.random.key(0)
run = lambda: model.init(key)
""",
    "vmap(grad) of a convolution": """
x, kernel = jax.ShapeDtypeStruct((int(size), 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 64), jnp.float32)
loss = lambda kernel, image: jnp.sum(ops.conv(image, kernel) ** 2)
run = lambda: jax.jit(jax.vmap(jax.grad(loss), (None, 0))).lower(kernel, x).compile() and None
""",
    "gradient of global_max_pool": """
x = jax.ShapeDtypeStruct((int(size), int(size), 8), jnp.float32)
run = lambda: jax.jit(jax.grad(lambda x: jnp.sum(ops.global_max_pool(x)))).lower(x).compile() and None
""",
}
_CLOCK = """
started = time.perf_counter()
jax.block_until_ready(run())
print(json.dumps(time.perf_counter() - started))
"""
CASES = [
    *(("init", model) for model in ("resnet50", "mobilenet_v2")),
    *(("vmap(grad) of a convolution", str(images)) for images in (16, 256, 1024, 4096)),
    *(("gradient of global_max_pool", str(size)) for size in (16, 64, 256, 1024)),
]


def main() -> None:
    """Measures all cases, prints and writes the results."""
    rows = []
    for what, size in CASES:
        command = [sys.executable, "-c", _PRELUDE + _TIMED[what] + _CLOCK, size]
        runs = [
            float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            for _ in range(REPEATS)
        ]
        rows.append(
            {"what": what, "size": size, "seconds": round(statistics.median(runs), 3), "range": [min(runs), max(runs)]}
        )
        print(f"{what} {size}: {rows[-1]['seconds']:.2f} s ({min(runs):.2f} to {max(runs):.2f})")
    write_report(__file__, {"python": platform.python_version(), "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
