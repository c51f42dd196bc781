"""How often iterations read from the device; each read waits for everything launched before it."""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest
from support.matrices import diffusion, unit

from mfdeq.arrays import kernels
from mfdeq.arrays.backend import Backend
from mfdeq.linear.krylov import cg as by_cg
from mfdeq.linear.krylov import columns, gmres
from mfdeq.linear.krylov.block_gmres import block_gmres
from mfdeq.linear.krylov.cg import block_cg, cg
from mfdeq.linear.krylov.recycling import Recycled
from mfdeq.linear.preconditioners.cycle import Smoothed, v_cycle

DEVICE = strict.Device("device1")
A = diffusion(8).toarray()
COARSE = np.kron(np.eye(8), np.kron(np.eye(4), np.ones((2, 1))))


def on_device(x):
    return strict.asarray(np.asarray(x), device=DEVICE)


@pytest.fixture
def reads(monkeypatch):
    """Count the reads of array_api_strict's arrays by Python's conversions and by transfers."""
    count = [0]

    def counting(function):
        def wrapped(*args):
            count[0] += 1
            return function(*args)

        return wrapped

    array = type(on_device(0.0))
    for name in ("__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(array, name, counting(getattr(array, name)))
    for module in (by_cg, gmres, columns):
        monkeypatch.setattr(module, "array_on_host", counting(module.array_on_host))
    return count


@pytest.mark.parametrize("k", [1, 5])
def test_conjugate_gradients_read_once_an_iteration(reads, k):
    dense, steps = on_device(A), []
    B = on_device(unit(64, k))
    solved = cg(Backend.of(B), lambda X: dense @ X, lambda R: R / 4.0, B, 1e-8, 100, steps.append)
    assert solved.stopped == ""
    assert len(steps) > 15
    assert reads[0] == len(steps) + 1


@pytest.mark.parametrize("k", [1, 5])
def test_gmres_reads_once_an_iteration_and_three_times_a_cycle(reads, k):
    dense, steps = on_device(A), []
    B = on_device(unit(64, k))
    solved = gmres.gmres(
        Backend.of(B), lambda X: dense @ X, lambda R: R / 4.0, B, 1e-8, 100, steps.append, length=10
    )
    assert solved.stopped == ""
    cycles = -(-len(steps) // 10)
    assert cycles > 1
    assert reads[0] <= len(steps) + 3 * cycles + 1


@pytest.mark.parametrize(("k", "reads_an_iteration"), [(1, 1), (5, 2)])
@pytest.mark.parametrize("recycling", [False, True])
def test_gmres_in_one_space_also_reads_the_rank_of_a_block(reads, k, reads_an_iteration, recycling):
    dense, steps = on_device(A), []
    B = on_device(unit(64, k))
    space = Recycled(Backend.of(B), 4) if recycling else None
    solved = block_gmres(
        Backend.of(B),
        lambda X: dense @ X,
        lambda R: R / 4.0,
        B,
        1e-8,
        100,
        steps.append,
        length=9,
        recycled=space,
    )
    assert solved.stopped == ""
    cycles = -(-len(steps) // 9)
    assert cycles > 1
    assert reads[0] <= reads_an_iteration * len(steps) + (5 + 2 * recycling) * cycles + 1


def test_conjugate_gradients_in_one_space_read_four_times_an_iteration(reads):
    dense, steps = on_device(A), []
    B = on_device(unit(64, 5))
    solved = block_cg(
        Backend.of(B), lambda X: dense @ X, lambda R: R / 4.0, B, 1e-8, 100, steps.append
    )
    assert solved.stopped == ""
    assert reads[0] <= 4 * len(steps) + 4


def test_a_multigrid_cycle_never_reads(reads):
    P = on_device(COARSE)
    diagonal = on_device(1 / np.diag(A))
    level = Smoothed(kernels, on_device(A), P, P.T, diagonal, largest=2.0, degree=2)
    coarse = on_device(np.linalg.inv(COARSE.T @ A @ COARSE))
    B = on_device(unit(64, 3))
    x = v_cycle([level], coarse, B)
    assert reads[0] == 0
    assert float(strict.sum(x * B)) > 0
