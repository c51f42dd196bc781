"""Set-ups of direct solvers: the multifrontal one, SuperLU, what "auto" takes, and peers.

Run it from the root of the repository, with the extras and peers that are to be compared:

    python -m tests.benchmarks.setup [--large] [--systems ...]

One core. Every solver factorizes the same matrix, round after round, and solves for one column and
for a block; times are processor times, the least of all rounds, since others only add to them.
Every solution has the true residual printed. PARDISO is MKL's (pypardiso), by nested dissection and
by minimum degree, indefinite matrices with its scaling and matching; CHOLMOD and UMFPACK are
kvxopt's; MUMPS is PETSc's (petsc4py). The Lagrangian system is that of 256² states and parameters.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from .linear import one_core

COLUMNS = 32
PEERS = ("PARDISO", "PARDISO min. degree", "CHOLMOD", "UMFPACK", "MUMPS")
SMALL = {"256²": 24, "512²": 32, "48³": 8, "64³": 9, "convection 34³": 7, "Lagrangian 256²": 12}


@dataclass(frozen=True)
class Case:
    """A matrix, and whether it is symmetric, and then positive definite."""

    A: sp.csr_matrix
    symmetric: bool = True
    definite: bool = True


@dataclass
class Times:
    """Seconds of a set-up, of a solve and of one column of a block, each of them over rounds."""

    setup: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    column: list[float] = field(default_factory=list)
    residual: float = 0.0
    note: str = ""


def lagrangian(n: int) -> Case:
    """The Lagrangian system of diffusion with a prior, scaled as it is factorized."""
    import mfdeq
    from mfdeq.equilibrium.lagrangian_system import ShiftedInverse

    from .problems import Diffusion

    model = Diffusion(n)
    eq = mfdeq.solve(model, model.lognormal())
    loss = model.loss(n * n // 130) + mfdeq.QuadraticPrior(1.0)
    return Case(ShiftedInverse(eq.hessian(loss)).factor.A.array.tocsr(), definite=False)


def cases(small: bool) -> dict[str, Callable[[], Case]]:
    """The matrices by name, each of which is assembled when it is called."""
    from . import systems

    def size(name: str) -> int:
        full = int("".join(x for x in name[:-1] if x.isdigit()))
        return SMALL[name] if small else full

    found: dict[str, Callable[[], Case]] = {
        name: lambda name=name, d=d: Case(systems.diffusion(size(name), d).A)
        for name, d in (("256²", 2), ("512²", 2), ("48³", 3), ("64³", 3))
    }
    name = "convection 34³"
    found[name] = lambda: Case(systems.convection_in_volume(size("convection 34³")).A, False, False)
    found["Lagrangian 256²"] = lambda: lagrangian(size("Lagrangian 256²"))
    return found


# --- Ours ----------------------------------------------------------------------------------------


def ours(solver) -> Callable:
    def setup(case: Case):
        from mfdeq.linear import operator_of
        from mfdeq.linear.multifrontal import fronts

        fronts.clear_cache()  # the dissection of a pattern belongs to its first set-up
        factor = solver().setup(operator_of(case.A.copy()))
        return factor.solve, factor.name

    return setup


def symmetric_factor(case: Case):
    """The factorization of Lagrangian systems, which counts negative pivots."""
    from mfdeq.linear import operator_of
    from mfdeq.linear.direct.symmetric import SymmetricFactor
    from mfdeq.linear.multifrontal import fronts

    fronts.clear_cache()
    factor = SymmetricFactor(operator_of(case.A.copy()))
    count = factor.negative_pivots()
    return factor.solve, f"{type(factor.factors).__name__}, {count} negative pivots"


# --- Peers ---------------------------------------------------------------------------------------


class Pardiso:
    """MKL's PARDISO through pypardiso, for the symmetry of the matrix."""

    def __init__(self, case: Case, order: int) -> None:
        kind = (2 if case.definite else -2) if case.symmetric else 11
        self.solver = copy.copy(_pardiso_template())
        self.solver.pt, self.solver.iparm = np.zeros(64, np.int64), np.zeros(64, np.int32)
        self.solver.mtype = kind
        self.matrix = sp.triu(case.A, format="csr") if case.symmetric else case.A
        self.matrix.sort_indices()
        options = {1: 1, 2: order}
        if not case.definite:
            options |= {10: 8 if case.symmetric else 13, 11: 1, 13: 1, 8: 2}
            options |= {21: 1} if case.symmetric else {}
        for name, value in options.items():
            self.solver.set_iparm(name, value)
        self.call(12, np.zeros(case.A.shape[0]))
        self.note = ""
        if kind == -2:
            self.note = f"{self.solver.get_iparm(23)} negative pivots"

    def call(self, phase: int, b: np.ndarray) -> np.ndarray:
        self.solver.set_phase(phase)
        return self.solver._call_pardiso(self.matrix, b)

    def solve(self, b: np.ndarray) -> np.ndarray:
        return self.call(33, np.asfortranarray(b))

    def __del__(self) -> None:
        self.solver.free_memory(everything=True)


@functools.cache
def _pardiso_template():
    """A solver of pypardiso, which searches for MKL for half a second."""
    from pypardiso import PyPardisoSolver

    return PyPardisoSolver()


def pardiso(order: int) -> Callable:
    def setup(case: Case):
        factor = Pardiso(case, order)
        return factor.solve, factor.note

    return setup


def to_kvxopt(A: sp.csc_matrix):
    """A sparse matrix of kvxopt."""
    from kvxopt import matrix, spmatrix

    entries = A.tocoo()
    i, j = (matrix(x.astype(np.int64)) for x in (entries.row, entries.col))
    return spmatrix(matrix(entries.data), i, j, A.shape)


def cholmod(case: Case):
    from kvxopt import cholmod, matrix

    A = to_kvxopt(sp.tril(case.A, format="csc"))
    factor = cholmod.symbolic(A)
    cholmod.numeric(A, factor)

    def solve(b):
        x = matrix(np.asfortranarray(b.reshape(b.shape[0], -1)))
        cholmod.solve(factor, x)
        return np.asarray(x).reshape(b.shape, order="F")

    return solve, ""


def umfpack(case: Case):
    from kvxopt import matrix, umfpack

    A = to_kvxopt(case.A.tocsc())
    factor = umfpack.numeric(A, umfpack.symbolic(A))

    def solve(b):
        x = matrix(np.asfortranarray(b.reshape(b.shape[0], -1)))
        umfpack.solve(A, factor, x)
        return np.asarray(x).reshape(b.shape, order="F")

    return solve, ""


def mumps(case: Case):
    from petsc4py import PETSc

    A = case.A
    kind = PETSc.Mat().createAIJ(A.shape, csr=(A.indptr, A.indices, A.data))
    pc = PETSc.PC().create()
    pc.setOperators(kind)
    pc.setType("cholesky" if case.symmetric else "lu")
    if case.symmetric:
        kind.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        kind.setOption(PETSc.Mat.Option.SPD, case.definite)
    pc.setFactorSolverType("mumps")
    pc.setUp()
    factor = pc.getFactorMatrix()

    def solve(b):
        if b.ndim == 1:
            x = kind.createVecLeft()
            factor.solve(kind.createVecLeft().createWithArray(b.copy()), x)
            return x.array.copy()
        right = PETSc.Mat().createDense(b.shape, array=np.asfortranarray(b))
        found = PETSc.Mat().createDense(b.shape)
        for block in (right, found):
            block.setUp()
            block.assemble()
        factor.matSolve(right, found)
        return found.getDenseArray().copy()

    return solve, ""


def solvers(case: Case) -> dict[str, Callable]:
    """The set-ups that apply to a matrix: each returns a function that solves, and a note."""
    from mfdeq.linear import Auto, Direct

    found: dict[str, Callable] = {}
    if case.symmetric and not case.definite:
        found["symmetric fronts"] = symmetric_factor
    else:
        found["multifrontal"] = ours(lambda: Direct(package="multifrontal"))
        found["SuperLU"] = ours(lambda: Direct(package="superlu"))
        found["auto"] = ours(lambda: Auto(solves=1))
        found["auto, 100 solves"] = ours(lambda: Auto(solves=100))
    found["PARDISO"] = pardiso(2)
    found["PARDISO min. degree"] = pardiso(0)
    if case.definite:
        found["CHOLMOD"] = cholmod
    else:
        found["UMFPACK"] = umfpack
    found["MUMPS"] = mumps
    return found


# --- Measuring -----------------------------------------------------------------------------------


def measure(setup: Callable, case: Case, times: Times) -> None:
    """Add the times of one round."""
    rng = np.random.default_rng(0)
    n = case.A.shape[0]
    gc.collect()
    start = time.process_time()
    solve, times.note = setup(case)
    times.setup.append(time.process_time() - start)
    for b, taken in (
        (rng.standard_normal(n), times.single),
        (rng.standard_normal((n, COLUMNS)), times.column),
    ):
        start = time.process_time()
        x = solve(b)
        taken.append((time.process_time() - start) / (1 if b.ndim == 1 else COLUMNS))
        off = np.linalg.norm(case.A @ x - b) / np.linalg.norm(b)
        times.residual = max(times.residual, float(off))


def compare(name: str, case: Case, rounds: int, seconds: float) -> None:
    """Measure all solvers of a matrix, and print their times and the ratios to PARDISO's."""
    rows, present = {}, solvers(case)
    print(f"\n{name}: N = {case.A.shape[0]:,}, {case.A.nnz:,} entries", flush=True)
    for label, setup in list(present.items()):
        try:
            measure(setup, case, Times())  # compiles what is compiled
            rows[label] = Times()
        except ImportError as error:
            print(f"    {label}: absent ({error})")
        except Exception as error:
            print(f"    {label}: {type(error).__name__}: {str(error)[:90]}")
    spent = dict.fromkeys(rows, 0.0)
    for _ in range(rounds):
        for label, times in rows.items():
            if spent[label] <= seconds:
                measure(present[label], case, times)
                spent[label] += times.setup[-1] + COLUMNS * times.column[-1]
    references = [min(rows[x].setup) for x in rows if x.startswith("PARDISO")]
    print(f"    {'':<22}{'set-up s':>10}{'/PARDISO':>10}{'/MUMPS':>8}{'1 ms':>9}{'32 ms':>9}")
    for label, times in rows.items():
        setup = min(times.setup)
        over = f"{setup / min(references):>10.2f}" if references else f"{'':>10}"
        other = f"{setup / min(rows['MUMPS'].setup):>8.2f}" if "MUMPS" in rows else f"{'':>8}"
        solves = "".join(f"{1e3 * min(taken):>9.2f}" for taken in (times.single, times.column))
        print(
            f"    {label:<22}{setup:>10.3f}{over}{other}{solves}  {times.residual:.0e} {times.note}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=SMALL, help="all but 64³ by default")
    parser.add_argument("--large", action="store_true", help="64³ as well")
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--rounds", type=int, default=5, help="at most so many of each solver")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which a solver stops")
    options = parser.parse_args(arguments)
    print(__doc__.split("\n\n")[3])
    for name, make in cases(options.small).items():
        if name in (options.systems or [x for x in SMALL if options.large or x != "64³"]):
            compare(name, make(), options.rounds, options.seconds)


if __name__ == "__main__":
    one_core()
    main()
