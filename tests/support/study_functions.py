"""Functions of cases, where worker processes can import them; run as a script, a whole study."""

import os
import signal
import sys
import time

import numpy as np
import scipy.sparse.linalg

import mfdeq
from mfdeq.studies import grid

MANY = grid(i=range(25), j=range(20))


def pair(i, j):
    return {"sum": i + j, "state": np.arange(3.0) + 10 * i + j, "word": f"{i}{j}"}


def waves(i):
    return {"python": 1 + 2j * i, "single": np.complex64(3j), "array": np.array([1j, 2.0])}


def drawn(i, rng):
    return {"numbers": rng.standard_normal(4)}


def moody(i):
    if i == 1:
        raise ValueError("one is not liked")
    if i == 2:
        return {"bad": object()}
    return {"twice": 2 * i}


def deadly(i):
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {"twice": 2 * i}


def started(x, kind, start=None):
    return {"state": np.array([x]), "was": None if start is None else float(start[0])}


def onwards(x, state):
    return {"state": 0 if state is None else state + 1}


def partly(i):
    bad = {
        1: lambda: scipy.sparse.eye_array(3),
        2: lambda: scipy.sparse.csr_matrix(np.eye(2)),
        3: lambda: scipy.sparse.linalg.aslinearoperator(np.eye(2)),
    }
    return {"m": bad[i]() if i in bad else i, "twice": 2 * i, "x": np.ones(2) * i}


def ragged(i):
    return {"rows": [[1, 2], [3]], "even": bool(i % 2)}


def seldom(i):
    if i == 1:
        raise ValueError("one is not liked")
    return {"even": i == 0}


def masked(i):
    return {"x": np.ma.masked_array([1.0, 2.0], [False, True])}


def slow(i, j):
    time.sleep(float(os.environ.get("SECONDS_A_CASE", "0.004")))
    return pair(i, j)


def interrupted(i):
    if i == 2:
        raise KeyboardInterrupt
    return i


if __name__ == "__main__":
    # A shell that starts it in the background has it ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mfdeq.Study(sys.argv[1]).map(slow, MANY, workers=2, progress=False)
