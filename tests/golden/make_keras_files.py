"""Writes the files of Keras that the reader is tested with: run it with Keras 3.15 and h5py in this folder.

    KERAS_BACKEND=numpy python make_keras_files.py

Every weight is filled with the numbers from 0 on, as float32, plus its place in the model times 100.
"""

import keras
import numpy as np
from keras import layers


def main():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
    x = keras.Sequential([layers.Dense(2, name="first"), layers.Dense(1, name="second")], name="head")(x)
    model = keras.Model(inputs, x)
    model.set_weights(
        [
            100 * place + np.arange(weight.size, dtype=np.float32).reshape(weight.shape)
            for place, weight in enumerate(model.get_weights())
        ]
    )
    model.save("model.h5")
    model.save("model.keras")
    model.save_weights("model.weights.h5")


if __name__ == "__main__":
    main()
