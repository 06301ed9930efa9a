"""jaxcnn itself, with the batch norms folded into the convolutions before inference."""

from typing import Any

import jax

from jaxcnn import layers, trees
from jaxcnn.benchmark.jax_program import JaxModel, JaxProgram
from jaxcnn.benchmark.program import Program
from jaxcnn.benchmark.spec import Spec
from jaxcnn.ops.lowering import native


def make_model(spec: Spec) -> JaxModel:
    """Builds the model of a spec, and folds its batch norms for inference.

    Args:
      spec: what to measure.

    Returns:
      The model as functions of a batch.
    """
    model: Any = spec.model
    params, state = model.init(jax.random.key(0))
    parameters = trees.count(params)
    if spec.mode == "infer":
        model, params, state = layers.fold_batch_norm(model, params, state)
    forward = layers.batched(model)

    def apply(params: Any, state: Any, images: jax.Array, train: bool, key: jax.Array | None) -> Any:
        return forward(params, state, images, train=train, key=key)

    return JaxModel(params, state, apply, parameters)


def make_program(spec: Spec) -> Program:
    """Builds and compiles jaxcnn's program.

    Args:
      spec: what to measure.

    Returns:
      The program, before its first step.
    """
    program = JaxProgram(
        spec,
        lambda: make_model(spec),
        facts={"folded_batch_norms": spec.mode == "infer"},
    )
    program.facts["native_kernels"] = jax.default_backend() == "cpu" and native.ready()
    return program
