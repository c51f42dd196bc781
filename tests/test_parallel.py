"""The number of threads, the pool that runs tasks, and the limit on BLAS."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mfdeq
from mfdeq import parallel


def test_threads_are_set_for_a_block_or_from_now_on():
    before = mfdeq.threads()
    with mfdeq.threads(3) as number:
        assert number == mfdeq.threads() == 3
        with mfdeq.threads(1):
            assert mfdeq.threads() == 1
        assert mfdeq.threads() == 3
    assert mfdeq.threads() == before
    setting = mfdeq.threads(2)
    try:
        assert mfdeq.threads() == 2
    finally:
        setting.__exit__()
    assert mfdeq.threads() == before


@pytest.mark.parametrize("number", [0, -1, 1.5, "two"])
def test_a_number_of_threads_is_a_positive_integer(number):
    with pytest.raises(mfdeq.ArgumentError, match=r"number of mfdeq\.threads"):
        mfdeq.threads(number)


@pytest.mark.parametrize(
    ("variable", "quota", "expected"),
    [
        ("3", "max 100000", 3),
        ("3,2", "max 100000", 3),
        ("", "max 100000", 4),
        ("0", "max 100000", 4),
        (None, "max 100000", 4),
        (None, "150000 100000", 2),
        (None, "50000 100000", 1),
        (None, "800000 100000", 4),
        (None, None, 4),
    ],
)
def test_the_default_is_what_the_process_may_use(monkeypatch, tmp_path, variable, quota, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    path = tmp_path / "cpu.max"
    if quota is not None:
        path.write_text(quota)
    monkeypatch.setattr(parallel, "CPU_QUOTA", path)
    monkeypatch.setattr(parallel, "available_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert parallel.usable_threads() == expected


@pytest.mark.parametrize("number", [1, 2, 4])
def test_every_task_is_called_once(number):
    pairs = [(i, -i) for i in range(50)]
    with mfdeq.threads(number):
        for tasks in (0, 1, 2, 3, 50):
            calls = []
            parallel.share(lambda *task, calls=calls: calls.append(task), pairs[:tasks])
            assert sorted(calls) == pairs[:tasks]


def test_tasks_run_at_the_same_time():
    barrier = threading.Barrier(2, timeout=30.0)
    with mfdeq.threads(2):
        parallel.share(barrier.wait, [(), ()])


def test_an_error_in_any_task_is_raised_after_the_others():
    running = []

    def task(i):
        running.append(i)
        try:
            if i == 1:
                raise ValueError("task 1")
            time.sleep(0.02)
        finally:
            running.remove(i)

    with mfdeq.threads(3):
        for _ in range(10):
            with pytest.raises(ValueError, match="task 1"):
                parallel.share(task, [(i,) for i in range(4)])
            assert running == []


def test_several_threads_and_tasks_share_the_pool():
    """Callers do not wait for each other, and there are no more threads than were asked for."""

    def total(j):
        sums = np.zeros(5)

        def inner(i, k):
            sums[i] += j + k

        def outer(i):
            parallel.share(inner, [(i, k) for k in range(3)])

        parallel.share(outer, [(i,) for i in range(5)])
        return sums.tolist()

    def helpers():
        return sum(thread.name == "mfdeq" for thread in threading.enumerate())

    before = helpers()  # of tests with more threads
    with mfdeq.threads(3), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(total, range(200)))
    assert found == [[3.0 * j + 3.0] * 5 for j in range(200)]
    assert helpers() <= max(before, 2)


def test_threads_of_the_pool_sleep_while_there_is_nothing_to_do():
    with mfdeq.threads(2):
        parallel.share(lambda i: None, [(i,) for i in range(8)])
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_a_forked_process_has_threads_of_its_own():
    with mfdeq.threads(2):
        parallel.share(lambda i: None, [(i,) for i in range(8)])
    pool = parallel._Pool()
    pool.size = 5
    pool.reset()
    assert pool.size == 0


def test_blas_has_one_thread_within_the_block():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="the fast extra is not installed")
    # Not that of PARDISO, which its calls limit themselves.
    blas = threadpoolctl.ThreadpoolController().select(internal_api="openblas")

    def numbers():
        return {library.num_threads for library in blas.lib_controllers}

    def job(j):
        with parallel.single_threaded_blas():
            time.sleep(0.001 * (j % 3))

    with blas.limit(limits=2):
        limited = numbers()
        assert 2 in limited  # some packages bring one that has no threads
        with parallel.single_threaded_blas():
            assert numbers() == {1}
        assert numbers() == limited
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(job, range(40)))
        assert numbers() == limited
