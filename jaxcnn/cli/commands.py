"""Parses the command line and runs its command."""

import importlib.metadata
from typing import Any

import tyro

from jaxcnn.cli import recipes
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.help import wrapped
from jaxcnn.cli.options import (
    COMMANDS,
    Bench,
    Command,
    DataInfo,
    Evaluate,
    Export,
    ListData,
    Plot,
    Predict,
    Prepare,
    Preview,
    Summary,
    Train,
)
from jaxcnn.cli.terminal import complain, errors_escaped, notices, say, writing
from jaxcnn.compilation import enable_compilation_cache
from jaxcnn.training.presets import PRESETS

_DESCRIPTION = "jaxcnn: train, evaluate and look into convolutional networks in JAX."

_COMPILING = (Train, Evaluate, Predict, Export, Bench, Preview)
"""Commands that compile programs, and keep them for the next start."""


def run(arguments: list[str]) -> int:
    """Runs a command.

    Args:
      arguments: the words after `jaxcnn`.

    Returns:
      The exit status: that of the command, 2 after a `CommandError`, or 130 after Ctrl-C.
    """
    if arguments[:1] == ["--version"]:
        say(f"jaxcnn {importlib.metadata.version('jaxcnn')}")
        return 0
    try:
        command = _parsed(arguments)
        with notices():
            if isinstance(command, _COMPILING):
                enable_compilation_cache()
            return _dispatch(command, arguments)
    except CommandError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("\nstopped at once" + ("; the checkpoints are unchanged" if arguments[:1] == ["train"] else ""))
        return 130


def _parsed(arguments: list[str]) -> Any:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        # Imported here: it loads the models.
        from jaxcnn.cli import names

        raise CommandError(names.unknown("command", arguments[0], COMMANDS))
    # The option parser repeats unknown words, and a shell pattern may expand to any file name.
    name = recipes.named_in(arguments[1:]) if arguments[:1] == ["train"] else None
    with reported(), errors_escaped(), writing(), wrapped():
        if name is not None:
            return _train_by_recipe(name, arguments[1:])
        return tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="jaxcnn",
            description=_DESCRIPTION,
            args=arguments or ["--help"],
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def _train_by_recipe(name: str, arguments: list[str]) -> Train:
    if name not in PRESETS:
        from jaxcnn.cli import names

        raise CommandError(names.unknown("recipe", name, PRESETS))
    # The options of the recipe are the defaults, so that an option that is given holds, whatever its value.
    return tyro.cli(
        Train,
        prog="jaxcnn train",
        description=recipes.described(name, PRESETS[name]),
        args=arguments,
        default=recipes.options_of(name, PRESETS[name]),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _dispatch(
    command: Train | Evaluate | Plot | Predict | Export | Summary | Bench | ListData | Prepare | DataInfo | Preview,
    arguments: list[str],
) -> int:
    # Each command imports only the packages that it needs: a summary does not wait for Orbax.
    match command:
        case Train():
            from jaxcnn.cli.train import train

            return train(command, arguments[1:])
        case Evaluate():
            from jaxcnn.cli.evaluate import evaluate

            return evaluate(command)
        case Plot():
            from jaxcnn.cli.plot import plot

            return plot(command)
        case Predict():
            from jaxcnn.cli.predict import predict

            return predict(command)
        case Export():
            from jaxcnn.cli.export import export

            return export(command)
        case Summary():
            from jaxcnn.cli.summary import summary

            return summary(command)
        case Bench():
            from jaxcnn.cli.bench import bench

            return bench(command)
        case ListData():
            from jaxcnn.cli.prepare import list_data

            return list_data()
        case Prepare():
            from jaxcnn.cli.prepare import prepare

            return prepare(command)
        case DataInfo():
            from jaxcnn.cli.info import info

            return info(command)
        case Preview():
            from jaxcnn.cli.preview import preview

            return preview(command)
