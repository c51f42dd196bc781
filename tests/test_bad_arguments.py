"""Wrong arguments raise an ArgumentError that says what was expected."""

import numpy as np
import pytest
from scipy.sparse import csr_array, identity
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from support.case_toy import THETA, Diagonal, N, P, Toy, operator, solve_toy, toy_loss
from support.refusing import refused, table

import mfdeq
from mfdeq import ArgumentError, ConvergenceError, ModelError

LOSS = toy_loss()
EQ = solve_toy()
H = EQ.hessian(LOSS)
ONE = np.ones(1)


class OwnSolver:
    def setup(self, A):
        raise AssertionError("must not be called")


def with_solver(solver):
    return mfdeq.solve(Toy(d_state=csr_array), THETA, solver=solver).gradient(LOSS)


def preconditioned(M):
    return with_solver(mfdeq.Krylov(preconditioner=M))


def ill_posed(method, **options):
    return mfdeq.Krylov(method, **options).setup(np.triu(np.ones((4, 4)))).solve(np.ones(4))


NO_SOLVER = r"solver: expected 'auto', mfdeq.Direct\(\), .* mfdeq.linear.Solver of your own, got"
ARGUMENTS = table(
    ("method", lambda: mfdeq.solve(Toy(), THETA, method="newtn"), "'auto', 'newton', .*'newtn'"),
    ("method: none", lambda: mfdeq.solve(Toy(), THETA, method=None), "'auto', .* got None"),
    ("method: list", lambda: mfdeq.solve(Toy(), THETA, method=["newton"]), "'auto', 'newton'"),
    *[
        (f"max_iterations: {bad!r}", lambda bad=bad: mfdeq.solve(Toy(), THETA, max_iterations=bad),
         "max_iterations: expected a positive integer, got")
        for bad in (0, -1, 1.5, True, "3")
    ],
    *[
        (f"rtol: {bad!r}", lambda bad=bad: mfdeq.solve(Toy(), THETA, rtol=bad),
         "rtol.*: expected a number between 0 and 1, got ")
        for bad in (0, -1e-8, 1.5, np.nan, "1e-8", 1j, [1e-8])
    ],
    ("solver", lambda: with_solver("lu"), f"{NO_SOLVER} 'lu'"),
    ("solver: none", lambda: with_solver(None), NO_SOLVER),
    ("solver: the class", lambda: with_solver(mfdeq.Direct),
     rf"{NO_SOLVER} the class Direct; pass an instance, Direct\(...\)"),
    ("solver: array", lambda: with_solver(np.eye(N)), NO_SOLVER),
    ("solver: amg", lambda: with_solver(mfdeq.AMG()), rf"{NO_SOLVER}.*mfdeq.Krylov\(precond"),
    ("solver: own", lambda: with_solver(OwnSolver()), NO_SOLVER),
    (
        "solver at a state",
        lambda: mfdeq.equilibrium_at(Toy(), THETA, EQ.state, solver="lu"),
        NO_SOLVER,
    ),
    ("krylov method", lambda: mfdeq.Krylov("gmrs"),
     "method of .*: expected one of 'gmres', 'cg', .*, got 'gmrs'"),
    ("preconditioner", lambda: mfdeq.Krylov(preconditioner="amg"), r"mfdeq.AMG\(\), "),
    ("preconditioner: class", lambda: mfdeq.Krylov(preconditioner=mfdeq.AMG),
     r"preconditioner: expected .*, got the class AMG; pass an instance, AMG\(...\)"),
    ("preconditioner: solver", lambda: preconditioned(mfdeq.Neumann()), "LinearOperator of shape"),
    ("preconditioner: number", lambda: preconditioned(2.0), r"LinearOperator of shape \(3, 3\)"),
    (
        "preconditioner: shape",
        lambda: preconditioned(aslinearoperator(np.eye(N + 1))),
        r"LinearOperator of shape \(3, 3\)",
    ),
    ("preconditioner: our shape", lambda: preconditioned(EQ.sensitivity), r"of shape \(3, 3\)"),
    *[
        (f"{kind.__name__}({field}={bad!r})", lambda kind=kind, field=field, bad=bad:
         kind(**{field: bad}), f"{field} of mfdeq.{kind.__name__}: expected .*, got ")
        for kind, field, values in (
            (mfdeq.Krylov, "rtol", (0, -1, 2, np.nan, "x")),
            (mfdeq.Krylov, "max_iterations", (0, 1.5, "x")),
            (mfdeq.Krylov, "restart", (0, -3, "x")),
            (mfdeq.Krylov, "block", (0, -1, 1.5, True, "x")),
            (mfdeq.Krylov, "recycle", (-1, 2.5, True, "x")),
            (mfdeq.Direct, "rtol", (0, -1, 2, np.nan, "x")),
            (mfdeq.Neumann, "rtol", (0, 2, "x")),
            (mfdeq.Neumann, "max_iterations", (0, "x")),
            (mfdeq.ILU, "drop_tol", (-1, np.nan, "x")),
            (mfdeq.ILU, "fill_factor", (0, -1, np.inf, "x")),
            (mfdeq.AMG, "degree", (0, -1, 1.5, "x")),
            (mfdeq.AMG, "block_size", (0, -2, 1.5, True, "x")),
        )
        for bad in values
    ],
    ("amg method", lambda: mfdeq.AMG("classical"),
     "method of mfdeq.AMG: expected .*, got 'classical'"),
    *[
        (f"recycle with {method}", lambda method=method: mfdeq.Krylov(method, recycle=3),
         f"recycle is for 'gmres', not '{method}'")
        for method in ("cg", "minres", "lgmres")
    ],
    *[
        (f"recycle with {M}", lambda M=M: mfdeq.Krylov(preconditioner=M, recycle=3).setup(
            identity(N, format="csr")), r"recycle needs .* use mfdeq.AMG\(levels='float64'\)")
        for M in (mfdeq.AMG(), mfdeq.AMG("ruge_stuben"), mfdeq.AMG(levels="float32"))
    ],
    ("amg levels", lambda: mfdeq.AMG(levels="float16"),
     "levels of .*: expected .*'float32', .*, got 'float16'"),
    *[
        (f"amg {field}, {method}", lambda method=method, field=field, given=given:
         mfdeq.AMG(method, **{field: given}), f"{field} is for smoothed aggregation, not {method}")
        for method in ("ruge_stuben", "air")
        for field, given in (("block_size", 2), ("near_nullspace", ONE))
    ],
    (
        "amg block size",
        lambda: preconditioned(mfdeq.AMG(block_size=2)),
        "block_size 2 of mfdeq.AMG does not divide N = 3",
    ),
    (
        "amg nullspace shape",
        lambda: preconditioned(mfdeq.AMG(near_nullspace=np.ones((N + 1, 1)))),
        r"near_nullspace .* expected shape \(3,\) or \(3, k\), got \(4, 1\)",
    ),
    (
        "amg nullspace nan",
        lambda: preconditioned(mfdeq.AMG(near_nullspace=np.full((N, 1), np.nan))),
        "near_nullspace .* NaN",
    ),
    *[
        (f"{M} of a zero diagonal", lambda M=M: mfdeq.Krylov(preconditioner=M).setup(
            csr_array(np.eye(4)[::-1])), r"diagonal of A has zeros; use mfdeq.ILU\(\)")
        for M in (mfdeq.AMG(), mfdeq.Jacobi())
    ],
    *[
        (f"{M} of dense A", lambda M=M: mfdeq.Krylov(preconditioner=M).setup(np.eye(4)),
         r"needs a sparse A; for a dense one use mfdeq.Direct\(\)")
        for M in (mfdeq.AMG(), mfdeq.ILU())
    ],
    *[
        (f"{M} of products",
         lambda M=M: mfdeq.Krylov(preconditioner=M).setup(operator(np.eye(2001))),
         "needs the entries of A")
        for M in (mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi())
    ],
    ("cg", lambda: ill_posed("cg"), "needs a symmetric A, but A is not symmetric: use 'gmres'"),
    ("minres", lambda: ill_posed("minres"), "'minres' needs a symmetric A"),
    *[
        (f"{solver} of {type(A).__name__}", lambda solver=solver, A=A: solver.setup(A),
         f"A: expected a square matrix.* got a {type(A).__name__} of shape")
        for solver in (mfdeq.Direct(), mfdeq.Krylov(), mfdeq.Neumann())
        for A in (np.ones((2, 3)), None, [[1.0]], EQ.sensitivity)
    ],
    *[
        (f"a right side: {name}", lambda b=b: EQ.factor.solve(b), word)
        for name, b, word in (
            ("short", np.ones(N - 1), r"expected shape \(3,\) or \(3, k\), got \(2,\)"),
            ("nan", np.full(N, np.nan), "NaN"),
            ("complex", 1j * np.ones(N), "complex128.* the real and imaginary parts"),
            ("none", None, "got None"),
            ("text", np.array(["a", "b", "c"]), "dtype <U1"),
            ("sparse", csr_array(np.ones((N, 1))), "sparse"),
            ("cube", np.ones((N, 1, 1)), r"expected shape \(3,\) or \(3, k\), got"),
        )
    ],
    *[
        (f"an operand: {name}", lambda x=x: EQ.sensitivity @ x, f"the operand.*{word}")
        for name, x, word in (
            ("short", np.ones(P - 1), r"expected shape \(2,\) or \(2, k\), got \(1,\)"),
            ("transposed", np.ones((3, P)), r"expected shape \(2,\) or \(2, k\), got \(3, 2\)"),
            ("cube", np.ones((P, 1, 1)), r"\(2, k\)"),
            ("complex", 1j * np.ones(P), "complex128"),
            ("none", None, "got None"),
            ("text", "text", r"got \(\)"),
            ("objects", np.array([None, None]), "dtype object"),
            ("sparse", csr_array(np.eye(P)), "got a sparse matrix: pass a dense array"),
            ("ragged", [[1.0], [1.0, 2.0]], "got list"),
        )
    ],
    ("hessp", lambda: mfdeq.ReducedFunctional(Toy(), LOSS).hessp(THETA, ONE), "the operand"),
    ("a product", lambda: EQ.sensitivity @ EQ.sensitivity, r"multiply .* \(3, 2\) and \(3, 2\)"),
    ("a sum", lambda: EQ.sensitivity + EQ.inverse, r"add .* \(3, 2\) and \(3, 3\)"),
    *[
        (f"component {w!r}", lambda w=w: EQ.component_hessian(w), word)
        for w, word in (
            (True, "w: expected the index of a component .* got True"),
            (np.True_, "expected the index of a component"),
            (1.0, r"\(an integer\) .* got 1.0"),
            (np.array(1.0), "an integer"),
            ("0", "an integer"),
            (None, "an integer"),
            (N, "expected the index of one of the 3 components of the state, got 3"),
            (-N - 1, "3 components of the state, got -4"),
            ([1.0, 0.0], r"shape \(2,\)"),
        )
    ],
    *[
        (f"{use.__name__} of a {type(loss).__name__}", lambda use=use, loss=loss: use(loss),
         "the loss: expected an mfdeq.Loss")
        for use in (EQ.gradient, EQ.adjoint, EQ.hessian)
        for loss in (None, [LOSS], 3.0)
    ],
    ("loss of a functional", lambda: mfdeq.ReducedFunctional(Toy(), min), "the loss: expected"),
    ("on_failure", lambda: mfdeq.ReducedFunctional(Toy(), LOSS, on_failure="nan"), "'mask', got"),
    ("loss of verify", lambda: mfdeq.verify(Toy(), THETA, loss=min), "the loss: .*got builtin"),
    *[
        (f"k: {k!r}", lambda k=k: mfdeq.eigsh(H, k), f"k: expected an .* P = {P}, got")
        for k in (0, P + 1, -1, 1.0, True, None, "2")
    ],
    ("which", lambda: mfdeq.eigsh(H, 1, which="SM"), "one of 'LM', .* got 'SM'"),
    ("which: none", lambda: mfdeq.eigsh(H, 1, which=None), "one of 'LM'"),
    *[
        (f"rtol of eigsh: {bad!r}", lambda bad=bad: mfdeq.eigsh(H, 1, rtol=bad),
         "rtol.*: expected a number between 0 and 1, got ")
        for bad in (0, -1, 2, np.nan, None, "x")
    ],
    *[
        (f"max_products: {bad!r}", lambda bad=bad: mfdeq.eigsh(H, 1, max_products=bad),
         "max_products: expected a positive integer, got")
        for bad in (0, -5, 1.5, "x")
    ],
    ("v0: zero", lambda: mfdeq.eigsh(H, 1, v0=np.zeros(P)), "v0: expected a nonzero start"),
    ("H: none", lambda: mfdeq.eigsh(None, 1), r"H: expected a square .*, got shape \(\)"),
    ("H: list", lambda: mfdeq.eigsh([[1.0]], 1), r"H: expected a square .*, got shape \(\)"),
    ("H: not square", lambda: mfdeq.eigsh(EQ.sensitivity, 1), r"H: expected a square .*\(3, 2\)"),
    ("all of H", lambda: mfdeq.eigsh(Diagonal().solve().state_operator, 5000), "at most P - 2"),
)  # fmt: skip


@pytest.mark.parametrize(("use", "words"), ARGUMENTS)
def test_a_wrong_argument_raises_an_error_that_names_it(use, words):
    with refused(ArgumentError, words):
        use()


@pytest.mark.parametrize(
    ("H", "words"),
    table(
        ("nan", np.full((60, 60), np.nan), "H holds NaN"),
        ("complex", 1j * np.eye(60), "complex128"),
        ("objects", np.eye(60).astype(object), "H: .* dtype object"),
        ("nan product", operator(np.eye(60), matvec=lambda x: x * np.nan), "product of H.*NaN"),
        ("complex product", operator(np.eye(60), matvec=lambda x: x + 0j), "product of H.*128"),
        ("no product", operator(np.eye(60), matvec=lambda x: None), "product of H .* reshape"),
        ("short product", operator(np.eye(60), matvec=lambda x: x[:-1]), "product of H .* reshape"),
    ),
)
def test_an_invalid_operator_of_eigsh_is_refused(H, words):
    with refused(ModelError, words):
        mfdeq.eigsh(H, 2)


def test_eigsh_refuses_asymmetry_and_stops_at_max_products():
    A = np.random.default_rng(0).standard_normal((60, 60))
    for H in (A, A[:5, :5], operator(A), csr_array(A)):
        with refused(ConvergenceError, "is not symmetric to that accuracy"):
            mfdeq.eigsh(H, 1)
    with refused(ConvergenceError, r"of 2 eigenpairs converged", "Raise max_products"):
        mfdeq.eigsh(A + A.T, 2, which="BE", rtol=1e-10, max_products=1)


def test_eigsh_accepts_an_operator_without_block_products():
    # For a missing block product scipy would pass columns, and the product would broadcast them.
    d = np.arange(1.0, 6.0)
    H = LinearOperator((5, 5), matvec=lambda x: d * x, dtype=float)
    np.testing.assert_allclose(mfdeq.eigsh(H, 5).values, d)
