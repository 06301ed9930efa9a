"""Damaged files of every format: a few here, many at night; see `fuzz_weights`."""

import tracemalloc

import pytest
from fuzz_weights import fuzz


@pytest.fixture(autouse=True)
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.heavy
def test_damaged_files_are_read_rightly_or_refused_as_documented(tmp_path):
    totals = fuzz(400, 1, tmp_path)
    assert sum(read for read, _ in totals.values()) == 400
    assert all(refused for read, refused in totals.values() if read > 10)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_damaged_files_are_read_rightly_or_refused_as_documented(seed, tmp_path):
    fuzz(10_000, seed, tmp_path)
