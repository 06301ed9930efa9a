"""The curvature of the loss of LeNet-5 on digits: eigenvalues before and after training, and slices of the landscape.

The loss is that of 512 training digits without augmentation. Eigenvalues are by 30 steps of Lanczos; the residual
bounds their error. The slices go along two random directions, scaled filter by filter, and along the two eigenvectors
of the largest eigenvalues. Writes experiments/results/curvature.json, curvature_random.png and
curvature_eigenvectors.png.

    python experiments/curvature.py     # less than two minutes on 2 CPU cores
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reports import write_report

from jaxcnn import batched, data, plots
from jaxcnn.inspection import lanczos, loss_slice, random_direction
from jaxcnn.models import lenet5
from jaxcnn.tasks import Classification
from jaxcnn.training import Recipe, run

EXAMPLES, STEPS = 512, 30
RECIPE = Recipe(epochs=10)
GRID = np.linspace(-1, 1, 15)


def main() -> None:
    """Trains, measures, draws, prints a summary and writes the results."""
    started = time.perf_counter()
    model, task, source = lenet5(), Classification(), data.digits()
    entries = data.in_memory(data.split(source)["train"]).entries
    batch = {name: jnp.asarray(entries[name][:EXAMPLES]) for name in ("image", "label")}
    batch["image"] = data.unit_pixels(batch["image"])
    first, state = model.init(jax.random.key(0))
    trained = run(model, source, RECIPE)

    def loss(params: Any) -> jax.Array:
        outputs, _ = batched(model)(params, state, batch["image"], train=False)
        mean = task.loss(outputs, batch)
        return mean.total / mean.weight

    results: dict[str, Any] = {"examples": EXAMPLES, "steps": STEPS, "epochs": RECIPE.epochs}
    for name, params in (("before", first), ("after", trained.params)):
        found = lanczos(loss, params, jax.random.key(1), count=5, steps=STEPS)
        results[name] = {
            "loss": float(loss(params)),
            "eigenvalues": found.values.tolist(),
            "residuals": found.residuals.tolist(),
        }
        print(f"{name}: loss {results[name]['loss']:.4f}, eigenvalues {np.round(found.values, 3).tolist()}", flush=True)
    keys = jax.random.split(jax.random.key(2))
    vectors = [jax.tree.map(lambda leaf, place=place: leaf[place], found.vectors) for place in range(2)]
    random = [random_direction(key, trained.params) for key in keys]
    slices = {
        "random": (random, ("first random direction", "second random direction")),
        "eigenvectors": (vectors, ("first eigenvector", "second eigenvector")),
    }
    for name, ((one, other), names) in slices.items():
        losses = loss_slice(loss, trained.params, one, other, GRID)
        results[f"{name}_loss"] = {"middle": float(losses[7, 7]), "largest": float(losses.max())}
        figure = plots.landscape(losses, GRID, names=names, subtitle=f"LeNet-5 after {RECIPE.epochs} epochs on digits")
        plots.save(figure, Path(__file__).parent / "results" / f"curvature_{name}.png")
    results["seconds"] = round(time.perf_counter() - started, 1)
    write_report(__file__, results)
    print(f"{results['seconds']} s")


if __name__ == "__main__":
    main()
