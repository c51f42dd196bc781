"""Work that does not fit is refused before it starts, and memory does not grow over products."""

from __future__ import annotations

import gc
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from benchmarks.problems import Diffusion
from benchmarks.systems import diffusion

import mfdeq
from mfdeq.arrays import memory
from mfdeq.arrays.backend import Backend
from mfdeq.linear.operands import operator_of
from mfdeq.linear.preconditioners import amg_cycle
from mfdeq.report import LinearCounts

AMG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
KERNELS = Backend.of(np.zeros(1)).kernels
MODEL = Diffusion(20)  # 400 unknowns


def hessian(solver):
    eq = mfdeq.solve(MODEL, MODEL.lognormal(), solver=solver)
    return eq.hessian(MODEL.loss(30))


@pytest.fixture
def limit_memory(monkeypatch):
    """Return a function that simulates a machine of so many bytes and checks small arrays too."""

    def limit(size):
        monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
        monkeypatch.setattr(KERNELS, "available_bytes", lambda device: size)

    return limit


@dataclass(frozen=True)
class Work:
    """Work on a Hessian H or a matrix A of 900 unknowns, and its error where memory is short."""

    run: Callable
    limit: int  # bytes, too few for it; a hundred times as many are enough
    what: str
    advice: str


WORKS = {
    "product": Work(
        lambda H, A: H @ np.ones((400, 50)),
        40_000,
        "Hessian with 50 columns",
        "multiply fewer columns",
    ),
    "solve": Work(
        lambda H, A: H.eq.inverse @ np.broadcast_to(np.ones((400, 1)), (400, 50)),
        40_000,
        "Inverse with 50 columns",
        "fewer columns",
    ),
    "eigsh": Work(
        lambda H, A: mfdeq.eigsh(H, 3), 30_000, "basis of .* vectors", "basis= of mfdeq.eigsh"
    ),
    "gmres": Work(
        lambda H, A: mfdeq.Krylov(preconditioner=mfdeq.AMG()).setup(A).solve(np.ones(900)),
        60_000,
        "GMRES with 15 vectors for each of 1 columns",
        "restart=",
    ),
    "amg": Work(lambda H, A: mfdeq.AMG().setup(A), 10_000, "multigrid hierarchy", "float32"),
    "fronts": Work(
        lambda H, A: mfdeq.Direct(package="multifrontal").setup(A),
        100_000,
        "multifrontal factorization",
        "iterative",
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_work_that_does_not_fit_is_refused_before_it_starts(name, limit_memory):
    work, H, A = WORKS[name], hessian(AMG), operator_of(diffusion(30, 2).A)
    limit_memory(work.limit)
    figures = r" needs at least [\d.e-]+ GiB, but only [\d.e-]+ GiB are available: .*"
    with pytest.raises(mfdeq.OutOfMemoryError, match=work.what + figures + work.advice):
        work.run(H, A)
    limit_memory(100 * work.limit)
    work.run(H, A)


def test_an_out_of_memory_error_is_a_memory_error():
    assert issubclass(mfdeq.OutOfMemoryError, MemoryError)


def test_auto_passes_over_a_solver_that_does_not_fit(limit_memory):
    matrix = operator_of(diffusion(22, 3).A)
    limit_memory(3_000_000)
    factor = mfdeq.Auto(solves=100).setup(matrix)
    assert "AMG" in factor.name
    b = np.ones(matrix.shape[0])
    assert np.linalg.norm(matrix @ factor.solve(b) - b) <= 1e-9 * np.linalg.norm(b)


def test_the_report_shows_the_peak_of_memory():
    H = hessian(AMG)
    assert H.eq.report.forward.peak_bytes > 2**20
    _ = H @ np.ones(400)
    report = H.eq.report
    assert report.linear.peak_bytes >= report.forward.peak_bytes
    assert re.search(rf"peak memory +{report.linear.peak_bytes / 2**20:.0f} MiB\n", str(report))


GMRES = mfdeq.Krylov(preconditioner=mfdeq.ILU(), recycle=10)


@pytest.mark.parametrize(
    "solver", [mfdeq.Direct(), AMG, pytest.param(GMRES, marks=pytest.mark.slow)], ids=str
)
def test_memory_does_not_grow_from_product_to_product(solver):
    H = hessian(solver)
    v = np.random.default_rng(0).standard_normal(400)
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(5):
            for _ in range(100):
                _ = H @ v
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # A leak shows in every round; what Python and its caches keep of small blocks does not.
    assert min(np.diff(sizes)) < 6_000  # a vector kept in two of 100 products takes 6,400 bytes


def test_blocks_are_as_wide_as_memory_allows_and_the_solution_is_the_same(monkeypatch):
    matrix = operator_of(diffusion(30, 2).A)
    B = np.random.default_rng(0).standard_normal((900, 20))
    widths, found = [], []
    for available in (10**9, 4 * 31 * 8 * 900 * 8):
        seen = []

        def noted(levels, coarse, b, v_cycle=amg_cycle.v_cycle, seen=seen):
            seen.append(b.shape[1])
            return v_cycle(levels, coarse, b)

        with monkeypatch.context() as patch:
            patch.setattr(KERNELS, "available_bytes", lambda device, size=available: size)
            patch.setattr(amg_cycle, "v_cycle", noted)
            found.append(mfdeq.Krylov(preconditioner=mfdeq.AMG()).setup(matrix).solve(B))
        widths.append(max(seen))
    assert widths == [16, 6]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-9)


class FullTransfer:
    """A multigrid transfer that there is no memory for."""

    def astype(self, dtype):
        raise MemoryError


def test_a_cycle_survives_a_refresh_that_runs_out_of_memory():
    first, second = (operator_of(diffusion(40, 2).A * scale) for scale in (1.0, 2.0))
    M = mfdeq.AMG().setup(first)
    x = np.ones(1600)
    before = M @ x
    M.transfers = [(FullTransfer(), None)]
    with pytest.raises(MemoryError):
        M.refresh(second)
    np.testing.assert_array_equal(M @ x, before)


def test_a_refresh_that_runs_out_of_memory_is_replaced_by_a_setup():
    first, second = (operator_of(diffusion(40, 2).A * scale) for scale in (1.0, 2.0))
    reused, counts = mfdeq.linear.Reused(AMG), LinearCounts()
    reused.setup(first)
    reused.held.M.transfers = [(FullTransfer(), None)]
    reused.renew(second, counts).solve(np.ones(1600))
    assert (counts.setups, counts.refreshes) == (1, 0)


def test_a_block_too_wide_for_memory_is_multiplied_in_parts(limit_memory, monkeypatch):
    """The vectors of a block take at most a quarter of the memory."""
    H = hessian(mfdeq.Direct())
    V = np.random.default_rng(0).standard_normal((400, 40))
    expected, widths = H @ V, []
    B = H.eq.param_operator
    multiply = B._apply

    def noted(x):
        widths.append(x.shape[1])
        return multiply(x)

    monkeypatch.setattr(B, "_apply", noted)
    limit_memory(4 * 7 * 6 * 800 * 8)
    np.testing.assert_allclose(H @ V, expected, rtol=1e-12)
    assert widths == [7] * 5 + [5]


ENTRY_POINTS = {
    "product": lambda H: H @ np.ones(400),
    "trace": lambda H: mfdeq.trace(H, products=30),
    "spectral_density": lambda H: mfdeq.spectral_density(H, probes=4, steps=3),
    "Nystrom": lambda H: mfdeq.Nystrom(H, 5),
    "with_error": lambda H: H.with_error(np.ones(400)),
    "randomized_eigsh": lambda H: mfdeq.randomized_eigsh(H, 3),
}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_allocation_that_fails_in_a_product_becomes_an_error_with_advice(name, monkeypatch):
    H = hessian(mfdeq.Direct())

    def full(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(H.eq.param_operator, "_apply", full)
    with pytest.raises(mfdeq.OutOfMemoryError, match=r"9 GiB.*Use fewer columns"):
        ENTRY_POINTS[name](H)
