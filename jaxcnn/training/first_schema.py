"""Opens the run folders of version 0.1.

Their config.json holds the options of `jaxcnn train` in one dict, and says neither the class names nor the shape of the
images: the data are needed to know them. They have neither identity nor checksums nor best.npz.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

from jaxcnn import data
from jaxcnn.data import Source
from jaxcnn.models import catalog
from jaxcnn.models.normalized import Normalization, normalized
from jaxcnn.tasks import Classification
from jaxcnn.training.recipe import Recipe
from jaxcnn.types import Layer, Shape

# Weights of the auxiliary losses that version 0.1 took from its catalog; other models have no auxiliary heads.
_AUXILIARY_WEIGHTS = {"inception_v3": 0.4}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a config of version 0.1 to today's layout.

    Args:
      config: the content of config.json.

    Returns:
      The content in today's layout; model, image shape and class names are None.
    """
    options = dict(config["options"])
    known = {field.name for field in dataclasses.fields(Recipe)}
    recipe = {name: value for name, value in options.items() if name in known}
    recipe["auxiliary_weight"] = _AUXILIARY_WEIGHTS.get(options.get("model", ""), 0.3)
    task = Classification(label_smoothing=options.get("label_smoothing", 0.0))
    return {
        **config,
        "recipe": recipe,
        "options": {name: value for name, value in options.items() if name not in known},
        "task": repr(task),
        "model": None,
        "image_shape": None,
        "class_names": None,
    }


def upgraded_meta(meta: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Converts the meta of a checkpoint of version 0.1 to today's layout.

    Args:
      meta: as `Checkpoints.restore` returns it.
      num_classes: number of classes of the data.

    Returns:
      The meta. Figures that version 0.1 did not count, for the epoch in progress, begin at zero.
    """
    sums, best = meta["metrics"], meta["best"]
    metrics = {}
    if sums["examples"]:
        metrics = {"loss": [sums["loss"], sums["examples"]], "accuracy": [sums["correct"], sums["examples"]]}
        metrics |= {"top5_accuracy": [0.0, 0.0]} if num_classes > 5 else {}
    return {
        "metrics": {"sums": metrics, "gradient_norm": sums["gradient_norm"], "non_finite": sums["non_finite"]},
        "best": {"epoch": best["epoch"], "score": best["accuracy"], "loss": best["loss"]},
    }


def describe(config: Mapping[str, Any]) -> tuple[Layer, Shape, tuple[str, ...]]:
    """Describes the model of a run, whose config lacks the image shape and the class names, by reading its data.

    Args:
      config: as `upgraded` returns it.

    Returns:
      The model, the shape of its images and the names of its classes.

    Raises:
      OSError: the file of the data does not exist.
      ValueError: the data are not those of the run, or the options are invalid.
      ImportError: scikit-learn is not installed.
    """
    options = config["options"]
    source = read_source(config)
    class_names = tuple(options["classes"]) or source.class_names
    shape: Any = source.spec["image"].shape
    model = catalog.build(options["model"], len(class_names), shape)
    stored = config.get("normalization")
    normalization = stored and Normalization(tuple(stored["mean"]), tuple(stored["std"]), stored["reverse"])
    return normalized(model, normalization), shape, class_names


def read_source(config: Mapping[str, Any]) -> Source:
    """Reads the data of a run, before they are split.

    Args:
      config: as `upgraded` returns it.

    Returns:
      The data.

    Raises:
      OSError: the file of the data does not exist.
      ValueError: the data are not those of the run.
      ImportError: scikit-learn is not installed.
    """
    name = config["options"]["data"]
    source = data.digits() if name == "digits" else data.load_npz(name)
    batch = next(data.eval_batches(source, len(source)))
    checksum = zlib.crc32(batch["label"].tobytes(), zlib.crc32(data.unit_pixels(batch["image"]).tobytes()))
    if f"{checksum:08x}" != config["data_fingerprint"]:
        raise ValueError(f"expected the data that the run was started with in {name!r}, got other data")
    return source
