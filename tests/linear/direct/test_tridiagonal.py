"""The LU of tridiagonal matrices."""

import numpy as np
import pytest
import scipy.sparse as sp
from support.linear_checks import check_solves
from support.matrices import diffusion, operator

import mfdeq

RNG = np.random.default_rng(0)
DTYPES = ["float64", "float32"]


def tridiagonal(n, seed=0, dtype="float64", middle=0.5):
    """Return a matrix whose pivots are mostly off the diagonal."""
    rng = np.random.default_rng(seed)
    diagonals = [rng.uniform(0.5, 1.0, n - abs(k)) for k in (-1, 0, 1)]
    diagonals[1] *= middle * rng.choice([-1.0, 1.0], n)
    return sp.diags_array(diagonals, offsets=[-1, 0, 1]).tocsr().astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 4, 50, 1000])
@pytest.mark.parametrize("to_format", ["tocsr", "tocsc"])
def test_tridiagonal_matrices_are_solved_by_their_own_factorization(n, dtype, to_format):
    A = tridiagonal(n, dtype=dtype, middle=4.0)
    factor = mfdeq.Direct().setup(operator(getattr(A, to_format)(), dtype=dtype))
    assert factor.name == "Direct (tridiagonal LU)"
    check_solves(factor, A.toarray(), dtype)


@pytest.mark.parametrize("middle", [1e-3, 0.0])
def test_rows_are_exchanged_where_the_diagonal_is_small(middle):
    A = tridiagonal(200, seed=1, middle=middle)
    factor = mfdeq.Direct().setup(A)
    assert factor.name == "Direct (tridiagonal LU)"
    b = RNG.standard_normal((200, 2))
    for x, matrix in ((factor.solve(b), A), (factor.solve_adjoint(b), A.T)):
        np.testing.assert_allclose(x, np.linalg.solve(matrix.toarray(), b), rtol=1e-8, atol=1e-8)


def test_units_of_rows_and_columns_do_not_change_the_solution():
    A = tridiagonal(100, middle=4.0)
    rows, columns = 10.0 ** RNG.uniform(-6, 6, (2, 100))
    scaled = (sp.diags_array(rows) @ A @ sp.diags_array(columns)).tocsr()
    b = RNG.standard_normal(100)
    factor = mfdeq.Direct().setup(scaled)
    assert factor.name == "Direct (tridiagonal LU)"
    expected = mfdeq.Direct().setup(A).solve(b)
    np.testing.assert_allclose(factor.solve(rows * b) * columns, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "matrix",
    [diffusion(12), tridiagonal(40) + sp.diags_array([np.ones(38)], offsets=[2]), sp.eye_array(2)],
    ids=["two-dimensional", "wider", "small"],
)
def test_other_matrices_are_left_to_other_packages(matrix):
    assert mfdeq.Direct().setup(matrix.tocsr()).name == "Direct (SuperLU)"
    with pytest.raises(mfdeq.ArgumentError, match="'tridiagonal'"):
        mfdeq.Direct(package="tridiagonal").setup(matrix.tocsr())


def test_a_singular_tridiagonal_matrix_is_an_error():
    # The ends of an insulated rod: every row sums to zero.
    A = sp.diags_array(
        [-np.ones(9), np.r_[1.0, 2 * np.ones(8), 1.0], -np.ones(9)], offsets=[-1, 0, 1]
    )
    with pytest.raises(mfdeq.SingularStateError):
        mfdeq.Direct().setup(A.tocsr()).solve(RNG.standard_normal(10))
    with pytest.raises(mfdeq.SingularStateError):
        mfdeq.Direct(package="tridiagonal").setup(sp.csr_array((7, 7)))


def test_the_steps_of_newton_each_get_a_new_factorization():
    n = 20_000  # with a factor of more than 64 KiB
    A = sp.diags_array(
        [-np.ones(n - 1), 2.5 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]
    ).tocsr()
    solver = mfdeq.Direct(package="tridiagonal")

    class Chain(mfdeq.ResidualModel):
        state_size = param_size = n

        def residual(self, h, theta):
            return A @ h + h**3 - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(
                (A + sp.diags_array(3 * h**2)).tocsr(), -sp.eye_array(n).tocsr()
            )

    report = mfdeq.solve(Chain(), np.ones(n), solver=solver).report
    assert report.forward.setups == report.iterations
    assert report.forward.iterations == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solves", [None, 1, 1000])
def test_auto_chooses_this_factorization_at_any_size(dtype, solves):
    n = 20_000  # above the size up to which every A is factorized
    A = tridiagonal(n, dtype=dtype, middle=4.0)
    solver = mfdeq.Auto(solves)
    factor = solver.setup(operator(A, dtype=dtype))
    assert factor.name == "Direct (tridiagonal LU)"
    assert solver.choices == [
        "solver: Direct (tridiagonal LU), because nothing is faster for this A than a "
        "tridiagonal LU"
    ]
    rtol = 1e-10 if dtype == "float64" else 1e-5
    for solve, matrix in ((factor.solve, A), (factor.solve_adjoint, A.T)):
        for shape in ((n,), (n, 3)):
            b = RNG.standard_normal(shape).astype(dtype)
            assert np.linalg.norm(matrix @ solve(b) - b) <= rtol * np.linalg.norm(b)
    assert factor.counts.iterations == 0


def test_auto_leaves_matrices_that_are_only_nearly_tridiagonal_to_others():
    n = 20_000
    A = tridiagonal(n, middle=4.0).tolil()
    A[0, 1], A[0, n - 1] = 0.0, 0.5
    A = A.tocsr()
    A.eliminate_zeros()
    assert "tridiagonal" not in mfdeq.Auto().setup(A).name
