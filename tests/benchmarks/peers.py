"""The solvers that are compared: each configuration sets up a system, then solves with A and A'.

A `Peer` makes an object with `solve` and `solve_adjoint` of (N,) vectors and (N, k) blocks, an
`rtol` that the harness may change, and the `iterations` of the last solve (None if they are not
counted).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .systems import System

FAMILIES = ("mfdeq", "petsc", "scipy", "pyamg", "jax", "lineax")
RTOL = 1e-8  # the true relative residual asked of all
RESTART = 30
MAX_ITERATIONS = 6_000


class Absent(Exception):
    """A peer that cannot be imported here."""


def need(*modules: str) -> None:
    """Raise `Absent` unless these can be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Absent(f"{module} cannot be imported ({error})") from error


class Solves:
    """Solves with one A: what `Peer.setup` returns.

    Attributes
    ----------
    rtol : float
        The tolerance, in the peer's own meaning of it.
    iterations : int or None
        Of the last solve.
    tunable : bool
        Whether `rtol` changes what is returned.
    traceable : bool
        Whether its arrays are numpy's.
    note : str
        What else to print.
    """

    rtol = RTOL
    iterations: int | None = 0
    tunable = True
    traceable = True
    note = ""

    def prepare(self, b: np.ndarray):
        """The right-hand side in the peer's own arrays, and what is done once per shape."""
        return b

    def collect(self, x) -> np.ndarray:
        """A solution as a numpy array of the shape of its right-hand side."""
        return x

    def solve(self, b):
        raise NotImplementedError

    def solve_adjoint(self, b):
        raise NotImplementedError


@dataclass(frozen=True)
class Peer:
    """One configuration of one family."""

    family: str
    name: str
    setup: Callable[[System], Solves]


def peers(system: System, families: Iterable[str] = FAMILIES) -> tuple[list[Peer], list[str]]:
    """The configurations that apply to a system, and a line for each absent family."""
    present, absent = [], []
    for family in families:
        try:
            present += _family(family)(system)
        except Absent as reason:
            absent.append(f"{family}: {reason}")
    return present, absent


def _family(family: str) -> Callable[[System], list[Peer]]:
    here = {"mfdeq": mfdeq_peers, "scipy": scipy_peers, "pyamg": pyamg_peers}
    if family in here:
        return here[family]
    if family == "petsc":
        from .peers_petsc import petsc_peers

        return petsc_peers
    from . import peers_jax

    return {"jax": peers_jax.jax_peers, "lineax": peers_jax.lineax_peers}[family]


def columnwise(function: Callable, b: np.ndarray) -> np.ndarray:
    """A function of vectors, of each column of a block."""
    if b.ndim == 1:
        return function(b)
    return np.stack([function(column) for column in np.ascontiguousarray(b.T)], axis=1)


# --- mfdeq ---------------------------------------------------------------------------------------


def mfdeq_peers(system: System) -> list[Peer]:
    from mfdeq.arrays.backend import Backend
    from mfdeq.linear import AMG, ILU, Auto, Direct, Jacobi, Krylov, Neumann
    from mfdeq.linear.direct.cholmod import has_kvxopt
    from mfdeq.linear.direct.pardiso import has_pardiso
    from mfdeq.operators.matrix_operator import Matrix

    solvers = {"auto": lambda: Auto(solves=100)}
    packages = {"multifrontal": "multifrontal", "SuperLU": "superlu"}
    if system.symmetric and has_kvxopt():
        packages["CHOLMOD"] = "cholmod"
    if has_pardiso():
        packages["PARDISO"] = "pardiso"
    for name, package in packages.items():
        solvers[name] = functools.partial(Direct, package=package)
    if system.layer is not None:
        solvers["dense blocks"] = Direct
        solvers["GMRES"] = lambda: Krylov("gmres")
        solvers["Neumann"] = Neumann
    else:
        amg = AMG(near_nullspace=system.near_nullspace)
        method = "cg" if system.symmetric else "gmres"
        solvers[f"{method.upper()} + AMG"] = lambda: Krylov(method, preconditioner=amg)
        solvers["GMRES + ILU"] = lambda: Krylov("gmres", preconditioner=ILU())
        if system.symmetric:
            solvers["CG + Jacobi"] = lambda: Krylov("cg", preconditioner=Jacobi())

    def matrix(system: System):
        return Matrix(Backend.of(np.zeros(1)), system.A)

    found = [
        Peer("mfdeq", name, lambda system, make=make: Ours(make(), matrix(system)))
        for name, make in solvers.items()
    ]
    if system.layer is not None:
        for name in ("auto", "GMRES", "Neumann"):
            make = solvers[name]
            found.append(
                Peer(
                    "mfdeq",
                    f"{name}, products",
                    lambda system, make=make: Ours(make(), system.layer.operator()),
                )
            )
    return found


class Ours(Solves):
    """A factor of this library, which checks every true residual itself."""

    tunable = False

    def __init__(self, solver, A) -> None:
        from mfdeq.linear.multifrontal import fronts

        fronts.clear_cache()  # the dissection of a pattern belongs to its first set-up
        self.factor = solver.setup(A)
        self.solver = solver

    @property
    def note(self) -> str:
        """What "auto" chose."""
        return "; ".join(getattr(self.solver, "choices", ()))

    def solve(self, b):
        return self._counted(self.factor.solve, b)

    def solve_adjoint(self, b):
        return self._counted(self.factor.solve_adjoint, b)

    def _counted(self, solve, b):
        before = self.factor.counts.iterations
        x = solve(b, rtol=self.rtol)
        self.iterations = self.factor.counts.iterations - before
        return x


# --- scipy ---------------------------------------------------------------------------------------


def scipy_peers(system: System) -> list[Peer]:
    found = [
        Peer("scipy", "splu COLAMD", lambda system: SuperLU(system, permc_spec="COLAMD")),
        Peer("scipy", "splu MMD(A'+A)", symmetric_superlu),
    ]
    # An incomplete LU with pivoting is not symmetric: CG with it stalls where it does not happen
    # to be nearly exact.
    for method, kind in (("gmres", "spilu"), ("cg" if system.symmetric else "gmres", "Jacobi")):
        setup = functools.partial(ScipyKrylov, method=method, kind=kind)
        found.append(Peer("scipy", f"{method} + {kind}", setup))
    return found


def symmetric_superlu(system: System) -> Solves:
    """SuperLU as its manual advises for patterns that are nearly symmetric."""
    return SuperLU(
        system,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.01,
        options={"SymmetricMode": True},
    )


class SuperLU(Solves):
    tunable = False

    def __init__(self, system: System, **options) -> None:
        from scipy.sparse.linalg import splu

        self.lu = splu(system.A.tocsc(), **options)

    def solve(self, b):
        return self.lu.solve(b)

    def solve_adjoint(self, b):
        return self.lu.solve(b, "T")


class ScipyKrylov(Solves):
    def __init__(self, system: System, method: str, kind: str) -> None:
        import scipy.sparse.linalg as spla

        self.A, self.method = system.A, getattr(spla, method)
        self.options = {"maxiter": MAX_ITERATIONS}
        if method == "gmres":
            self.options = {
                "restart": RESTART,
                "maxiter": MAX_ITERATIONS // RESTART,
                "callback_type": "pr_norm",
            }
        if kind == "Jacobi":
            inverse = 1.0 / system.A.diagonal()
            actions = (lambda r: inverse * r,) * 2
        else:
            ilu = spla.spilu(system.A.tocsc())
            actions = (ilu.solve, lambda r: ilu.solve(r, "T"))
        self.M = [spla.LinearOperator(self.A.shape, action, dtype=float) for action in actions]
        self.A_transposed = self.A if system.symmetric else self.A.T.tocsr()

    def solve(self, b):
        return self._solve(self.A, self.M[0], b)

    def solve_adjoint(self, b):
        return self._solve(self.A_transposed, self.M[1], b)

    def _solve(self, A, M, b):
        self.iterations = 0
        options = {"M": M, "rtol": self.rtol, "atol": 0.0, "callback": self._count}
        return columnwise(lambda c: self.method(A, c, **options, **self.options)[0], b)

    def _count(self, _) -> None:
        self.iterations += 1


# --- PyAMG ---------------------------------------------------------------------------------------


def pyamg_peers(system: System) -> list[Peer]:
    need("pyamg")
    if system.layer is not None:
        return []
    method = "cg" if system.symmetric else "gmres"
    kinds = ("SA", "RS") if system.near_nullspace is None else ("SA",)
    return [
        Peer("pyamg", f"{kind} {method}", lambda system, kind=kind: PyAMG(system, kind))
        for kind in kinds
    ]


class PyAMG(Solves):
    """PyAMG's own solve; a second hierarchy for A' where A is not symmetric."""

    def __init__(self, system: System, kind: str) -> None:
        self.accel = "cg" if system.symmetric else "gmres"
        self.hierarchy = self._hierarchy(system, system.A, kind)
        self.transposed = self.hierarchy
        if not system.symmetric:
            self.transposed = self._hierarchy(system, system.A.T.tocsr(), kind)

    @staticmethod
    def _hierarchy(system: System, A, kind: str):
        import pyamg

        if kind == "RS":
            return pyamg.ruge_stuben_solver(A)
        if system.block > 1:
            A = A.tobsr((system.block, system.block))
        symmetry = "hermitian" if system.symmetric else "nonsymmetric"
        B = system.near_nullspace
        return pyamg.smoothed_aggregation_solver(A, B=B, symmetry=symmetry)

    def solve(self, b):
        return self._solve(self.hierarchy, b)

    def solve_adjoint(self, b):
        return self._solve(self.transposed, b)

    def _solve(self, hierarchy, b):
        self.iterations = 0
        return columnwise(lambda column: self._column(hierarchy, column), b)

    def _column(self, hierarchy, b):
        import pyamg

        residuals: list[float] = []
        options = {"tol": self.rtol, "M": hierarchy.aspreconditioner(), "residuals": residuals}
        if self.accel == "cg":  # the two are what hierarchy.solve(accel=) calls
            x, _ = pyamg.krylov.cg(hierarchy.levels[0].A, b, maxiter=MAX_ITERATIONS, **options)
        else:
            cycles = min(RESTART, b.size), MAX_ITERATIONS // RESTART
            options |= {"restart": cycles[0], "maxiter": cycles[1], "orthog": "mgs"}
            x, _ = pyamg.krylov.gmres(hierarchy.levels[0].A, b, **options)
        self.iterations += len(residuals) - 1
        return x
