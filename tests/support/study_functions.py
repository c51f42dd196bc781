"""Functions of cases that worker processes can import; as a script, a study of `slow`."""

import functools
import os
import signal
import sys
import time

import numpy as np
import scipy.sparse.linalg

import mfdeq
from mfdeq.studies import grid

PAIRS = grid(i=range(4), j=range(3))


def pair(i, j):
    return {"sum": i + j, "state": np.arange(3.0) + 10 * i + j, "word": f"{i}{j}"}


def complex_outputs(i):
    return {"python": 1 + 2j * i, "single": np.complex64(3j), "array": np.array([1j, 2.0])}


def threads_of_the_worker(i):
    return {"threads": mfdeq.threads()}


def random_numbers(i, rng):
    return {"numbers": rng.standard_normal(4)}


def fail_for_one_and_two(i):
    if i == 1:
        raise ValueError("one is not liked")
    if i == 2:
        return {"bad": object()}
    return {"twice": 2 * i}


def root_of(x):
    """Solve h² = x, where the model itself says that there is no root of a negative number."""

    def residual(h, theta):
        if np.real(theta[0]) < 0:
            raise mfdeq.DomainError("no root of a negative number")
        return h**2 - theta

    model = mfdeq.from_function(residual, 1, 1, "residual")
    return {"root": float(mfdeq.solve(model, np.array([x]), np.ones(1)).state[0])}


def kill_worker_for_three(i):
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {"twice": 2 * i}


def warm_started(x, kind, start=None):
    return {"state": np.array([x]), "was": None if start is None else float(start[0])}


def continue_state(x, state):
    return {"state": 0 if state is None else state + 1}


def partly_storable(i):
    bad = {
        1: lambda: scipy.sparse.eye_array(3),
        2: lambda: scipy.sparse.csr_matrix(np.eye(2)),
        3: lambda: scipy.sparse.linalg.aslinearoperator(np.eye(2)),
    }
    return {"m": bad[i]() if i in bad else i, "twice": 2 * i, "x": np.ones(2) * i}


def ragged_list(i):
    return {"rows": [[1, 2], [3]], "even": bool(i % 2)}


def fail_for_one(i):
    if i == 1:
        raise ValueError("one is not liked")
    return {"even": i == 0}


def spectrum(x, kind):
    if x > 1.5:
        raise ValueError(f"{x} is too large")
    values = x * np.array([1.0, 1e-2, 1e-3])
    return {"values": values, "norm": np.linalg.norm(values), "count": round(10 * x)}


def fields(x):
    signed = np.outer(np.linspace(-1.0, 1.0, 12), np.full(300, x))
    return {
        "depth": 1.0 + signed**2,
        "signed": signed,
        "almost_positive": signed**2 - 0.1,
        "steps": np.stack([t * signed for t in range(9)]),
        "eigenvalues": x * np.array([0.5, -3.0, 2.0, 1e-3]),
        "words": np.array([["a", "b"], ["c", "d"]]),
    }


def vectors(n):
    index = np.arange(n, dtype=float)
    return {
        "state": index[:, None] ** 2,
        "profile": np.arange(5000.0) - n,
        "list": [n, 1.5, -2.0],
        "wave": np.exp(1j * index) * n,
        "one": np.array([float(n)]),
        "names": np.array(["a", "b", "c"]),
        "cells": [[1, 2], [3, 4]],
        "none": np.zeros(0),
    }


def masked_array(i):
    return {"x": np.ma.masked_array([1.0, 2.0], [False, True])}


def slow(i, j, seconds):
    time.sleep(seconds)
    return pair(i, j)


def interrupt_for_two(i):
    if i == 2:
        raise KeyboardInterrupt
    return i


if __name__ == "__main__":
    # A script that a shell starts in the background ignores interrupts by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    directory, rows, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    mfdeq.Study(directory).map(
        functools.partial(slow, seconds=seconds),
        grid(i=range(rows), j=range(20)),
        workers=2,
        progress=False,
    )
