import pytest

from jaxcnn.plots import ratios


def record(model, mode, contestant, ratio=None, status="measured"):
    spread = None if ratio is None else {"median": ratio, "lower_quartile": 0.9 * ratio, "upper_quartile": 1.2 * ratio}
    return {"model": model, "mode": mode, "contestant": contestant, "status": status, "ratio": spread}


RECORDS = [
    record("lenet5", "train", "jaxcnn"),
    record("lenet5", "train", "torch", 0.5),
    record("lenet5", "train", "flax", 2.0),
    record("lenet5", "infer", "jaxcnn"),
    record("lenet5", "infer", "torch", status="missing"),
    record("unet", "train", "jaxcnn"),
    record("unet", "train", "torch", 0.01),
]


def words(axes):
    return [text.get_text().strip() for text in axes.texts]


def test_a_bar_goes_from_one_to_the_ratio():
    train, infer = ratios(RECORDS).axes
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in train.patches]
    assert [end for bar in bars for end in bar] == pytest.approx([1, 0.5, 1, 2, 1, 0.01])
    assert words(train) == ["torch 0.50", "flax 2.00", "torch 0.01"]
    assert [label.get_text() for label in train.get_yticklabels()] == ["lenet5", "unet"]
    low, high = train.get_xlim()
    assert low < 0.009
    assert high > 2.4
    assert (train.get_title("left"), infer.get_title("left")) == ("training step", "inference")


def test_quartiles_are_a_line_across_the_end_of_the_bar():
    lines = [line.get_xdata() for line in ratios(RECORDS).axes[0].lines]
    assert any(list(line) == pytest.approx([0.45, 0.6]) for line in lines)


def test_a_peer_without_a_ratio_says_so():
    assert words(ratios(RECORDS).axes[1]) == ["torch: missing"]
    assert words(ratios(RECORDS[:1]).axes[0]) == ["no peers"]


def test_the_heading_says_what_is_divided_and_where_it_was_measured():
    texts = [text.get_text() for text in ratios(RECORDS, subtitle="float32, a processor, 2 cores").texts]
    assert texts[:2] == ["Time of a step, ours / theirs", "float32, a processor, 2 cores"]
    assert "left of 1: jaxcnn is faster" in texts[2]
