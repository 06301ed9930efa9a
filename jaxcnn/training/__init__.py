"""Training: compiled steps, the loops around them, optimizers by name; checkpoints are in `training.checkpoint`."""

from jaxcnn.training.loop import Fitted, NonFiniteLossError, Progress, evaluate, fit, image_batches, predict
from jaxcnn.training.metrics import Metrics
from jaxcnn.training.mixing import CutMix, Mixup
from jaxcnn.training.optimizers import make_optimizer, make_schedule
from jaxcnn.training.precision import Precision
from jaxcnn.training.rates import decay_by_name, scale_by_name
from jaxcnn.training.step import make_eval_step, make_predict_step, make_train_step
from jaxcnn.training.train_state import (
    Average,
    TrainState,
    evaluation_weights,
    init_train_state,
    make_train_state,
)

__all__ = [
    "Average",
    "CutMix",
    "Fitted",
    "Metrics",
    "Mixup",
    "NonFiniteLossError",
    "Precision",
    "Progress",
    "TrainState",
    "decay_by_name",
    "evaluate",
    "evaluation_weights",
    "fit",
    "image_batches",
    "init_train_state",
    "make_eval_step",
    "make_optimizer",
    "make_predict_step",
    "make_schedule",
    "make_train_state",
    "make_train_step",
    "predict",
    "scale_by_name",
]
