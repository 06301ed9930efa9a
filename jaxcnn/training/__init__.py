"""Training: losses, metrics, compiled steps and the loops around them; checkpoints are in `training.checkpoint`."""

from jaxcnn.training.loop import Fitted, NonFiniteLossError, Progress, evaluate, fit, predict
from jaxcnn.training.losses import auxiliary_loss, cross_entropy
from jaxcnn.training.metrics import Metrics, batch_metrics
from jaxcnn.training.rates import scale_by_name
from jaxcnn.training.step import (
    TrainState,
    init_train_state,
    make_eval_step,
    make_predict_step,
    make_train_state,
    make_train_step,
)

__all__ = [
    "Fitted",
    "Metrics",
    "NonFiniteLossError",
    "Progress",
    "TrainState",
    "auxiliary_loss",
    "batch_metrics",
    "cross_entropy",
    "evaluate",
    "fit",
    "init_train_state",
    "make_eval_step",
    "make_predict_step",
    "make_train_state",
    "make_train_step",
    "predict",
    "scale_by_name",
]
