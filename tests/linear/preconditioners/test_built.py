"""Preconditioners that a function or an object of a user's builds for each matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from support.case_models import linear_operator_of
from support.cases import build, close
from support.cavity_flow import CavityFlow
from support.linear_checks import MATRICES, check_solves
from support.matrices import diffusion, operator
from support.places import LIBRARIES

import mfdeq
from mfdeq.linear import Reused, matrix_of, operator_of
from mfdeq.report import LinearCounts

THETA = np.array([-1.0, 0.5, 0.2, -0.7])


def lu_of(A):
    """An exact inverse, as a user of scipy writes it."""
    lu = spla.splu(A.tocsc())
    return spla.LinearOperator(A.shape, lu.solve, rmatvec=lambda y: lu.solve(y, "T"))


def diagonal_of(A):
    """The inverse of the diagonal, for any array library."""
    inverse = 1.0 / A.diagonal()
    return linear_operator_of(operator_of(A).backend.xp)(
        A.shape, matvec=lambda x: inverse * x, rmatvec=lambda y: inverse * y, dtype=A.dtype
    )


class Builder:
    """An object with a method for the set-up, which counts its calls."""

    def __init__(self, build=lu_of):
        self.build, self.matrices = build, []

    def setup(self, A):
        self.matrices.append(A)
        return self.build(A)


RETURNS = {
    "operator": lu_of,
    "matrix": lambda A: sp.diags(1.0 / A.diagonal()).tocsr(),
    "array": lambda A: np.linalg.inv(A.toarray()),
    "description": lambda A: mfdeq.ILU(),
    "preconditioner": lambda A: mfdeq.Jacobi().setup(A),
    "factor": lambda A: mfdeq.Direct().setup(A),
}


@pytest.mark.parametrize("what", RETURNS)
@pytest.mark.parametrize("given", ["function", "object"])
def test_what_is_built_preconditions_both_sides(given, what):
    M = RETURNS[what] if given == "function" else Builder(RETURNS[what])
    matrix = MATRICES["windy"]
    factor = mfdeq.Krylov(preconditioner=M).setup(matrix)
    check_solves(factor, matrix.toarray())
    if what in ("operator", "array", "factor"):
        assert factor.counts.iterations <= 2 * 6 * 2


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["gmres", "cg", "minres"])
def test_every_library_and_dtype_gets_its_own_matrix(method, dtype, xp):
    A = operator(diffusion(8), dtype, xp)
    built = Builder(diagonal_of)
    factor = mfdeq.Krylov(method, preconditioner=built).setup(A)
    check_solves(factor, diffusion(8).toarray(), dtype)
    assert built.matrices[0] is A.array
    assert factor.name == f"Krylov {method} with Builder.setup"


def test_a_function_gets_products_where_nothing_else_is_known():
    matrix = diffusion(50)  # too large to be assembled by products
    A, seen = spla.aslinearoperator(matrix), []

    def build(given):
        seen.append(given)
        return lu_of(matrix)

    factor = mfdeq.Krylov(preconditioner=build).setup(A)
    check_solves(factor, matrix.toarray())
    assert hasattr(seen[0], "matvec")
    assert factor.name == "Krylov gmres with build"
    with pytest.raises(mfdeq.ArgumentError, match="needs the entries of A"):
        matrix_of(seen[0], "a preconditioner")


def test_a_preconditioner_is_built_again_when_it_has_aged():
    first = diffusion(20)
    far = (first + sp.diags(np.geomspace(1e-3, 1e6, 400))).tocsr()
    built, counts, b = Builder(), LinearCounts(), np.ones(400)
    reused = Reused(mfdeq.Krylov(preconditioner=built))
    for matrix in (first, first * 1.01, far, far, far):
        x = reused.setup(operator_of(sp.csr_matrix(matrix)), counts).solve(b)
        assert np.linalg.norm(matrix @ x - b) <= 1e-9 * np.linalg.norm(b)
    assert len(built.matrices) == counts.setups == 2


def test_derivatives_with_it_are_those_of_a_factorization():
    model, built = CavityFlow(5), Builder()
    found, expected = (
        mfdeq.solve(model, THETA, solver=solver)
        for solver in (mfdeq.Krylov(preconditioner=built), mfdeq.Direct())
    )
    loss, v = model.loss(), np.array([1.0, -2.0, 0.5, 1.0])
    close(found.gradient(loss), expected.gradient(loss), 1e-7)
    close(found.hessian(loss) @ v, expected.hessian(loss) @ v, 1e-6)
    setups = found.report.forward.setups + found.report.linear.setups
    assert len(built.matrices) == setups >= 1


def test_newton_builds_no_more_often_than_it_must():
    case, built = build("bratu_field"), Builder()
    mfdeq.solve(case.model, case.params, solver=mfdeq.Krylov(preconditioner=built))
    assert len(built.matrices) == 1


SCALED = diffusion(6)
WRONG = {
    "nothing": (lambda A: None, "a LinearOperator or matrix of shape .*, got None"),
    "a name": (lambda A: "ilu", "got 'ilu'"),
    "a function": (lambda A: lu_of, "got a function"),
    "a builder": (lambda A: Builder(), "got a Builder"),
    "another shape": (
        lambda A: np.eye(3),
        r"of shape \(36, 36\), .* got a ndarray of shape \(3, 3",
    ),
    "no adjoint": (
        lambda A: spla.LinearOperator(A.shape, lambda x: x),
        r"without an adjoint .*: pass rmatvec= \(that of a symmetric operator is its matvec\)",
    ),
    "the adjoint of another": (
        lambda A: spla.LinearOperator(A.shape, lambda x: np.cumsum(x), rmatvec=np.cumsum),
        "the adjoint product is not the adjoint",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_preconditioner_is_refused(what):
    build, message = WRONG[what]
    with pytest.raises(mfdeq.MfdeqError, match=message):
        mfdeq.Krylov(preconditioner=build).setup(SCALED)


def test_an_error_in_the_function_says_where_it_was_raised():
    def build(A):
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError) as caught:
        mfdeq.Krylov(preconditioner=build).setup(SCALED)
    assert any("build" in note for note in getattr(caught.value, "__notes__", ["build"]))


def test_objects_that_are_neither_are_refused():
    for wrong in (3, ["amg"], object()):
        with pytest.raises(mfdeq.ArgumentError, match="a function A -> M or None, got"):
            mfdeq.Krylov(preconditioner=wrong).setup(SCALED)
