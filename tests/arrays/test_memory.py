"""What cannot be held is refused before the work; the peak is reported; nothing grows."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from benchmarks.problems import Diffusion
from benchmarks.systems import diffusion

import mfdeq
from mfdeq.arrays import kernels, memory
from mfdeq.linear.operands import operator_of
from mfdeq.report import LinearCounts

AMG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
MODEL = Diffusion(20)


def hessian(solver):
    eq = mfdeq.solve(MODEL, MODEL.lognormal(), solver=solver)
    return eq.hessian(MODEL.loss(30))


@pytest.fixture
def room(monkeypatch):
    """Makes it a machine of so many bytes, where the smallest array is looked at."""

    def of(size):
        monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
        monkeypatch.setattr(kernels, "available_bytes", lambda device: size)

    return of


def works(of):
    """What takes memory, and a part of what is said where that is not there."""
    H, matrix = hessian(AMG), operator_of(diffusion(30, 2).A)
    return {
        "product": (
            lambda: H @ np.ones((400, 50)),
            ("Hessian with 50 columns", "multiply fewer columns"),
        ),
        "solve": (
            lambda: H.eq.inverse @ np.broadcast_to(np.ones((400, 1)), (400, 50)),
            ("Inverse with 50 columns", "fewer columns"),
        ),
        "eigsh": (lambda: mfdeq.eigsh(H, 3), ("basis of .* vectors", "basis= of mfdeq.eigsh")),
        "gmres": (
            lambda: mfdeq.Krylov(preconditioner=mfdeq.AMG()).setup(matrix).solve(np.ones(900)),
            ("GMRES with 15 vectors for each of 1 columns", "restart="),
        ),
        "amg": (lambda: mfdeq.AMG().setup(matrix), ("multigrid hierarchy", "float32")),
        "fronts": (
            lambda: mfdeq.Direct(package="multifrontal").setup(matrix),
            ("multifrontal factorization", "iterative"),
        ),
    }[of]


WORKS = {
    "product": 40_000,
    "solve": 40_000,
    "eigsh": 30_000,
    "gmres": 60_000,
    "amg": 10_000,
    "fronts": 100_000,
}


@pytest.mark.parametrize("of", WORKS)
def test_what_cannot_be_held_is_refused_before_the_work(of, room):
    work, said = works(of)
    room(WORKS[of])
    what, instead = said
    figures = r" needs at least [\d.e-]+ GiB, but only [\d.e-]+ GiB are available: .*"
    with pytest.raises(mfdeq.OutOfMemoryError, match=what + figures + instead):
        work()
    assert issubclass(mfdeq.OutOfMemoryError, MemoryError)
    room(100 * WORKS[of])
    work()


def test_a_solver_that_does_not_fit_is_passed_over(room):
    """By "auto", for the next one."""
    matrix = operator_of(diffusion(22, 3).A)
    room(3_000_000)
    factor = mfdeq.linear.Auto().setup(matrix)
    assert "AMG" in factor.name
    b = np.ones(matrix.shape[0])
    assert np.linalg.norm(matrix @ factor.solve(b) - b) <= 1e-9 * np.linalg.norm(b)


def test_the_peak_is_in_the_report():
    H = hessian(AMG)
    assert H.eq.report.forward.peak_bytes > 2**20
    _ = H @ np.ones(400)
    report = H.eq.report
    assert report.linear.peak_bytes >= report.forward.peak_bytes
    assert f"{report.linear.peak_bytes / 2**20:.0f} MiB at the peak" in str(report)


GMRES = mfdeq.Krylov(preconditioner=mfdeq.ILU(), recycle=10)


@pytest.mark.parametrize(
    "solver", [mfdeq.Direct(), AMG, pytest.param(GMRES, marks=pytest.mark.slow)], ids=str
)
def test_nothing_grows_from_product_to_product(solver):
    H = hessian(solver)
    v = np.random.default_rng(0).standard_normal(400)
    held = []
    tracemalloc.start()
    try:
        for _ in range(5):
            for _ in range(100):
                _ = H @ v
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # A leak is there in every round; what Python and its caches keep of small blocks is not.
    assert min(np.diff(held)) < 6_000  # a vector in fifty products would be 6,400


def test_blocks_are_as_wide_as_memory_allows(monkeypatch):
    """And the answer does not depend on it."""
    matrix = operator_of(diffusion(30, 2).A)
    B = np.random.default_rng(0).standard_normal((900, 12))
    widths, found = [], []
    for room in (10**9, 4 * 31 * 8 * 900 * 8):
        monkeypatch.setattr(kernels, "available_bytes", lambda device, room=room: room)
        factor = mfdeq.Krylov(preconditioner=mfdeq.AMG()).setup(matrix)
        widths.append(factor._width(900))
        found.append(factor.solve(B))
    assert widths == [16, 6]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_a_cycle_that_cannot_be_refreshed_is_what_it_was():
    """Memory runs out on the way; a set-up follows."""
    first, second = (operator_of(diffusion(40, 2).A * scale) for scale in (1.0, 2.0))
    M = mfdeq.AMG().setup(first)
    x = np.ones(1600)
    before = M @ x

    M.transfers = [(Full(), None)]
    with pytest.raises(MemoryError):
        M.refresh(second)
    np.testing.assert_array_equal(M @ x, before)
    reused, counts = mfdeq.linear.Reused(AMG), LinearCounts()
    reused.setup(first)
    reused.held.M.transfers = [(Full(), None)]
    reused.fresh(second, counts).solve(x)
    assert (counts.setups, counts.refreshes) == (1, 0)


class Full:
    """A transfer for which there is no room."""

    def astype(self, dtype):
        raise MemoryError


def test_a_block_wider_than_memory_goes_in_parts(room, monkeypatch):
    """Its vectors take a quarter at most, and the product is the same."""
    H = hessian(mfdeq.Direct())
    V = np.random.default_rng(0).standard_normal((400, 40))
    expected, widths = H @ V, []
    whole = H._product._apply

    def noted(x):
        widths.append(x.shape[1])
        return whole(x)

    monkeypatch.setattr(H._product, "_apply", noted)
    room(4 * 7 * 6 * 800 * 8)
    np.testing.assert_allclose(H @ V, expected, rtol=1e-12)
    assert widths == [7] * 5 + [5]


def test_every_way_in_says_what_was_too_much(monkeypatch):
    """Of an allocation that fails on the way, too."""
    H = hessian(mfdeq.Direct())

    def full(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(type(H), "_apply", full)
    monkeypatch.setattr(type(H), "_by_solves", full)
    for work in (
        lambda: mfdeq.trace(H, products=30),
        lambda: mfdeq.spectral_density(H, probes=4, steps=3),
        lambda: mfdeq.Nystrom(H, 5),
        lambda: H.with_error(np.ones(400)),
        lambda: mfdeq.randomized_eigsh(H, 3),
    ):
        with pytest.raises(mfdeq.OutOfMemoryError, match=r"9 GiB.*Use fewer columns"):
            work()
