"""The time of per-example gradients against that of the batch gradient, in jaxcnn and in torch.

A small CNN with group norm on 64 digits. jaxcnn: `per_example_gradients` against `jax.grad` of the mean loss, both
compiled. torch: `torch.func.vmap(grad)` against `backward` of the mean loss. Each pair is measured in turns, in one
process for each library. Also trains LeNet-5 for two epochs with three seeds and draws the digits of the training set
with the largest EL2N scores, 10 of each class. Writes experiments/results/per_example_gradients.json and .png.

    python experiments/per_example_gradients.py     # about a minute on 2 CPU cores; needs torch
"""

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reports import write_report

from jaxcnn import batched, data, plots
from jaxcnn.layers import Conv, Dense, Flatten, Function, GroupNorm, MaxPool, Sequential
from jaxcnn.models import lenet5
from jaxcnn.tasks import Classification
from jaxcnn.training import Recipe, el2n_scores, per_example_gradients, train_many

BATCH, ROUNDS = 64, 15
WIDTHS = (16, 32)


def examples() -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of digits, 32x32, and their labels."""
    batch = data.Batches(data.split(data.digits())["train"], BATCH, seed=0)[0]
    return np.asarray(data.unit_pixels(batch["image"])), np.asarray(batch["label"])


def ratio_of(single: Callable[[], Any], batch: Callable[[], Any]) -> dict[str, Any]:
    """Times two functions in turns.

    Args:
      single: computes per-example gradients, and waits for them.
      batch: computes the batch gradient.

    Returns:
      Median milliseconds of both, and the quartiles of the ratio.
    """
    for _ in range(3):
        single()
        batch()
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair = []
        for function in (single, batch):
            started = time.perf_counter()
            function()
            pair.append(time.perf_counter() - started)
        times.append((pair[0], pair[1]))
    lower, middle, upper = statistics.quantiles([a / b for a, b in times], n=4)
    return {
        "per_example_ms": round(1e3 * statistics.median(a for a, _ in times), 2),
        "batch_ms": round(1e3 * statistics.median(b for _, b in times), 2),
        "ratio": {"median": middle, "lower_quartile": lower, "upper_quartile": upper, "n": ROUNDS},
    }


def with_jaxcnn() -> dict[str, Any]:
    """Measures jaxcnn."""
    first, second = WIDTHS
    relu = Function(jax.nn.relu)
    model = Sequential(
        conv1=Conv(1, first),
        norm1=GroupNorm(first, 4),
        relu1=relu,
        pool1=MaxPool(2),
        conv2=Conv(first, second),
        norm2=GroupNorm(second, 4),
        relu2=relu,
        pool2=MaxPool(2),
        flatten=Flatten(),
        head=Dense(8 * 8 * second, 10),
    )
    params, state = model.init(jax.random.key(0))
    images, labels = examples()
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    task = Classification()

    @jax.jit
    def single(params: Any) -> Any:
        return per_example_gradients(model, params, state, batch, task)[0]

    @jax.jit
    @jax.grad
    def whole(params: Any) -> Any:
        outputs, _ = batched(model)(params, state, batch["image"], train=False)
        loss = task.loss(outputs, batch)
        return loss.total / loss.weight

    means = jax.tree.map(lambda leaf: leaf.mean(axis=0), single(params))
    difference = max(
        float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (means, whole(params))), strict=True)
    )
    measured = ratio_of(lambda: jax.block_until_ready(single(params)), lambda: jax.block_until_ready(whole(params)))
    return measured | {"difference": difference}


def with_torch() -> dict[str, Any]:
    """Measures torch on the same network."""
    torch = importlib.import_module("torch")
    nn = torch.nn
    first, second = WIDTHS
    model = nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.GroupNorm(4, first),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.GroupNorm(4, second),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 8 * second, 10),
    )
    images, labels = examples()
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels).long()
    params = {name: value.detach() for name, value in model.named_parameters()}

    def loss(params: Any, image: Any, label: Any) -> Any:
        logits = torch.func.functional_call(model, params, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    single = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def whole() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()

    return ratio_of(lambda: single(params, x, y), whole) | {"torch": torch.__version__}


def hardest() -> dict[str, Any]:
    """Draws the hardest digits, and returns the spread of the scores."""
    source = data.digits()
    runs = train_many(lenet5(), source, Recipe(epochs=2), seeds=3)
    train = data.in_memory(data.split(source)["train"]).entries
    images, labels = np.asarray(data.unit_pixels(train["image"])), np.asarray(train["label"])
    forward = jax.jit(lambda params, state: batched(lenet5())(params, state, images, train=False)[0])
    logits = np.stack([np.asarray(forward(result.params, result.state)) for result in runs.results])
    chances = np.asarray(jax.nn.softmax(logits))
    scores = el2n_scores(chances, labels)
    order = np.argsort(-scores, kind="stable")
    rows = [(f"digit {digit}", images[order[labels[order] == digit][:10]]) for digit in range(10)]
    figure = plots.contact_sheet(
        rows,
        title="The hardest training digits by EL2N, the hardest first",
        subtitles=["LeNet-5, mean of 3 seeds after 2 epochs; each row has one class"],
    )
    plots.save(figure, Path(__file__).parent / "results" / "per_example_gradients.png")
    wrong = chances.mean(axis=0).argmax(axis=1) != labels
    tenth = len(labels) // 10
    return {
        "el2n_median": float(np.median(scores)),
        "el2n_largest": float(scores.max()),
        "wrong": float(wrong.mean()),
        "wrong_in_hardest_tenth": float(wrong[order[:tenth]].mean()),
    }


def in_process(name: str) -> dict[str, Any]:
    """Runs a part of the experiment in a process of its own.

    Args:
      name: of the part.

    Returns:
      What it returns.
    """
    done = subprocess.run([sys.executable, __file__, name], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


PARTS = {"jaxcnn": with_jaxcnn, "torch": with_torch, "hardest": hardest}


def main() -> None:
    """Runs all parts, prints a summary and writes the results."""
    results = {name: in_process(name) for name in PARTS}
    write_report(__file__, {"batch_size": BATCH, **results})
    for name in ("jaxcnn", "torch"):
        ratio = results[name]["ratio"]
        print(
            f"{name:<7} per example {results[name]['per_example_ms']} ms, batch {results[name]['batch_ms']} ms, ratio "
            f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})"
        )
    print(results["hardest"])


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(PARTS[sys.argv[1]]()))
    else:
        main()
