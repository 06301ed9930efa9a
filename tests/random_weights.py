import jax
import numpy as np


def random_weights(model, dtype=np.float64, seed=0):
    """Draws parameters and moments as training might leave them: none of them is 0 or 1."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            return random.uniform(0.5, 2.0, leaf.shape).astype(dtype)
        size = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if name == "kernel" else 0.5
        return (size * random.standard_normal(leaf.shape)).astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0)))
