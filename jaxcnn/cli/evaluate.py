"""`jaxcnn evaluate`."""

from jaxcnn import training
from jaxcnn.cli import pairs, trained
from jaxcnn.cli.errors import CommandError
from jaxcnn.cli.options import Evaluate
from jaxcnn.cli.terminal import say


def evaluate(options: Evaluate) -> int:
    """Evaluates the best epoch of a run on every example of a split, and prints loss and accuracy.

    Args:
      options: the run and the split.

    Returns:
      The exit status, 0.

    Raises:
      CommandError: the run cannot be read.
    """
    if options.batch_size < 1:
        raise CommandError(f"--batch-size expects a number at least 1, got {options.batch_size}")
    run = trained.load(options.run)
    dataset: pairs.Dataset = getattr(run.splits, options.split)
    metrics = training.evaluate(
        training.make_eval_step(run.model, precision=run.dtype),
        run.params,
        run.state,
        pairs.eval_batches(dataset, options.batch_size),
        count=len(dataset.labels),
    )
    accuracy = metrics["accuracy"]
    say(
        f"epoch {run.epoch}, {options.split}: accuracy {accuracy.value:.2%} "
        f"({int(accuracy.total)} of {int(accuracy.weight)}), loss {metrics['loss'].value:.4f}"
    )
    return 0
