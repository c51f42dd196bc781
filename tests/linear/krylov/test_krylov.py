"""Every Krylov method with every preconditioner, both sides, against dense matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import linear_operator_of
from support.linear_checks import MATRICES, check_solves
from support.matrices import operator
from support.places import LIBRARIES

import mfdeq
from mfdeq.linear.krylov.krylov import BLOCK_METHODS, METHODS, SYMMETRIC_METHODS
from mfdeq.linear.preconditioners import hierarchies


def inverse_of_lower_part(A, xp):
    inverse = xp.asarray(np.linalg.inv(sp.tril(A, 1).toarray()))
    return linear_operator_of(xp)(
        A.shape, matvec=lambda x: inverse @ x, rmatvec=lambda y: inverse.T @ y, dtype=float
    )


# Every preconditioner has a line here. One that suits only certain matrices, such as a multigrid
# method on a grid, is paired with its own: "name": (description, matrix).
UNITS = np.linspace(1, 20, 22**2)
IN_OTHER_UNITS = (sp.diags(1 / UNITS) @ MATRICES["windy"] @ sp.diags(1 / UNITS)).tocsr()
PRECONDITIONERS = {
    "none": None,
    "jacobi": mfdeq.Jacobi(),
    "ilu": mfdeq.ILU(drop_tol=0.05),
    "amg": mfdeq.AMG(),
    "ruge_stuben": mfdeq.AMG("ruge_stuben", degree=3),
    "user": inverse_of_lower_part,
    "amg nullspace": (mfdeq.AMG(near_nullspace=UNITS), IN_OTHER_UNITS),
    "amg degree": mfdeq.AMG(degree=2),
    "amg blocks": mfdeq.AMG(block_size=2),
    "amg float32": mfdeq.AMG(levels="float32"),
    "amg float64": mfdeq.AMG(levels="float64"),
    "air": mfdeq.AMG("air"),
    "field split": (mfdeq.FieldSplit((200, 284), kind="lower"), MATRICES["windy"]),
}
MULTIGRID = ("amg", "ruge_stuben", "amg degree", "amg blocks", "amg float32", "amg float64", "air")


def stays_symmetric(name, entry, matrix):
    """Whether a matrix and its preconditioner are symmetric, as CG and MINRES need them."""
    description = entry[0] if isinstance(entry, tuple) else entry
    dropped = name in ("user", "ilu")  # by pivots and dropped entries, even of a symmetric matrix
    never_symmetric = dropped or getattr(description, "never_symmetric", False)
    return not never_symmetric and abs(matrix - matrix.T).max() == 0.0


def combinations():
    """(matrix, method, preconditioner) of all that are meant to work together."""
    for M, entry in PRECONDITIONERS.items():
        names = ["own"] if isinstance(entry, tuple) else list(MATRICES)
        for name, method in itertools.product(names, METHODS):
            matrix = entry[1] if name == "own" else MATRICES[name]
            if method in SYMMETRIC_METHODS and not stays_symmetric(M, entry, matrix):
                continue
            if name == "contraction" and M in MULTIGRID:
                continue  # Multigrid is not meant for a random matrix.
            if method == "lgmres" and M in MULTIGRID[2:]:
                continue
            yield name, method, M


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(("name", "method", "preconditioner"), list(combinations()))
def test_krylov_solves_with_every_preconditioner(name, method, preconditioner, xp, monkeypatch):
    # Several levels, of these small matrices too.
    monkeypatch.setattr(hierarchies, "MAX_COARSE", 50)
    entry = PRECONDITIONERS[preconditioner]
    M, matrix = entry if name == "own" else (entry, MATRICES[name])
    A = operator(matrix, xp=xp)
    if not (method in BLOCK_METHODS or hasattr(A.backend.sparse_linalg, method)):
        pytest.skip(f"the array library has no {method}")
    M = M(matrix, xp) if preconditioner == "user" else M
    factor = mfdeq.Krylov(method, preconditioner=M).setup(A)
    # Rows in unlike units are judged in like ones, in which the residuals are a little different.
    check_solves(factor, matrix.toarray(), rtol=5e-9 if name == "own" else None)
    assert factor.counts.iterations > 0


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("name", ["windy", "contraction"])
@pytest.mark.parametrize("method", SYMMETRIC_METHODS)
def test_methods_for_symmetric_matrices_refuse_others(method, name, xp):
    with pytest.raises(mfdeq.ArgumentError, match="needs a symmetric A"):
        mfdeq.Krylov(method).setup(operator(MATRICES[name], xp=xp))


@pytest.mark.parametrize(**LIBRARIES)
def test_a_method_that_the_array_library_lacks_is_named(xp):
    A = operator(MATRICES["windy"], xp=xp)
    if hasattr(A.backend.sparse_linalg, "lgmres"):
        pytest.skip("the array library has all methods")
    factor = mfdeq.Krylov("lgmres").setup(A)
    with pytest.raises(mfdeq.ArgumentError, match=r"cupyx\.scipy\.sparse\.linalg has no 'lgmres'"):
        factor.solve(xp.ones(A.shape[0]))


BLOCKS = [
    *itertools.product(
        MATRICES,
        [
            mfdeq.Krylov(recycle=10),
            mfdeq.Krylov(recycle=10, block=3),
            mfdeq.Krylov(recycle=10, preconditioner=mfdeq.Jacobi()),
            mfdeq.Krylov(block=1),
            mfdeq.Krylov(block=3),
        ],
    ),
    *itertools.product(
        ["symmetric", "windy"],
        [
            mfdeq.Krylov(recycle=10, preconditioner=mfdeq.AMG(levels="float64")),
            mfdeq.Krylov(block=3, preconditioner=mfdeq.AMG(levels="float32")),
        ],
    ),
    ("symmetric", mfdeq.Krylov("cg", block=1)),
    ("symmetric", mfdeq.Krylov("cg", block=3)),
    ("symmetric", mfdeq.Krylov("cg", block=3, preconditioner=mfdeq.AMG())),
]


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(("name", "solver"), BLOCKS, ids=str)
def test_recycling_and_shared_spaces_solve_for_blocks(name, solver, xp, monkeypatch):
    monkeypatch.setattr(hierarchies, "MAX_COARSE", 50)
    check_solves(solver.setup(operator(MATRICES[name], xp=xp)), MATRICES[name].toarray())


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_air_is_refused_by_methods_for_symmetric_matrices(method):
    with pytest.raises(mfdeq.ArgumentError, match="not symmetric, even for a symmetric A"):
        mfdeq.Krylov(method, preconditioner=mfdeq.AMG("air"))
