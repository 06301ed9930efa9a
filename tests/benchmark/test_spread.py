import pytest

from jaxcnn.benchmark.accelerators import peak_flops, step_flops
from jaxcnn.benchmark.spread import ratios, spread, three_digits


def test_spread_of_numbers_counted_by_hand():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0, 1.0, 5)
    assert spread([1.0, 2.0]) == (1.5, 1.25, 1.75, 1.0, 2)
    assert spread([7.0]) == (7.0, 7.0, 7.0, 7.0, 1)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value, got none"):
        spread([])


def test_ratios_pair_the_medians_of_the_same_round():
    ours = [[1.0, 9.0, 2.0], [6.0], [100.0]]
    theirs = [[4.0, 4.0], [2.0, 3.0, 4.0]]
    assert ratios(ours, theirs) == [0.5, 2.0]


def test_what_slows_a_whole_round_down_does_not_change_the_ratio():
    assert ratios([[1.0], [10.0]], [[2.0], [20.0]]) == [0.5, 0.5]


def test_training_counts_three_times_the_forward_pass():
    assert step_flops(10, 4, "infer") == 80
    assert step_flops(10, 4, "train") == 240


@pytest.mark.parametrize(
    ("kind", "precision", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", None),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v5p", "bfloat16", 459e12),
        ("TPU v4", "float32", None),
        ("cpu", "float32", None),
    ],
)
def test_peaks_are_those_of_the_device_and_of_no_similar_one(kind, precision, peak):
    assert peak_flops(kind, precision) == peak


@pytest.mark.parametrize(
    ("value", "text"), [(1234.56, "1,235"), (123.456, "123"), (12.3456, "12.3"), (0.123456, "0.123")]
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert three_digits(value) == text
