"""Writes the results of an experiment with the script, the hardware and the versions."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcnn.environment import processor, usable_cores
from jaxcnn.files import write_text


def read_report(script: str) -> dict[str, Any]:
    """Reads what `write_report` wrote for a script; {} if there is nothing yet."""
    path = _path(script)
    return json.loads(path.read_text()) if path.exists() else {}


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
    path = _path(script)
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(report, indent=2) + "\n")
    return path


def _path(script: str) -> Path:
    return Path(__file__).parent / "results" / f"{Path(script).stem}.json"
