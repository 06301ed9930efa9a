"""Training: the whole job (`run`), its parts (steps, loops, optimizers by name) and run folders.

Checkpoints are in `training.checkpoint`.
"""

from jaxcnn.training.loop import Fitted, NonFiniteLossError, Progress, evaluate, fit, image_batches, predict
from jaxcnn.training.many import Runs, train_many
from jaxcnn.training.memory import OutOfMemoryError
from jaxcnn.training.metrics import Metrics
from jaxcnn.training.mixing import CutMix, MixInTurn, Mixup, RandomMix
from jaxcnn.training.mosaic import Mosaic, ObjectMixup
from jaxcnn.training.observers import Observer
from jaxcnn.training.optimizers import make_optimizer, make_schedule
from jaxcnn.training.per_example import (
    el2n_scores,
    gradient_norms,
    grand_scores,
    make_per_example_step,
    per_example_gradients,
)
from jaxcnn.training.placement import Placement, make_placement
from jaxcnn.training.precision import Precision
from jaxcnn.training.privacy import privacy_spent
from jaxcnn.training.range_test import RangeTest, find_learning_rate
from jaxcnn.training.rates import decay_by_name, scale_by_name
from jaxcnn.training.recipe import Recipe
from jaxcnn.training.runs import Result, run
from jaxcnn.training.step import make_eval_step, make_predict_step, make_train_step
from jaxcnn.training.trackers import TensorBoard, WeightsAndBiases
from jaxcnn.training.train_state import (
    Average,
    TrainState,
    evaluation_weights,
    init_train_state,
    make_train_state,
)
from jaxcnn.training.trained_model import load_model
from jaxcnn.training.whitening import whitened

__all__ = [
    "Average",
    "CutMix",
    "Fitted",
    "Metrics",
    "MixInTurn",
    "Mixup",
    "Mosaic",
    "NonFiniteLossError",
    "ObjectMixup",
    "Observer",
    "OutOfMemoryError",
    "Placement",
    "Precision",
    "Progress",
    "RandomMix",
    "RangeTest",
    "Recipe",
    "Result",
    "Runs",
    "TensorBoard",
    "TrainState",
    "WeightsAndBiases",
    "decay_by_name",
    "el2n_scores",
    "evaluate",
    "evaluation_weights",
    "find_learning_rate",
    "fit",
    "gradient_norms",
    "grand_scores",
    "image_batches",
    "init_train_state",
    "load_model",
    "make_eval_step",
    "make_optimizer",
    "make_per_example_step",
    "make_placement",
    "make_predict_step",
    "make_schedule",
    "make_train_state",
    "make_train_step",
    "per_example_gradients",
    "predict",
    "privacy_spent",
    "run",
    "scale_by_name",
    "train_many",
    "whitened",
]
