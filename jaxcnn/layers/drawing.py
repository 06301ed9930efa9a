"""Draws keys and initial parameters with a few compiled programs for all shapes.

`jax.random.normal(key, shape)` is compiled for each shape, and a network has dozens: compiling takes seconds, drawing
only a fraction of one. Here one program draws blocks of a fixed size, and NumPy concatenates them. The numbers are
those of `jax.random` to the last bit: with `jax_threefry_partitionable`, jax's default, the n-th number of an array
depends only on the key and on n. If a key is traced, in `jax.jit` or `jax.vmap`, or of another kind, `jax.random`
itself is called.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.random import define_prng_impl, threefry_2x32

from jaxcnn.types import Shape
from jaxcnn.values import Partial

_BLOCK = 1 << 15
"""Numbers that are drawn at a time: small beside a kernel, large beside the cost of a call."""

_MOST_KEYS = 64
"""Keys of a split; most layers have fewer children."""


def split_key(key: jax.Array, n: int) -> list[jax.Array]:
    """Splits a key, into the keys that `jax.random.split(key, n)` gives.

    Args:
      key: typed random key, consumed.
      n: number of keys.

    Returns:
      n keys.
    """
    if not _is_counted(key):
        return list(jax.random.split(key, n))
    many = -(-n // _MOST_KEYS) * _MOST_KEYS
    data = jax.device_get(_split_data(key, many))
    return [jax.random.wrap_key_data(_put(one, key), impl="threefry2x32") for one in data[:n]]


def draw(initializer: Callable[..., jax.Array], key: jax.Array, shape: Shape) -> jax.Array:
    """Calls an initializer.

    Args:
      initializer: called as `initializer(key, shape, jnp.float32)`. Those of `jax.nn.initializers` that draw normal
        numbers, or uniform ones around zero, are computed here if they are held as `jaxcnn.layers.Initializer`.
      key: typed random key, consumed.
      shape: shape of the array; for kernels the last two axes are input and output.

    Returns:
      The array, float32.
    """
    constant = {jax.nn.initializers.zeros: 0.0, jax.nn.initializers.ones: 1.0}.get(initializer)
    if constant is not None:
        return fill(constant, key, shape)
    recipe = _recipe(initializer, shape) if isinstance(initializer, Partial) else None
    if recipe is None:
        return initializer(key, shape, jnp.float32)
    distribution, factor = recipe
    if _is_counted(key):
        return _put(_draw_blocks(key, distribution, math.prod(shape)).reshape(shape) * factor, key)
    # The barrier stops XLA from merging two factors, which would round differently.
    return lax.optimization_barrier(_DISTRIBUTIONS[distribution](key, shape, jnp.float32)) * factor


def fill(value: float, key: jax.Array, shape: Shape) -> jax.Array:
    """Makes an array of one number, on the device where `draw` would put numbers drawn from a key.

    Args:
      value: the number.
      key: typed random key; nothing is drawn from it.
      shape: shape of the array.

    Returns:
      The array, float32.
    """
    return _put(np.full(shape, value, np.float32), key) if _is_counted(key) else jnp.full(shape, value, jnp.float32)


def _put(array: np.ndarray, key: jax.Array) -> jax.Array:
    """Puts an array where `jax.random` would: on the device that the key is bound to, or on the default one."""
    (device,) = key.devices()
    return jax.device_put(array, device if key.committed else None)


def _is_counted(key: jax.Array) -> bool:
    """Tells whether a key is concrete, on one device, and of a generator whose n-th number depends on n alone."""
    return (
        not isinstance(key, Tracer)
        # While a function is traced, operations on a concrete key are traced too.
        and not isinstance(jax.random.key_data(key), Tracer)
        and key.ndim == 0
        and len(key.devices()) == 1
        and jax.random.key_impl(key) == "threefry2x32"
        and jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    )


# The results are integers, which do not depend on optimisation. Without it, compiling takes a third of the time.
@partial(
    jax.jit,
    static_argnums=1,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)
def _split_data(key: jax.Array, n: int) -> jax.Array:
    return jax.random.key_data(jax.random.split(key, n))


def _recipe(initializer: Partial, shape: Shape) -> tuple[str, np.float32] | None:
    """Returns the distribution that an initializer draws from, and the number it multiplies by; None for all others."""
    initializers = jax.nn.initializers
    options: dict[str, Any] = dict(initializer.options)
    if initializer.function is initializers.normal and options.keys() <= {"stddev"}:
        return "normal", np.float32(options.get("stddev", 1e-2))
    scaling = {
        initializers.variance_scaling: {},
        initializers.lecun_normal: {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
        initializers.he_normal: {"scale": 2.0, "mode": "fan_in", "distribution": "truncated_normal"},
        initializers.glorot_normal: {"scale": 1.0, "mode": "fan_avg", "distribution": "truncated_normal"},
        initializers.lecun_uniform: {"scale": 1.0, "mode": "fan_in", "distribution": "uniform"},
        initializers.he_uniform: {"scale": 2.0, "mode": "fan_in", "distribution": "uniform"},
        initializers.glorot_uniform: {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform"},
    }.get(initializer.function)
    if scaling is None or len(shape) < 2:
        return None
    options = scaling | options
    if options.keys() != {"scale", "mode", "distribution"} or options["distribution"] not in _DISTRIBUTIONS:
        return None
    taps = math.prod(shape[:-2])
    fan_in, fan_out = shape[-2] * taps, shape[-1] * taps
    fans = {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
        "fan_geo_avg": (fan_in * fan_out) ** 0.5,
    }
    if options["mode"] not in fans:
        return None
    variance = np.float32(options["scale"] / fans[options["mode"]])
    # Divided by the standard deviation of the draws: 0.88 if cut off at -2 and 2, 1 / sqrt(3) if uniform in [-1, 1).
    factor = {
        "normal": np.sqrt(variance),
        "truncated_normal": np.sqrt(variance) / np.float32(0.87962566103423978),
        "uniform": np.sqrt(np.float32(3) * variance),
    }
    return options["distribution"], factor[options["distribution"]]


_DISTRIBUTIONS = {
    "normal": jax.random.normal,
    "truncated_normal": lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype),
    "uniform": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1),
}


def _draw_blocks(key: jax.Array, distribution: str, count: int) -> np.ndarray:
    data = jax.random.key_data(key)
    blocks = [_draw_block(data, jax.device_put(np.uint32(start)), distribution) for start in range(0, count, _BLOCK)]
    return np.concatenate(jax.device_get(blocks) or [np.zeros(0, np.float32)])[:count]


@partial(jax.jit, static_argnums=2)
def _draw_block(data: jax.Array, start: jax.Array, distribution: str) -> jax.Array:
    key = jax.random.wrap_key_data(jnp.append(data, start), impl=_FROM_A_PLACE)
    return _DISTRIBUTIONS[distribution](key, (_BLOCK,), jnp.float32)


def _bits_from_a_place(data: jax.Array, bit_width: int, shape: Shape) -> jax.Array:
    """Draws the bits that `jax.random` draws for numbers from data[2] on."""
    if bit_width != 32:
        raise NotImplementedError(f"expected 32 bits for each number, got {bit_width}")
    low = data[2] + jnp.arange(math.prod(shape), dtype=jnp.uint32)
    high, low = jnp.split(threefry_2x32(data[:2], jnp.concatenate([jnp.zeros_like(low), low])), 2)
    return (high ^ low).reshape(shape)


def _not_needed(*_: Any) -> Any:
    raise NotImplementedError("a key that counts from a place only draws")


_FROM_A_PLACE = define_prng_impl(
    key_shape=(3,),
    seed=_not_needed,
    split=_not_needed,
    fold_in=_not_needed,
    random_bits=_bits_from_a_place,
    name="threefry2x32_from_a_place",
    tag="jaxcnn",
)
"""jax's generator, with the number to start from as a third part of the key."""
