import functools
import json
import math
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.data import Batches, Step, arrays, compose, eval_batches, shift
from jaxcnn.data.prefetch import ahead
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Function, Sequential
from jaxcnn.training import (
    Metrics,
    NonFiniteLossError,
    Progress,
    TrainState,
    evaluate,
    fit,
    image_batches,
    init_train_state,
    loop,
    make_eval_step,
    make_predict_step,
    make_train_step,
    predict,
)
from jaxcnn.types import Mean

MODEL = Sequential(
    conv=Conv(1, 3),
    norm=BatchNorm(3),
    relu=Function(jax.nn.relu),
    drop=Dropout(0.3),
    flatten=Flatten(),
    head=Dense(4 * 4 * 3, 3),
)
LINEAR = Sequential(flatten=Flatten(), head=Dense(16, 3))


def some_data(examples=23):
    random = np.random.default_rng(0)
    images = random.uniform(size=(examples, 4, 4, 1)).astype(np.float32)
    return arrays(image=images, label=random.integers(0, 3, examples).astype(np.int32), class_names=("a", "b", "c"))


class Numbered(NamedTuple):
    """Batches whose images are their own step, so that a fake training step can tell which one it got."""

    steps_per_epoch: int

    def __getitem__(self, step):
        return {"image": step}


def sums(loss, correct, examples):
    """The metrics of some examples, as the loop adds them up."""
    return Metrics({"loss": Mean(loss, examples), "accuracy": Mean(correct, examples)})


def fake_step(losses=None):
    """A training step on the host: step k has the loss `losses[k]` (k if not given) and counts k + 1 examples."""

    def train_step(train_state, batch, key):
        step = batch["image"]
        assert int(train_state.step) == step
        loss = float(step) if losses is None else losses[step]
        return train_state._replace(step=train_state.step + 1), sums(loss, 1, step + 1)

    return train_step


def fake_fit(epochs, *, first=0, steps_per_epoch=4, losses=None, **options):
    train_state = TrainState(np.int32(first), {}, {}, ())
    return fit(train_state, fake_step(losses), Numbered(steps_per_epoch), jax.random.key(0), epochs=epochs, **options)


def test_goes_through_the_steps_in_order_and_numbers_epochs_from_1():
    steps, epochs = [], []
    fitted = fake_fit(
        3,
        on_step=[lambda progress: steps.append((progress.step, progress.epoch, int(progress.train_state.step)))],
        on_epoch=[lambda progress: epochs.append((progress.step, progress.epoch, int(progress.train_state.step)))],
    )
    assert steps == [(k, (k - 1) // 4 + 1, k) for k in range(1, 13)]
    assert epochs == [(4, 1, 4), (8, 2, 8), (12, 3, 12)]
    assert int(fitted.train_state.step) == 12
    assert fitted.metrics == Metrics()
    assert not fitted.stopped


def test_the_metrics_of_an_epoch_are_the_sums_of_its_steps_and_of_no_other():
    rows = []
    fake_fit(2, on_epoch=[lambda progress: rows.append(progress.metrics)])
    assert rows == [sums(0.0 + 1 + 2 + 3, 4, 1 + 2 + 3 + 4), sums(4.0 + 5 + 6 + 7, 4, 5 + 6 + 7 + 8)]


@pytest.fixture
def read_each_step(monkeypatch):
    """Reads the metrics of each step while the next one is computed, however quick the steps are."""
    monkeypatch.setattr(loop, "_READ_SECONDS", 0.0)


def test_after_a_step_the_metrics_lack_that_step_which_may_still_be_computed(read_each_step):
    losses = []
    fake_fit(2, on_step=[lambda progress: losses.append(dict(progress.metrics.sums).get("loss", Mean(None, 0)).total)])
    assert losses == [None, 0.0, 0.0 + 1, 0.0 + 1 + 2, None, 4.0, 4.0 + 5, 4.0 + 5 + 6]


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_callback_stops_after_its_step_with_the_sums_of_the_unfinished_epoch(stop):
    steps = []

    def on_step(progress):
        steps.append(progress.step)
        return progress.step == stop

    fitted = fake_fit(2, on_step=[on_step])
    assert steps == list(range(1, stop + 1))
    assert int(fitted.train_state.step) == stop
    assert fitted.stopped
    unfinished = range(4 * (stop // 4), stop)
    expected = sums(float(sum(unfinished)), len(unfinished), sum(k + 1 for k in unfinished))
    assert fitted.metrics == (expected if unfinished else Metrics())


def test_an_epoch_that_a_step_callback_stops_at_its_end_is_still_reported():
    epochs = []
    fake_fit(2, on_step=[lambda progress: progress.step == 4], on_epoch=[lambda p: epochs.append(p.epoch)])
    assert epochs == [1]


def test_an_epoch_callback_stops_after_its_epoch():
    fitted = fake_fit(3, on_epoch=[lambda progress: progress.epoch == 2])
    assert int(fitted.train_state.step) == 8
    assert fitted.stopped
    assert fitted.metrics == Metrics()


def test_all_callbacks_are_called_even_if_the_first_stops():
    called = []
    fake_fit(2, on_step=[lambda progress: True, lambda progress: called.append(progress.step)])
    fake_fit(2, on_epoch=[lambda progress: True, lambda progress: called.append(progress.step)])
    assert called == [1, 4]


def test_a_stop_after_the_last_step_is_no_stop():
    assert not fake_fit(2, on_step=[lambda progress: progress.step == 8]).stopped
    assert not fake_fit(2, on_epoch=[lambda progress: progress.epoch == 2]).stopped


@pytest.mark.parametrize("first", [8, 9])
def test_with_all_epochs_done_there_is_nothing_to_do(first):
    called = []
    fitted = fake_fit(2, first=first, on_step=[called.append], on_epoch=[called.append])
    assert (int(fitted.train_state.step), fitted.metrics, fitted.stopped) == (first, Metrics(), False)
    assert called == []


def test_a_resumed_epoch_adds_to_the_sums_it_had():
    rows = []
    stopped = fake_fit(2, on_step=[lambda progress: progress.step == 6])
    stored = Metrics.from_json(json.loads(json.dumps(stopped.metrics.as_json())))
    fake_fit(2, first=6, metrics=stored, on_epoch=[lambda progress: rows.append(progress.metrics)])
    assert rows == [sums(4.0 + 5 + 6 + 7, 4, 5 + 6 + 7 + 8)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", range(1, 9))
def test_a_loss_that_is_not_finite_stops_and_names_its_step(bad, value, read_each_step):
    steps, epochs = [], []
    losses = [value if k >= bad - 1 else 1.0 for k in range(8)]
    with pytest.raises(
        NonFiniteLossError, match=rf"expected a finite loss, got {value} at step {bad}; lower the"
    ) as caught:
        fake_fit(
            2, losses=losses, on_step=[lambda p: steps.append(p.step)], on_epoch=[lambda p: epochs.append(p.epoch)]
        )
    assert caught.value.step == bad
    assert epochs == list(range(1, (bad - 1) // 4 + 1))
    assert len(steps) <= bad + 1  # one step more may be on its way


def test_a_loss_that_is_not_finite_is_found_when_a_callback_stops_right_after_it():
    with pytest.raises(NonFiniteLossError, match="got nan at step 3"):
        fake_fit(2, losses=[1.0, 1.0, math.nan], on_step=[lambda progress: progress.step == 3])


@pytest.mark.parametrize("bad", [2, 4])
def test_a_train_state_that_is_not_finite_stops_and_names_the_step_though_all_losses_are(bad):
    epochs = []

    def train_step(train_state, batch, key):
        measured = sums(1.0, 1, 1)._replace(gradient_norm=math.nan, non_finite=7 * (batch["image"] == bad - 1))
        return train_state._replace(step=train_state.step + 1), measured

    with pytest.raises(
        NonFiniteLossError,
        match=rf"expected finite parameters and running moments, got NaN or infinity in 7 arrays after step {bad}; "
        r"lower the .* the images are finite and the labels in \[0, num_classes\)",
    ) as caught:
        fit(
            TrainState(np.int32(0), {}, {}, ()),
            train_step,
            Numbered(4),
            jax.random.key(0),
            epochs=2,
            on_epoch=[lambda p: epochs.append(p.epoch)],
        )
    assert caught.value.step == bad
    assert epochs == []  # before anything is kept of the epoch


def batches_of(seed=0):
    return Batches(some_data(), 5, seed=seed)


class Planted(NamedTuple):
    """Batches with one NaN pixel at one step."""

    batches: Batches
    step: int

    @property
    def steps_per_epoch(self):
        return self.batches.steps_per_epoch

    def __getitem__(self, step):
        batch = self.batches[step]
        if step == self.step:
            batch["image"][0, 1, 1, 0] = np.nan  # where no shift by one pixel loses it
        return batch


@functools.cache
def compiled():
    optimizer = optax.sgd(optax.linear_schedule(0.1, 0.0, 20), momentum=0.9)
    return optimizer, make_train_step(MODEL, optimizer, augment=compose(Step(shift, max_shift=1)))


def start():
    return init_train_state(MODEL, compiled()[0], jax.random.key(0))


@pytest.mark.parametrize("bad", [0, 2, 3, 5, 7])
def test_one_bad_pixel_stops_the_training_at_its_step(bad):
    batches = Planted(batches_of(), bad)
    with pytest.raises(NonFiniteLossError, match=rf"got nan at step {bad + 1};"):
        fit(start(), compiled()[1], batches, jax.random.key(1), epochs=2)


@jax.custom_vjp
def with_gradient_nan(x):
    """The identity, whose gradient is NaN where the first pixel is above 1."""
    return x


with_gradient_nan.defvjp(lambda x: (x, x), lambda x, dy: (jnp.where(x[0] > 1, jnp.full_like(dy, jnp.nan), dy),))
SILENT = Sequential(flatten=Flatten(), dense=Dense(16, 16), silent=Function(with_gradient_nan), head=Dense(16, 3))


@pytest.mark.parametrize("repaired", [False, True])
def test_a_gradient_that_is_not_finite_stops_unless_the_optimizer_leaves_it_out(repaired):
    optimizer = optax.chain(optax.zero_nans(), optax.sgd(0.1)) if repaired else optax.sgd(0.1)
    train_state = init_train_state(SILENT, optimizer, jax.random.key(0))
    train_state.params["dense"]["bias"] = train_state.params["dense"]["bias"] + 10
    rows = []
    options = {"epochs": 1, "on_epoch": [lambda progress: rows.append(progress.metrics)]}
    arguments = train_state, make_train_step(SILENT, optimizer), batches_of(), jax.random.key(1)
    if repaired:
        fit(*arguments, **options)
        assert math.isfinite(rows[0].mean_loss)
        assert math.isnan(rows[0].gradient_norm)
    else:
        with pytest.raises(NonFiniteLossError, match="got NaN or infinity in 2 arrays after step 1;"):
            fit(*arguments, **options)


def test_an_update_that_overflows_is_found_at_its_step():
    optimizer = optax.sgd(lambda count: jnp.where(count < 3, 0.1, jnp.inf))
    train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
    arguments = make_train_step(LINEAR, optimizer), batches_of(), jax.random.key(1)
    with pytest.raises(NonFiniteLossError, match="got NaN or infinity in 2 arrays after step 4;"):
        fit(train_state, *arguments, epochs=1)


def test_a_label_out_of_range_stops_and_the_message_says_so():
    class OneBadLabel(NamedTuple):
        steps_per_epoch: int = 4

        def __getitem__(self, step):
            batch = batches_of()[step]
            return {**batch, "label": np.where((step == 2) & (np.arange(5) == 1), 3, batch["label"])}

    optimizer, train_step = optax.sgd(0.1), make_train_step(LINEAR, optax.sgd(0.1))
    with pytest.raises(NonFiniteLossError, match=r"got nan at step 3; .* the labels in \[0, num_classes\)"):
        fit(
            init_train_state(LINEAR, optimizer, jax.random.key(0)),
            train_step,
            OneBadLabel(),
            jax.random.key(1),
            epochs=1,
        )


def raw(tree):
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def uninterrupted():
    """Three epochs of four steps: the bytes at the end and the metrics of each epoch."""
    rows = []
    batches = batches_of(4)
    fitted = fit(
        start(), compiled()[1], batches, jax.random.key(1), epochs=3, on_epoch=[lambda p: rows.append(p.metrics)]
    )
    return raw(fitted.train_state), rows


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8, 11])
def test_stopped_and_resumed_is_byte_for_byte_the_same_as_never_stopped(uninterrupted, stop):
    rows = []
    options = {"epochs": 3, "on_epoch": [lambda p: rows.append(p.metrics)]}
    train_step, key = compiled()[1], jax.random.key(1)
    first = fit(start(), train_step, batches_of(4), key, on_step=[lambda p: p.step == stop], **options)
    # A new process has nothing but the numbers.
    train_state = jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), first.train_state)
    second = fit(train_state, train_step, batches_of(4), key, metrics=first.metrics, **options)
    assert (raw(second.train_state), rows) == uninterrupted


@pytest.mark.parametrize("changed", ["key", "seed of the batches"])
def test_key_and_batches_do_matter(uninterrupted, changed):
    seed, key = (5, 1) if changed == "seed of the batches" else (4, 2)
    fitted = fit(start(), compiled()[1], batches_of(seed), jax.random.key(key), epochs=3)
    assert raw(fitted.train_state) != uninterrupted[0]


def test_callbacks_see_a_train_state_that_is_there_to_be_copied():
    copies = []

    def keep(progress: Progress):
        copies.append(jax.tree.map(jnp.copy, progress.train_state))

    fit(start(), compiled()[1], batches_of(4), jax.random.key(1), epochs=1, on_step=[keep])
    assert [int(train_state.step) for train_state in copies] == [1, 2, 3, 4]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(copies))


def linear_logits(params, images):
    kernel, bias = np.asarray(params["head"]["kernel"], np.float64), np.asarray(params["head"]["bias"])
    return images.reshape(len(images), -1) @ kernel + bias


@pytest.mark.parametrize("batch_size", [1, 5, 7, 22, 23, 100])
def test_evaluate_counts_every_example_once_whatever_the_batch(batch_size):
    data = some_data()
    params, state = LINEAR.init(jax.random.key(0))
    total = evaluate(make_eval_step(LINEAR), params, state, eval_batches(data, batch_size), count=23)
    logits = linear_logits(params, data.entries["image"])
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(23), data.entries["label"]]
    assert total["loss"].weight == 23
    assert total["accuracy"] == Mean(np.sum(logits.argmax(1) == data.entries["label"]), 23)
    assert total["loss"].total == pytest.approx(losses.sum(), rel=1e-6)
    assert {type(number) for mean in total.values() for number in mean} == {np.float64}


@pytest.mark.parametrize(("count", "given"), [(23, 20), (23, 0), (22, 23), (None, 0)])
def test_evaluate_refuses_batches_of_another_number_of_examples(count, given):
    params, state = LINEAR.init(jax.random.key(0))
    batches = list(eval_batches(some_data(), 5))
    batches = {20: batches[:-1], 0: [], 23: batches}[given]
    with pytest.raises(ValueError, match=rf"expected batches of {count or 'some'} examples in all, got {given}$"):
        evaluate(make_eval_step(LINEAR), params, state, batches, count=count)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_predict_gives_the_logits_of_every_image_in_order(batch_size):
    data = some_data()
    params, state = LINEAR.init(jax.random.key(0))
    logits = predict(make_predict_step(LINEAR), params, state, image_batches(data.entries["image"], batch_size))
    assert (logits.shape, logits.dtype) == ((23, 3), np.float32)
    np.testing.assert_allclose(logits, linear_logits(params, data.entries["image"]), rtol=1e-4, atol=1e-5)


def test_predict_compiles_one_program_for_all_batches():
    shapes = []

    def record(x):
        shapes.append(x.shape)
        return x

    model = Sequential(record=Function(record), **dict(LINEAR.layers))
    params, state = model.init(jax.random.key(0))
    predict(make_predict_step(model), params, state, image_batches(some_data().entries["image"], 5))
    assert shapes == [(4, 4, 1)]


def test_predict_takes_trees_of_outputs_and_batches_without_weights():
    def predict_step(params, state, images):
        return {"sum": images.sum((1, 2, 3)), "first": images[:, 0, 0]}

    images = some_data().entries["image"]
    results = predict(predict_step, {}, {}, [{"image": images[:10]}, {"image": images[10:]}])
    np.testing.assert_allclose(results["sum"], images.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(results["first"], images[:, 0, 0])
    with pytest.raises(ValueError, match="predict expects batches of images, got none"):
        predict(predict_step, {}, {}, [])


@pytest.mark.parametrize(("images", "batch_size"), [(0, 5), (3, 0), (3, -1)])
def test_batches_of_nothing_and_empty_batches_are_refused(images, batch_size):
    with pytest.raises(
        ValueError, match=rf"expects images and a positive batch_size, got \({images}, 4, 4, 1\) and {batch_size}"
    ):
        image_batches(np.zeros((images, 4, 4, 1), np.float32), batch_size)


def test_the_history_has_a_row_for_each_finished_epoch():
    fitted = fake_fit(3, on_step=[lambda progress: progress.step == 9])
    assert fitted.history == [
        {"epoch": 1, "step": 4, "loss": 6 / 10, "accuracy": 4 / 10},
        {"epoch": 2, "step": 8, "loss": 22 / 26, "accuracy": 4 / 26},
    ]


class Again(NamedTuple):
    """Batches that can be gone through again and again, but not by step."""

    first: int
    count: int

    def __iter__(self):
        return ({"image": 0} for _ in range(self.first, self.first + self.count))


@pytest.mark.parametrize("kind", [list, Again])
def test_one_pass_through_an_iterable_is_an_epoch(kind):
    batches = [{"image": k} for k in range(3)] if kind is list else Again(0, 3)
    epochs, seen = [], []

    def train_step(train_state, batch, key):
        seen.append(batch["image"])
        return train_state._replace(step=train_state.step + 1), sums(1.0, 1, 1)

    fitted = fit(
        TrainState(np.int32(7), {}, {}, ()),
        train_step,
        batches,
        jax.random.key(0),
        epochs=2,
        on_epoch=[lambda progress: epochs.append((progress.step, progress.epoch, progress.metrics))],
    )
    assert seen == ([0, 1, 2] if kind is list else [0, 0, 0]) * 2
    assert epochs == [(10, 1, sums(3.0, 3, 3)), (13, 2, sums(3.0, 3, 3))]
    assert [row["epoch"] for row in fitted.history] == [1, 2]
    assert not fitted.stopped


@pytest.mark.parametrize("batches", [[], ({"image": k} for k in range(3))])
def test_an_epoch_without_batches_is_refused(batches):
    def train_step(train_state, batch, key):
        return train_state._replace(step=train_state.step + 1), sums(1.0, 1, 1)

    with pytest.raises(ValueError, match=r"in every epoch, got none in epoch [12]; give a list"):
        fit(TrainState(np.int32(0), {}, {}, ()), train_step, batches, jax.random.key(0), epochs=2)


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_what_is_prepared_ahead_comes_in_order_and_not_further_ahead_than_asked(size):
    made, main = [], threading.get_ident()

    def items():
        for number in range(20):
            made.append((number, threading.get_ident()))
            yield number

    iterator = ahead(items(), size)
    for number in range(20):
        assert next(iterator) == number
        assert len(made) <= number + 1 + size + 1
    assert next(iterator, None) is None
    assert all((thread == main) == (size == 0) for _, thread in made)


def test_an_exception_in_the_thread_comes_where_its_item_would():
    def items():
        yield 1
        raise KeyError("broken")

    iterator = ahead(items(), 2)
    assert next(iterator) == 1
    with pytest.raises(KeyError, match="broken"):
        next(iterator)
    assert next(iterator, None) is None


def test_a_training_that_ends_early_leaves_no_thread():
    before = threading.active_count()
    fake_fit(100, on_step=[lambda progress: progress.step == 3])
    with pytest.raises(NonFiniteLossError):
        fake_fit(100, losses=[math.nan] * 400)
    assert threading.active_count() == before


def test_the_thread_works_while_the_step_does():
    """Preparing and computing 50 ms each overlap: ten of both take little more than half of their sum."""

    class Slow(NamedTuple):
        steps_per_epoch: int = 10

        def __getitem__(self, step):
            time.sleep(0.05)
            return {"image": step}

    def train_step(train_state, batch, key):
        time.sleep(0.05)
        return train_state._replace(step=train_state.step + 1), sums(1.0, 1, 1)

    seconds = {}
    for prefetch in (0, 2):
        started = time.perf_counter()
        fit(TrainState(np.int32(0), {}, {}, ()), train_step, Slow(), jax.random.key(0), epochs=1, prefetch=prefetch)
        seconds[prefetch] = time.perf_counter() - started
    assert seconds[2] < 0.8 * seconds[0]


class Timer:
    """A clock that stands still unless it is moved."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def waiting_shares(monkeypatch, *, late, compute, read, steps=4):
    """Trains two epochs in which a step computes and then perhaps waits for its batch; the share after each step.

    Whether a batch is late, and its times, are those of `late(step)`, `compute` and `read`.
    """
    timer = Timer(monkeypatch)

    def ahead(items, size, on_wait):
        for step, item in enumerate(items):
            if late(step):
                on_wait()
                timer.now += read
            yield item

    monkeypatch.setattr(loop, "ahead", ahead)

    def train_step(train_state, batch, key):
        timer.now += compute
        return fake_step()(train_state, batch, key)

    shares, epochs = [], []
    fit(
        TrainState(np.int32(0), {}, {}, ()),
        train_step,
        Numbered(steps),
        jax.random.key(0),
        epochs=2,
        on_step=[lambda progress: shares.append(round(progress.waiting, 6))],
        on_epoch=[lambda progress: epochs.append(round(progress.waiting, 6))],
    )
    return shares, epochs


def test_the_share_of_waiting_begins_after_the_first_step_of_an_epoch(monkeypatch):
    with monkeypatch.context() as patch:
        shares, epochs = waiting_shares(patch, late=lambda step: False, compute=3.0, read=1.0)
    assert (shares, epochs) == ([0.0] * 8, [0.0, 0.0])
    with monkeypatch.context() as patch:
        shares, epochs = waiting_shares(patch, late=lambda step: True, compute=3.0, read=1.0)
    assert (shares, epochs) == ([0.0, 0.25, 0.25, 0.25] * 2, [0.25, 0.25])
    with monkeypatch.context() as patch:
        shares, epochs = waiting_shares(patch, late=lambda step: step == 1, compute=3.0, read=1.0)
    assert shares == [0.0, 0.25, round(1 / 7, 6), 0.1, 0.0, 0.0, 0.0, 0.0]
    assert epochs == [0.1, 0.0]


def test_waiting_begins_when_the_device_has_nothing_left_to_do(monkeypatch):
    """Before it waits, the loop blocks until the step before is done: that time is no waiting."""
    timer, finishes = Timer(monkeypatch), []

    def block_until_ready(pending):
        finishes.append(pending.sums["loss"].total)
        timer.now += 5.0

    def ahead(items, size, on_wait):
        for item in items:
            on_wait()
            timer.now += 5.0
            yield item

    monkeypatch.setattr(jax, "block_until_ready", block_until_ready)
    monkeypatch.setattr(loop, "ahead", ahead)
    shares = []
    fake_fit(1, on_step=[lambda progress: shares.append(progress.waiting)])
    assert finishes == [0.0, 1.0, 2.0]
    assert shares == [0.0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("size", [1, 3])
def test_a_late_item_is_announced_and_one_that_is_there_is_not(size):
    released, waits = threading.Semaphore(0), []

    def items():
        for number in range(4):
            released.acquire()
            yield number

    iterator = ahead(items(), size, lambda: waits.append(1) or released.release())
    assert list(iterator) == [0, 1, 2, 3]
    # Each of the items, and their end, which may have come in time.
    assert len(waits) in (4, 5)
    waits.clear()
    made = threading.Event()

    def quick():
        yield 1
        made.set()
        yield 2

    iterator = ahead(quick(), 2, lambda: waits.append(1))
    next(iterator)
    made.wait()
    assert len(waits) <= 1


def test_the_items_of_a_loop_that_ends_early_are_closed():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    generator = items()
    iterator = ahead(generator, 2)
    next(iterator)
    iterator.close()
    assert closed == [True]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_that_threads_read_are_those_of_one_thread(uninterrupted, prefetch):
    batches = Batches(some_data(), 5, seed=4, workers=3)
    before = threading.active_count()
    fitted = fit(start(), compiled()[1], batches, jax.random.key(1), epochs=3, prefetch=prefetch)
    assert raw(fitted.train_state) == uninterrupted[0]
    assert threading.active_count() == before


@pytest.mark.parametrize(("seconds", "together"), [(0.5, 1), (0.011, 1), (0.006, 3), (0.0001, 16)])
def test_the_metrics_of_quick_steps_are_read_together(seconds, together, monkeypatch):
    """As many as take 20 ms, and 16 at most; their sums do not depend on it."""
    timer, lag, epochs = Timer(monkeypatch), [], []

    def train_step(train_state, batch, key):
        timer.now += seconds
        return train_state._replace(step=train_state.step + 1), sums(0.1 * batch["image"], 1, 1)

    def on_step(progress):
        lag.append(progress.step - int(dict(progress.metrics.sums).get("accuracy", Mean(0, 0)).total))

    fit(
        TrainState(np.int32(0), {}, {}, ()),
        train_step,
        Numbered(50),
        jax.random.key(0),
        epochs=1,
        on_step=[on_step],
        on_epoch=[lambda progress: epochs.append(progress.metrics)],
    )
    assert (min(lag), max(lag)) == (1, together)
    expected = 0.0
    for step in range(50):
        expected += 0.1 * step
    assert epochs == [sums(expected, 50, 50)]


def test_a_loss_that_is_not_finite_among_quick_steps_is_found_with_its_step(monkeypatch):
    Timer(monkeypatch)
    with pytest.raises(NonFiniteLossError, match="got nan at step 3"):
        fake_fit(1, steps_per_epoch=50, losses=[1.0, 1.0, math.nan] + [1.0] * 47)


def test_the_metrics_of_a_step_come_in_one_transfer(monkeypatch, read_each_step):
    """On an accelerator; on CPU there is no transfer."""
    transfers = []

    def device_get(tree):
        metrics = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Metrics))
        transfers.append([one for one in metrics if isinstance(one, Metrics)])
        return original(tree)

    original = jax.device_get
    monkeypatch.setattr(jax, "device_get", device_get)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        fit(start(), compiled()[1], batches_of(4), jax.random.key(1), epochs=1)
    assert [len(metrics) for metrics in transfers if metrics] == [1, 1, 1, 1]
