"""PETSc as a peer, through petsc4py: its own and external factorizations, and its multigrids."""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from .peers import MAX_ITERATIONS, RESTART, Peer, Solves, need
from .systems import System

# name: (type of PC, package, ordering, whether it takes A not symmetric)
FACTORIZATIONS = {
    "Cholesky nd": ("cholesky", "petsc", "nd", False),
    "Cholesky qmd": ("cholesky", "petsc", "qmd", False),
    "LU nd": ("lu", "petsc", "nd", True),
    "LU qmd": ("lu", "petsc", "qmd", True),
    "CHOLMOD": ("cholesky", "cholmod", None, False),
    "UMFPACK": ("lu", "umfpack", None, True),
    "MUMPS Cholesky": ("cholesky", "mumps", None, False),
    "MUMPS LU": ("lu", "mumps", None, True),
}
HMIS = {
    "pc_hypre_boomeramg_coarsen_type": "HMIS",
    "pc_hypre_boomeramg_interp_type": "ext+i",
    "pc_hypre_boomeramg_P_max": 4,
}
AGGRESSIVE = HMIS | {  # what hypre's manual advises in three dimensions
    "pc_hypre_boomeramg_strong_threshold": 0.5,
    "pc_hypre_boomeramg_agg_nl": 1,
}
LEVELS = {"pc_factor_levels": 2}
PLAIN = {  # aggregation without smoothing, for what is not like an elliptic problem
    "pc_gamg_agg_nsmooths": 0,
    "mg_levels_ksp_type": "richardson",
    "mg_levels_pc_type": "sor",
}


def petsc_peers(system: System) -> list[Peer]:
    need("petsc4py")
    import petsc4py

    # Its handler of signals ends this process with one of a configuration that ran out of memory.
    petsc4py.init(["-no_signal_handler"])
    need("petsc4py.PETSc")
    found = []
    for name, (kind, package, ordering, general) in FACTORIZATIONS.items():
        if general == system.symmetric or (ordering == "qmd" and system.dimension):
            continue  # on grids nested dissection is the better order
        how = functools.partial(Factorization, kind=kind, package=package, ordering=ordering)
        found.append(Peer("petsc", name, how))
    return found + [
        Peer("petsc", name, functools.partial(Iterative, kind=kind, options=options))
        for name, kind, options in _iterative(system)
    ]


def _iterative(system: System) -> list[tuple[str, str, dict]]:
    """Name, type of PC and options of the iterative configurations."""
    if system.layer is not None:
        return [("point-block Jacobi", "pbjacobi", {})]
    found = [
        ("GAMG", "gamg", {}),
        ("BoomerAMG", "hypre", {}),
        ("BoomerAMG HMIS", "hypre", AGGRESSIVE if system.dimension == 3 else HMIS),
        ("ICC(2)" if system.symmetric else "ILU(2)", "icc" if system.symmetric else "ilu", LEVELS),
    ]
    if not (system.symmetric and system.dimension):
        found.append(("GAMG unsmoothed", "gamg", PLAIN))
    method = "CG" if system.symmetric else "GMRES"
    return [(f"{method} {name}", kind, options) for name, kind, options in found]


class Factorization(Solves):
    tunable = traceable = False

    def __init__(self, system: System, kind: str, package: str, ordering: str | None) -> None:
        from petsc4py import PETSc

        self.symmetric = system.symmetric
        self.A = _matrix(system, system.A)
        self.pc = PETSc.PC().create(PETSc.COMM_SELF)
        self.pc.setOperators(self.A)
        self.pc.setType(kind)
        self.pc.setFactorSolverType(package)
        if ordering is not None:
            self.pc.setFactorOrdering(ordering)
        self.pc.setUp()
        self.factor = self.pc.getFactorMatrix()

    def prepare(self, b):
        return np.asfortranarray(b)

    def solve(self, b):
        x = np.empty_like(b)
        if b.ndim == 1:
            self.factor.solve(_vec(b), _vec(x))
        else:
            self.factor.matSolve(_dense(b), _dense(x))
        return x

    def solve_adjoint(self, b):
        if self.symmetric:
            return self.solve(b)
        x = np.empty_like(b)
        if b.ndim == 1:
            self.factor.solveTranspose(_vec(b), _vec(x))
        else:
            _block_transpose_solve(self.factor, _dense(b), _dense(x))
        return x


class Iterative(Solves):
    """A KSP for A, and one for A' where A is not symmetric."""

    traceable = False

    def __init__(self, system: System, kind: str, options: dict) -> None:
        self.ksp = self.transposed = self._ksp(system, system.A, kind, options)
        if not system.symmetric:
            self.transposed = self._ksp(system, system.A.T.tocsr(), kind, options)

    @staticmethod
    def _ksp(system: System, A, kind: str, options: dict):
        from petsc4py import PETSc

        database = PETSc.Options()
        for key, value in options.items():
            database[key] = value
        ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        ksp.setOperators(_matrix(system, A))
        ksp.getPC().setType(kind)
        if system.symmetric:
            ksp.setType("cg")
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        else:
            ksp.setType("gmres")
            ksp.setGMRESRestart(RESTART)
            ksp.setPCSide(PETSc.PC.Side.RIGHT)  # then its norm is the true residual's
        ksp.setFromOptions()
        ksp.setUp()
        ksp.setUpOnBlocks()
        for key in options:
            database.delValue(key)
        return ksp

    def prepare(self, b):
        return np.asfortranarray(b)

    def solve(self, b):
        return self._solve(self.ksp, b)

    def solve_adjoint(self, b):
        return self._solve(self.transposed, b)

    def _solve(self, ksp, b):
        ksp.setTolerances(rtol=self.rtol, atol=0.0, max_it=MAX_ITERATIONS)
        x = np.empty_like(b)
        self.iterations = 0
        for rhs, into in zip(b.reshape(b.shape[0], -1).T, x.reshape(b.shape[0], -1).T, strict=True):
            ksp.solve(_vec(rhs), _vec(into))
            self.iterations += ksp.getIterationNumber()
        return x


def _matrix(system: System, A):
    from petsc4py import PETSc

    csr = (A.indptr.astype(PETSc.IntType), A.indices.astype(PETSc.IntType), A.data)
    matrix = PETSc.Mat().createAIJ(A.shape, csr=csr, bsize=system.block, comm=PETSc.COMM_SELF)
    matrix.assemble()
    if system.symmetric:
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        matrix.setOption(PETSc.Mat.Option.SPD, True)
    if system.near_nullspace is not None:
        basis, _ = np.linalg.qr(system.near_nullspace)
        vectors = [_vec(np.ascontiguousarray(column)) for column in basis.T]
        space = PETSc.NullSpace().create(vectors=vectors, comm=PETSc.COMM_SELF)
        matrix.setNearNullSpace(space)
    return matrix


def _vec(x: np.ndarray):
    from petsc4py import PETSc

    return PETSc.Vec().createWithArray(x, comm=PETSc.COMM_SELF)


def _dense(x: np.ndarray):
    from petsc4py import PETSc

    return PETSc.Mat().createDense(x.shape, array=x, comm=PETSc.COMM_SELF)


def _block_transpose_solve(factor, b, x) -> None:
    """MatMatSolveTranspose, which petsc4py does not wrap."""
    from petsc4py import PETSc

    solve = ctypes.CDLL(PETSc.__file__).MatMatSolveTranspose
    code = solve(*(ctypes.c_void_p(matrix.handle) for matrix in (factor, b, x)))
    if code:
        raise RuntimeError(f"MatMatSolveTranspose returned {code}")
