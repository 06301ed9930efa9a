import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.cli.pairs import Batches, Dataset, ImageAugment, eval_batches
from jaxcnn.data import Step, shift
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Function, Sequential
from jaxcnn.training import (
    Metrics,
    NonFiniteLossError,
    Progress,
    TrainState,
    evaluate,
    fit,
    init_train_state,
    make_eval_step,
    make_predict_step,
    make_train_step,
    predict,
)

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
    return Dataset(images, random.integers(0, 3, examples).astype(np.int32), ("a", "b", "c"))


class Numbered(NamedTuple):
    """Batches whose images are their own step, so that a fake training step can tell which one it got."""

    steps_per_epoch: int

    def __getitem__(self, step):
        return step, step


def fake_step(losses=None):
    """A training step on the host: step k has the loss `losses[k]` (k if not given) and counts k + 1 examples."""

    def train_step(train_state, images, labels, key):
        assert int(train_state.step) == images == labels
        loss = float(images) if losses is None else losses[images]
        return train_state._replace(step=train_state.step + 1), Metrics(loss, 1, images + 1)

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
    sums = []
    fake_fit(2, on_epoch=[lambda progress: sums.append(progress.metrics)])
    assert sums == [Metrics(0.0 + 1 + 2 + 3, 4, 1 + 2 + 3 + 4), Metrics(4.0 + 5 + 6 + 7, 4, 5 + 6 + 7 + 8)]


def test_after_a_step_the_metrics_lack_that_step_which_may_still_be_computed():
    sums = []
    fake_fit(2, on_step=[lambda progress: sums.append(progress.metrics.loss)])
    assert sums == [0.0, 0.0, 0.0 + 1, 0.0 + 1 + 2, 0.0, 4.0, 4.0 + 5, 4.0 + 5 + 6]


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
    assert fitted.metrics == Metrics(float(sum(unfinished)), len(unfinished), sum(k + 1 for k in unfinished))


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
    sums = []
    stopped = fake_fit(2, on_step=[lambda progress: progress.step == 6])
    fake_fit(2, first=6, metrics=stopped.metrics, on_epoch=[lambda progress: sums.append(progress.metrics)])
    assert sums == [Metrics(4.0 + 5 + 6 + 7, 4, 5 + 6 + 7 + 8)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", range(1, 9))
def test_a_loss_that_is_not_finite_stops_and_names_its_step(bad, value):
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

    def train_step(train_state, images, labels, key):
        return train_state._replace(step=train_state.step + 1), Metrics(1.0, 1, 1, math.nan, 7 * (images == bad - 1))

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


class Planted(NamedTuple):
    """Batches with one NaN pixel at one step."""

    batches: Batches
    step: int

    @property
    def steps_per_epoch(self):
        return self.batches.steps_per_epoch

    def __getitem__(self, step):
        images, labels = self.batches[step]
        if step == self.step:
            images[0, 1, 1, 0] = np.nan  # where no shift by one pixel loses it
        return images, labels


@functools.cache
def compiled():
    optimizer = optax.sgd(optax.linear_schedule(0.1, 0.0, 20), momentum=0.9)
    return optimizer, make_train_step(MODEL, optimizer, augment=ImageAugment(Step(shift, max_shift=1)))


def start():
    return init_train_state(MODEL, compiled()[0], jax.random.key(0))


@pytest.mark.parametrize("bad", [0, 2, 3, 5, 7])
def test_one_bad_pixel_stops_the_training_at_its_step(bad):
    batches = Planted(Batches(some_data(), 5, seed=0), bad)
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
    sums = []
    options = {"epochs": 1, "on_epoch": [lambda progress: sums.append(progress.metrics)]}
    arguments = train_state, make_train_step(SILENT, optimizer), Batches(some_data(), 5, seed=0), jax.random.key(1)
    if repaired:
        fit(*arguments, **options)
        assert math.isfinite(sums[0].loss)
        assert math.isnan(sums[0].gradient_norm)
    else:
        with pytest.raises(NonFiniteLossError, match="got NaN or infinity in 2 arrays after step 1;"):
            fit(*arguments, **options)


def test_an_update_that_overflows_is_found_at_its_step():
    optimizer = optax.sgd(lambda count: jnp.where(count < 3, 0.1, jnp.inf))
    train_state = init_train_state(LINEAR, optimizer, jax.random.key(0))
    arguments = make_train_step(LINEAR, optimizer), Batches(some_data(), 5, seed=0), jax.random.key(1)
    with pytest.raises(NonFiniteLossError, match="got NaN or infinity in 2 arrays after step 4;"):
        fit(train_state, *arguments, epochs=1)


def test_a_label_out_of_range_stops_and_the_message_says_so():
    class OneBadLabel(NamedTuple):
        steps_per_epoch: int = 4

        def __getitem__(self, step):
            images, labels = Batches(some_data(), 5, seed=0)[step]
            return images, np.where((step == 2) & (np.arange(5) == 1), 3, labels)

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
    batches = Batches(some_data(), 5, seed=4)
    fitted = fit(
        start(), compiled()[1], batches, jax.random.key(1), epochs=3, on_epoch=[lambda p: rows.append(p.metrics)]
    )
    return raw(fitted.train_state), rows


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8, 11])
def test_stopped_and_resumed_is_byte_for_byte_the_same_as_never_stopped(uninterrupted, stop):
    rows = []
    options = {"epochs": 3, "on_epoch": [lambda p: rows.append(p.metrics)]}
    train_step, key = compiled()[1], jax.random.key(1)
    first = fit(
        start(), train_step, Batches(some_data(), 5, seed=4), key, on_step=[lambda p: p.step == stop], **options
    )
    # A new process has nothing but the numbers.
    train_state = jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), first.train_state)
    second = fit(train_state, train_step, Batches(some_data(), 5, seed=4), key, metrics=first.metrics, **options)
    assert (raw(second.train_state), rows) == uninterrupted


@pytest.mark.parametrize("changed", ["key", "seed of the batches"])
def test_key_and_batches_do_matter(uninterrupted, changed):
    seed, key = (5, 1) if changed == "seed of the batches" else (4, 2)
    fitted = fit(start(), compiled()[1], Batches(some_data(), 5, seed=seed), jax.random.key(key), epochs=3)
    assert raw(fitted.train_state) != uninterrupted[0]


def test_callbacks_see_a_train_state_that_is_there_to_be_copied():
    copies = []

    def keep(progress: Progress):
        copies.append(jax.tree.map(jnp.copy, progress.train_state))

    fit(start(), compiled()[1], Batches(some_data(), 5, seed=4), jax.random.key(1), epochs=1, on_step=[keep])
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
    logits = linear_logits(params, data.images)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(23), data.labels]
    assert total.examples == 23
    assert total.correct == np.sum(logits.argmax(1) == data.labels)
    assert total.loss == pytest.approx(losses.sum(), rel=1e-6)
    assert total[3:] == (0.0, 0)
    assert [type(value) for value in total] == [float, int, int, float, int]


@pytest.mark.parametrize(("count", "given"), [(23, 20), (23, 0), (22, 23)])
def test_evaluate_refuses_batches_of_another_number_of_examples(count, given):
    params, state = LINEAR.init(jax.random.key(0))
    batches = list(eval_batches(some_data(), 5))
    batches = {20: batches[:-1], 0: [], 23: batches}[given]
    with pytest.raises(ValueError, match=rf"expected batches of {count} examples in all, got {given}$"):
        evaluate(make_eval_step(LINEAR), params, state, batches, count=count)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_predict_gives_the_logits_of_every_image_in_order(batch_size):
    data = some_data()
    params, state = LINEAR.init(jax.random.key(0))
    logits = predict(make_predict_step(LINEAR), params, state, data.images, batch_size=batch_size)
    assert (logits.shape, logits.dtype) == ((23, 3), np.float32)
    np.testing.assert_allclose(logits, linear_logits(params, data.images), rtol=1e-4, atol=1e-5)


def test_predict_compiles_one_program_for_all_batches():
    shapes = []

    def record(x):
        shapes.append(x.shape)
        return x

    model = Sequential(record=Function(record), **dict(LINEAR.layers))
    params, state = model.init(jax.random.key(0))
    predict(make_predict_step(model), params, state, some_data().images, batch_size=5)
    assert shapes == [(4, 4, 1)]


@pytest.mark.parametrize(("images", "batch_size"), [(0, 5), (3, 0), (3, -1)])
def test_predict_refuses_nothing_and_empty_batches(images, batch_size):
    params, state = LINEAR.init(jax.random.key(0))
    with pytest.raises(
        ValueError, match=rf"expects images and a positive batch_size, got \({images}, 4, 4, 1\) and {batch_size}"
    ):
        predict(
            make_predict_step(LINEAR), params, state, np.zeros((images, 4, 4, 1), np.float32), batch_size=batch_size
        )
