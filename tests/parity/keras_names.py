"""Writes the names and shapes of all weights of models of keras.applications, and the options of their batch norms.

    KERAS_BACKEND=torch python keras_names.py EfficientNetB1 EfficientNetB2

A process of its own, since Keras chooses its backend when it is imported. On torch's meta device nothing is computed.
"""

import json
import sys

import keras


def described(architecture):
    """Builds a model and says what it has."""
    with keras.device("meta"):
        model = getattr(keras.applications, architecture)(weights=None)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return {
        "weights": {variable.path: tuple(variable.shape) for variable in model.weights},
        "norms": {norm.name: (norm.epsilon, norm.momentum) for norm in norms},
    }


json.dump({name: described(name) for name in sys.argv[1:]}, sys.stdout)
