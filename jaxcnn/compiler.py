"""XLA's options for one program: those that measure best on a platform, and a `jax.jit` that takes them anywhere."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import jax
import jax.core
import jaxlib
from jax.extend.core import get_opaque_trace_state

P = ParamSpec("P")
R = TypeVar("R")


class Measured(NamedTuple):
    """Options that a measurement backs on a platform, from one version of jaxlib up to, not including, another."""

    platform: str
    since: tuple[int, ...]
    before: tuple[int, ...]
    options: Mapping[str, str]


MEASURED: tuple[Measured, ...] = ()
"""Rows for experiments/compiler_options.py, which measures candidates. None has earned one so far: with the rules of
`jaxcnn.ops.lowering` on CPU, those that help plain XLA, such as YNNPACK's for dense convolutions, help no longer."""

_PLATFORMS = ("cpu", "gpu", "tpu", "cuda", "rocm")


def compiler_options(platform: str | None = None) -> dict[str, str]:
    """Chooses the options of XLA that measure best for programs of this library.

        step = jax.jit(step, compiler_options=jaxcnn.compiler_options())

    The steps of `jaxcnn.training` pass them on by themselves. They come from the table `MEASURED`, which goes by
    platform and version of jaxlib. At present they are none: on CPU because no candidate won, on GPU and TPU because
    nothing has been measured there yet. There are also none where the installed jaxlib refuses them: it is asked once,
    by compiling a small program.

    What to know about options, in JAX itself:
    - Only the outermost `jax.jit` takes them; one inside of another, of `jax.lax.scan`, `jax.checkpoint` or
      `jax.shard_map` raises a ValueError, so give them to the outer one. The steps of `jaxcnn.training` work there, and
      leave theirs out.
    - Ahead of time, `jitted.lower(...).compile()` uses those of the `jax.jit`, and `compile(compiler_options=...)`
      takes others. Exported programs (`jax.export`) carry none: give them to the `jax.jit` around `exported.call`.
    - They can change results in the last bits, as another compiler would; keep them for the whole of a run.

    Args:
      platform: "cpu", "gpu" (or "cuda", "rocm"), "tpu", or what `jax.default_backend()` says; None is the latter, and
        starts JAX's devices.

    Returns:
      Values by name of the option; empty where XLA is best as it is installed. A new dict, to be changed at will.

    Raises:
      ValueError: there is no such platform.
    """
    if platform is None:
        platform = jax.default_backend()
    elif platform not in _PLATFORMS and platform != jax.default_backend():
        raise ValueError(f"compiler_options expects a platform among {_PLATFORMS}, got {platform!r}")
    wanted = _wanted(platform, jaxlib.version.__version_info__)
    return wanted if wanted and _accepted(platform, tuple(wanted.items())) else {}


def _wanted(platform: str, version: tuple[int, ...]) -> dict[str, str]:
    for row in MEASURED:
        if row.platform == platform and row.since <= version < row.before:
            return dict(row.options)
    return {}


@functools.cache
def _accepted(platform: str, options: tuple[tuple[str, str], ...]) -> bool:
    """Asks the compiler of the installed jaxlib whether it knows the options."""
    try:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices(backend=platform)[0])
        one = jax.ShapeDtypeStruct((), "float32", sharding=sharding)
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(one).compile()
    except RuntimeError:  # jax.errors.JaxRuntimeError among them; also where this machine has no such device
        return False
    return True


# Whatever is being traced while this module is imported.
with jax.core.eval_context():
    _TOP_LEVEL = get_opaque_trace_state()


class TopLevelJit(Generic[P, R]):
    """A `jax.jit` whose compiler options hold where it is called by itself, and that works within other programs too.

    JAX refuses options anywhere but at the top level. So in a transform, such as an outer `jax.jit`, `jax.vmap`,
    `jax.grad` or `jax.lax.scan`, this is a `jax.jit` without any, and those of the outer program hold. Under
    `jax.vmap` without an outer `jax.jit` there are none.

    Args:
      function: as for `jax.jit`.
      compiler_options: options by name; None for those of `compiler_options()`, found at the first call.
      **options: other arguments of `jax.jit`.
    """

    def __init__(
        self, function: Callable[P, R], *, compiler_options: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._compiler_options, self._options = function, compiler_options, options
        self._inner = jax.jit(function, **options)

    @functools.cached_property
    def _outer(self) -> Any:
        chosen = compiler_options() if self._compiler_options is None else dict(self._compiler_options)
        return jax.jit(self._function, compiler_options=chosen, **self._options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the compiled function."""
        at_top_level = get_opaque_trace_state() == _TOP_LEVEL
        return (self._outer if at_top_level else self._inner)(*args, **kwargs)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Traced:
        """Traces the function, with its compiler options, for such arguments; see `jax.stages.Wrapped.trace`."""
        return self._outer.trace(*args, **kwargs)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Lowered:
        """Lowers the function, with its compiler options, for such arguments; see `jax.stages.Wrapped.lower`."""
        return self._outer.lower(*args, **kwargs)
