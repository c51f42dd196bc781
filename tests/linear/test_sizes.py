"""Right-hand sides and matrices of any size that the dtype holds: right, or an error of a type."""

import itertools
from importlib.util import find_spec
from operator import methodcaller

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
from support.fuzzing import CASE_FACTOR

import mfdeq
from mfdeq.linear import operator_of

N = 30
# A contraction of the identity, so that the Neumann iteration converges as well.
MATRIX = sp.diags_array([-0.25, 1.0, -0.25], offsets=[-1, 0, 1], shape=(N, N), format="csr")


def unsorted(A):
    A = sp.csr_array(A)
    rows = itertools.pairwise(A.indptr)
    reverse = np.concatenate([np.arange(a, b)[::-1] for a, b in rows])
    return sp.csr_array((A.data[reverse], A.indices[reverse], A.indptr), shape=A.shape)


def duplicates(A):
    A = sp.coo_array(A)
    i, j = (np.concatenate([x, x]) for x in (A.row, A.col))
    return sp.coo_array((np.concatenate([0.5 * A.data, 0.5 * A.data]), (i, j)), shape=A.shape)


def explicit_zeros(A):
    A = sp.coo_array(A)
    i, j = np.concatenate([A.row, [0, N - 1]]), np.concatenate([A.col, [N - 1, 0]])
    return sp.csr_array((np.concatenate([A.data, [0.0, 0.0]]).astype(A.dtype), (i, j)), A.shape)


def wide_indices(A):
    A = sp.csr_array(A)
    return sp.csr_array(
        (A.data, A.indices.astype("int64"), A.indptr.astype("int64")), shape=A.shape
    )


def strided(A):
    whole = np.zeros((2 * N, 3 * N), A.dtype)
    whole[::2, ::3] = A.toarray()
    return whole[::2, ::3]


def negative_strides(A):
    return np.ascontiguousarray(A.toarray()[::-1, ::-1])[::-1, ::-1]


def read_only(A):
    A = A.toarray()
    A.setflags(write=False)
    return A


FORMATS = ("csr", "csc", "coo", "dia", "lil", "dok")
STORAGE = {
    **{kind: methodcaller("asformat", kind) for kind in FORMATS},
    "bsr": lambda A: sp.bsr_array(A, blocksize=(2, 2)),
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "unsorted": unsorted,
    "duplicates": duplicates,
    "explicit zeros": explicit_zeros,
    "int64 indices": wide_indices,
    "C": lambda A: A.toarray(),
    "Fortran": lambda A: np.asfortranarray(A.toarray()),
    "strided": strided,
    "negative strides": negative_strides,
    "read-only": read_only,
    "LinearOperator": lambda A: sla.aslinearoperator(sp.csr_array(A)),
    "operator": lambda A: operator_of(sp.csr_array(A)),
    "operator on products": lambda A: operator_of(sla.aslinearoperator(sp.csr_array(A))),
}
SOLVERS = {
    "auto": mfdeq.linear.Auto(),
    "direct": mfdeq.Direct(),
    "direct, superlu": mfdeq.Direct(package="superlu"),
    "direct, multifrontal": mfdeq.Direct(package="multifrontal"),
    "direct, cholmod": mfdeq.Direct(package="cholmod"),
    "direct, pardiso": mfdeq.Direct(package="pardiso"),
    "gmres": mfdeq.Krylov(),
    "gmres, apart": mfdeq.Krylov(block=1),
    "gmres, jacobi": mfdeq.Krylov(preconditioner=mfdeq.Jacobi()),
    "gmres, ilu": mfdeq.Krylov(preconditioner=mfdeq.ILU()),
    "gmres, amg": mfdeq.Krylov(preconditioner=mfdeq.AMG()),
    "gmres, recycled": mfdeq.Krylov(restart=8, recycle=4),
    "cg": mfdeq.Krylov("cg"),
    "cg, apart": mfdeq.Krylov("cg", block=1),
    "cg, jacobi": mfdeq.Krylov("cg", preconditioner=mfdeq.Jacobi()),
    "cg, amg": mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()),
    "minres": mfdeq.Krylov("minres"),
    "minres, amg": mfdeq.Krylov("minres", preconditioner=mfdeq.AMG()),
    "lgmres": mfdeq.Krylov("lgmres"),
    "bicgstab": mfdeq.Krylov("bicgstab"),
    "approximate": mfdeq.Krylov(preconditioner=mfdeq.Approximate(by=mfdeq.ILU(), pattern=MATRIX)),
    "neumann": mfdeq.Neumann(),
}
SPARSE_ONLY = [
    *("direct, multifrontal", "direct, cholmod", "direct, pardiso"),
    *(name for name in SOLVERS if "ilu" in name or "amg" in name),
]
SIZES = {
    "float64": [1e-300, 1e-250, 1e-200, 1e-160, 1e-30, 1.0, 1e30, 1e150, 1e200, 1e250, 1e300],
    "float32": [1e-40, 1e-36, 1e-30, 1e-26, 1e-15, 1e-8, 1.0, 1e8, 1e15, 1e20, 1e30, 1e36],
}


MATRIX_SIZES = {
    "float64": [1e-250, 1e-200, 1e-100, 1.0, 1e100, 1e200, 1e250],
    "float32": [1e-30, 1e-25, 1e-15, 1.0, 1e15, 1e25, 1e30],
}


def check_solve(factor, B, X_true, adjoint):
    """Assert that a solve is right to what the dtype holds, or raises an error of this package."""
    finfo = np.finfo(B.dtype)
    sizes = abs(X_true).max(axis=0)
    least, most = float(finfo.tiny) / finfo.eps, float(finfo.max) / 100
    solve = factor.solve_adjoint if adjoint else factor.solve
    if np.any((sizes > most) | ((sizes < least) & (sizes > 0))):
        # Only what the dtype cannot hold may fail.
        try:
            X = solve(B)
        except mfdeq.MfdeqError:
            return
    else:
        X = solve(B)
    assert X.dtype == B.dtype
    assert X.shape == B.shape
    rtol = 1e-7 if B.dtype == np.float64 else 2e-3
    error = abs(X.astype(np.longdouble) - X_true)
    assert np.all(error <= rtol * sizes + 4 * float(finfo.smallest_subnormal))


def case(seed, storage, dtype, integers, any_matrix):
    """Return A, b and the solution in extended range, for a random size of each."""
    rng = np.random.default_rng(seed)
    size = rng.choice(MATRIX_SIZES[dtype]) if any_matrix else 1.0
    A = (4 * MATRIX).astype("int64") if integers else (size * MATRIX).astype(dtype)
    size = 4.0 if integers else size
    k = int(rng.choice([1, 1, 3, 17]))
    unit = rng.standard_normal((N, k))
    sizes = rng.choice(SIZES[dtype], size=k)
    if k > 1:
        sizes[rng.integers(k)] = rng.choice([0.0, sizes[0]])
    B = (unit * sizes).astype(dtype)
    exact = np.linalg.inv(A.toarray() / size).astype(np.longdouble)
    X = exact @ (B.astype(np.longdouble) / np.longdouble(size))
    if k == 1 and rng.random() < 0.5:
        B, X = B[:, 0], X[:, 0]
    return STORAGE[storage](A), B, X


def solver_names():
    modules = {"direct, cholmod": "kvxopt", "direct, pardiso": "pypardiso"}
    return [
        pytest.param(
            x, marks=pytest.mark.skipif(find_spec(modules[x]) is None, reason=f"needs {modules[x]}")
        )
        if x in modules
        else x
        for x in SOLVERS
    ]


@pytest.mark.parametrize("name", solver_names())
def test_right_hand_sides_of_any_size(name):
    """Single ones and blocks whose columns are of very different size, both sides."""
    check_cases(name, any_matrix=False)


@pytest.mark.parametrize("name", [x for x in solver_names() if x != "neumann"])
def test_matrices_of_any_size(name):
    check_cases(name, any_matrix=True)


def check_cases(name, any_matrix):
    solver, seed = SOLVERS[name], 0
    for storage in STORAGE:
        for dtype, integers in (("float64", False), ("float32", False), ("float64", True)):
            if name == "neumann" and integers:
                continue  # not a contraction
            for _ in range(CASE_FACTOR):
                seed += 1
                A, B, X = case(seed, storage, dtype, integers, any_matrix)
                if name in SPARSE_ONLY and not sp.issparse(getattr(A, "array", A)):
                    with pytest.raises(mfdeq.ArgumentError):
                        solver.setup(A)
                    continue
                factor = solver.setup(A)
                for adjoint in (False, True):
                    check_solve(factor, B, X, adjoint)


def test_columns_of_a_block_do_not_change_with_their_neighbours():
    factor = mfdeq.Krylov(block=1).setup(MATRIX)
    B = np.random.default_rng(0).standard_normal((N, 3))
    powers = 2.0 ** np.array([-900, 0, 900])
    np.testing.assert_array_equal(factor.solve(B * powers), factor.solve(B) * powers)


@pytest.mark.parametrize("b", [np.nan, np.inf])
def test_a_right_hand_side_that_is_not_finite_is_refused(b):
    with pytest.raises(mfdeq.ArgumentError, match="NaN or infinity"):
        mfdeq.Krylov().setup(MATRIX).solve(np.full(N, b))


def test_a_solution_that_overflows_is_an_error():
    factor = mfdeq.Direct().setup(MATRIX / 1024)
    with pytest.raises(mfdeq.ArgumentError, match="too large for float64"):
        factor.solve(np.full(N, 1e307))


EXTREME = pytest.mark.parametrize("power", [-800, 800])


@EXTREME
@pytest.mark.parametrize("name", ["direct", "gmres, ilu", "gmres, amg"])
def test_a_factor_of_an_extreme_matrix_serves_nearby_ones(name, power):
    A = 2.0**power * MATRIX
    near = operator_of(1.01 * A)
    factor, b = SOLVERS[name].setup(A), np.ones(N)
    x = np.linalg.solve(near.array.toarray() * 2.0**-power, b) * 2.0**-power
    for other in (
        factor.preconditioned_factor(near, factor.counts, 100),
        factor.factor_for_equilibrium(near, factor.counts),
    ):
        if other is not None:
            np.testing.assert_allclose(other.solve(b), x, rtol=1e-8)
            np.testing.assert_allclose(other.solve_adjoint(b), x, rtol=1e-8)
    np.testing.assert_allclose(factor.approximate(b), x, rtol=0.2)
    assert factor.counts.setups == 1


@EXTREME
def test_a_failed_solve_with_an_extreme_matrix_has_its_best_solution(power):
    laplacian = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(N, N), format="csr")
    errors = []
    for p in (0, power):
        factor = mfdeq.Krylov(max_iterations=3).setup(2.0**p * laplacian)
        with pytest.raises(mfdeq.ConvergenceError) as caught:
            factor.solve(np.arange(1.0, N + 1))
        errors.append(caught.value)
    np.testing.assert_array_equal(errors[1].best, 2.0**-power * errors[0].best)
    assert str(errors[1]) == str(errors[0])


@EXTREME
def test_a_wrong_adjoint_is_found_at_any_size(power):
    A = np.triu(np.ones((N, N))) * 2.0**power
    wrong = sla.LinearOperator((N, N), matvec=A.__matmul__, rmatvec=A.__matmul__, dtype=float)
    with pytest.raises(mfdeq.DerivativeError, match="is not the adjoint"):
        operator_of(wrong)
