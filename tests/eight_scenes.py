"""Overfitting: a detector that works learns eight scenes by heart."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.data.sources.digit_scenes import digit_scenes
from jaxcnn.training import make_eval_step, make_train_state, make_train_step


class Learned(NamedTuple):
    """A detector after training, its task, the scenes, the last losses by name and the figures of the scenes."""

    params: Any
    state: Any
    task: Any
    batch: dict[str, jax.Array]
    losses: dict[str, float]
    figures: dict[str, float]


def learn_eight_scenes(model, *, steps: int, learning_rate, labels: str = "boxes", more=lambda batch: {}) -> Learned:
    """Trains a detector on eight digit scenes of 64 pixels by Adam, and measures it on the same scenes.

    `more` makes other entries of the batch from the scenes.
    """
    source = digit_scenes(64, labels=labels)["train"]
    examples = [source[i] for i in range(8)]
    batch = {name: jnp.asarray(np.stack([one[name] for one in examples])) for name in examples[0]}
    batch |= more(batch)
    optimizer = optax.adam(learning_rate)
    step = make_train_step(model, optimizer, model.task((64, 64)))
    state = make_train_state(*model.init(jax.random.key(0)), optimizer)
    # Optax's Adam relies on promotion.
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            state, metrics = step(state, batch, jax.random.key(1))
    task = model.task((64, 64), measures_precision=True)
    sums = make_eval_step(model, task)(state.params, state.state, batch)
    figures = task.report({name: mean for name, mean in sums.items() if name != "loss"})
    losses = {name: float(mean.value) for name, mean in metrics.sums.items()}
    return Learned(state.params, state.state, task, batch, losses, figures)
