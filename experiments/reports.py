"""Writes the results of an experiment with the script, the hardware and the versions."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcnn.environment import processor, usable_cores
from jaxcnn.files import write_text


def write_report(script: str, measured: Mapping[str, Any]) -> Path:
    """Writes experiments/results/<name of the script>.json.

    Args:
      script: the `__file__` of the script.
      measured: JSON values by name.

    Returns:
      The path of the file.
    """
    name = Path(script).stem
    report = {
        "script": f"experiments/{name}.py",
        "hardware": f"{usable_cores()} CPU cores, {processor()}, {platform.machine()}",
        "jax": jax.__version__,
        **measured,
    }
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(report, indent=2) + "\n")
    return path
