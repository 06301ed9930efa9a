"""Xception: the weights of Keras give the outputs here that they give there; full comparison."""

import pytest
from weights_peer import check_faults_are_seen, check_keras_weights, images

pytest.importorskip("torch")
pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("float64")]


def test_weights_of_keras_give_its_logits_and_faults_are_seen(tmp_path):
    weights, expected = check_keras_weights("keras/Xception", tmp_path, (72, 75))
    check_faults_are_seen(
        weights,
        images(72),
        expected[0],
        kernel="middle/block3/conv2/depthwise/kernel",
        bias="entry/block1/shortcut/norm/bias",
    )
