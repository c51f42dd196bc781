"""Ranks on one machine share its cores."""

import os

import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import COMM

import mfdeq
from mfdeq.petsc import threads

MPI = COMM.tompi4py()


def test_threads_of_all_ranks_are_at_most_the_cores(monkeypatch):
    for name in threads.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    limit = threads.limit_threads(MPI)
    if MPI.size == 1:
        assert limit is None
        return
    cores = len(set().union(*MPI.allgather(os.sched_getaffinity(0))))
    assert limit == max(1, cores // MPI.size)
    assert mfdeq.threads() <= limit
    assert all(get_threads() <= limit for _, get_threads in threads.thread_functions())


@pytest.mark.parametrize("name", threads.THREAD_VARIABLES)
def test_threads_that_the_user_has_set_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "2")
    monkeypatch.setattr(threads, "set_thread_limit", lambda limit: pytest.fail("it was changed"))
    assert threads.limit_threads(MPI) is None


def test_limit_reduces_the_threads_of_the_loaded_libraries():
    functions = list(threads.thread_functions())
    assert functions
    before = [get_threads() for _, get_threads in functions]
    for set_threads, _ in functions:
        set_threads(2)
    with mfdeq.threads(2):
        threads.set_thread_limit(1)
        assert mfdeq.threads() == 1
    found = [get_threads() for _, get_threads in functions]
    for (set_threads, _), count in zip(functions, before, strict=True):
        set_threads(count)
    assert found == [1] * len(functions)
