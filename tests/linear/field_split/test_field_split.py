"""Block preconditioners of several fields: as dense inverses, and in solves of saddle points."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.saddle_points import TaylorHood, darcy
from support.case_models import linear_operator_of
from support.cases import close
from support.cavity_flow import CavityFlow
from support.linear_checks import check_solves
from support.matrices import operator, to_library
from support.places import LIBRARIES, to_numpy

import mfdeq
from mfdeq.linear import FieldSplit, Reused, operator_of
from mfdeq.report import LinearCounts

KINDS = ("diagonal", "lower", "upper", "full")
STOKES = TaylorHood(4).stokes()
# Of condition 200. That of STOKES is 4e5, with which rounding in float32 leaves more than 1e-5.
COMPRESSIBLE = STOKES.A - sp.block_diag([sp.csr_array((98, 98)), 10 * STOKES.mass], format="csr")
RNG = np.random.default_rng(0)
SIZES = (4, 3, 5)
BLOCKY = sp.csr_matrix(np.eye(12) * 6 + RNG.standard_normal((12, 12)))
# Three fields on a grid of 3 x 4 points: a square from below, the last column, and the rest.
GRID = np.arange(12).reshape(3, 4)
SQUARE, COLUMN = GRID[:0:-1, :2], GRID[:, 3]
SCATTERED = (SQUARE, COLUMN, np.setdiff1d(GRID, [*SQUARE.flat, *COLUMN]))


def dense_form(kind, A, parts, last=None):
    """Return the matrix whose inverse a preconditioner is, with exact inverses of the fields.

    `last` takes the place of the last diagonal block.
    """
    A, n = np.asarray(A), A.shape[0]
    label = np.empty(n, int)
    for k, part in enumerate(parts):
        label[part] = k
    row, column = label[:, None], label[None, :]
    D = np.where(row == column, A, 0.0)
    if last is not None:
        D[np.ix_(parts[-1], parts[-1])] = last
    lower, upper = D + np.where(row > column, A, 0.0), D + np.where(row < column, A, 0.0)
    full = lower @ np.linalg.solve(D, upper)
    return {"diagonal": D, "lower": lower, "upper": upper, "full": full}[kind]


def ends(sizes):
    return [np.arange(a, b) for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]


def check_applications(M, P, rtol):
    """Compare M and its adjoint with P^-1, of vectors, of blocks and of a transposed block."""
    X = np.random.default_rng(3).standard_normal((P.shape[0], 3))
    for side, matrix in ((M, P), (M.H, P.T)):
        expected = np.linalg.solve(matrix, X)
        given = M.backend.from_host(X)
        for x, y in (
            (given, expected),
            (given[:, 0], expected[:, 0]),
            (given.T.copy().T, expected),
        ):
            before = x.copy()
            found = side @ x
            assert found.dtype == M.dtype
            close(to_numpy(found), y, rtol)
            assert (x == before).all()


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fields", [SIZES, SCATTERED], ids=["sizes", "scattered"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_application_is_the_inverse_of_the_form(kind, fields, dtype, xp):
    M = FieldSplit(fields, kind=kind).setup(operator(BLOCKY, dtype, xp))
    parts = ends(SIZES) if fields is SIZES else [np.ravel(part) for part in fields]
    check_applications(
        M, dense_form(kind, BLOCKY.toarray(), parts), 1e-12 if dtype == "float64" else 1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False])
def test_the_schur_complement_is_any_matrix_a_function_of_a_or_by_the_diagonal(dense, kind):
    A, parts = BLOCKY.toarray() if dense else BLOCKY, ends((7, 5))
    D = BLOCKY.toarray()[7:, 7:]
    B, C = BLOCKY.toarray()[:7, 7:], BLOCKY.toarray()[7:, :7]
    by_diagonal = D - C @ np.diag(1 / BLOCKY.diagonal()[:7]) @ B
    own = D + 0.1 * np.diag(np.arange(5))

    def of_a(A):
        assert sp.issparse(A) != dense
        block = A[7:, :][:, 7:]
        return (block if dense else block.toarray()) + 0.1 * np.diag(np.arange(5))

    for schur, S in (
        (own, own),
        (sp.csr_array(own), own),
        (of_a, own),
        ("selfp", by_diagonal),
    ):
        M = FieldSplit((7, 5), kind=kind, schur=schur).setup(operator_of(A))
        check_applications(M, dense_form(kind, BLOCKY.toarray(), parts, S), 1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_the_schur_complement_is_found(sign, kind):
    M = FieldSplit(STOKES.sizes, kind=kind, schur=sign * STOKES.mass).setup(
        operator_of(COMPRESSIBLE.tocsr())
    )
    S = STOKES.mass.toarray() * (1 if kind == "diagonal" else -1)
    P = dense_form(kind, COMPRESSIBLE.toarray(), ends(STOKES.sizes), S)
    check_applications(M, P, 1e-9)
    if kind == "diagonal":
        assert np.linalg.eigvalsh(P).min() > 0
    elif kind != "full":
        # Near 1, and not some near -1.
        assert np.linalg.eigvals(np.linalg.solve(P, COMPRESSIBLE.toarray())).real.min() > 0


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("viscosity", [1.0, 1e-3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pressure_fixed_at_a_point_is_not_nearly_free(kind, viscosity, dtype, xp):
    """The constants, on which S is small beside the mass matrix, are corrected."""
    system = TaylorHood(8).stokes()
    A, (n, m) = system.A.toarray(), system.sizes
    A[:n, :n] *= viscosity
    M = FieldSplit(system.sizes, kind=kind, schur=operator(system.mass, dtype, xp).array).setup(
        operator(sp.csr_matrix(A), dtype, xp)
    )
    full, exact = np.eye(n + m), 1e-9 if dtype == "float64" else 1e-2
    S = -A[n:, :n] @ np.linalg.solve(A[:n, :n], A[:n, n:])
    X = to_numpy(M @ M.backend.from_host(full[:, n:].astype(dtype)))[n:, :]
    plain = np.linalg.inv(system.mass.toarray()) * np.sign(X[0, 0])
    extra = X - plain  # c z z'
    close(extra, np.full((m, m), extra.mean()), 1e-6 if dtype == "float64" else 1e-2)
    assert abs(np.linalg.eigvals(plain @ S)).min() < 0.05 / viscosity
    assert abs(np.linalg.eigvals(X @ S)).min() > 0.1 / viscosity
    # The adjoint, and vectors in place of blocks.
    dense = np.linalg.inv(to_numpy(M @ M.backend.from_host(full.astype(dtype))).astype("float64"))
    check_applications(M, dense, exact)


def test_a_constant_that_the_approximation_knows_is_left_to_it():
    M = FieldSplit(STOKES.sizes, schur=STOKES.mass).setup(operator_of(COMPRESSIBLE.tocsr()))
    parts, S = ends(STOKES.sizes), -STOKES.mass.toarray()
    check_applications(M, dense_form("upper", COMPRESSIBLE.toarray(), parts, S), 1e-9)


FORMS = {
    "sizes": SIZES,
    "mapping of sizes": dict(zip("abc", SIZES, strict=True)),
    "slices": (slice(0, 4), slice(4, 7), slice(7, None)),
    "indices": [np.arange(4).reshape(2, 2), [4, 5, 6], np.arange(-5, 0)],
    "masks": [np.arange(12) < 4, (np.arange(12) >= 4) & (np.arange(12) < 7), np.arange(12) >= 7],
    "mixed": {"u": slice(4), "v": range(4, 7), "p": np.arange(12) > 6},
}


@pytest.mark.parametrize("form", FORMS)
def test_fields_are_given_in_many_ways(form):
    x = np.arange(12.0)
    expected = FieldSplit(SIZES, kind="lower").setup(operator_of(BLOCKY)) @ x
    close(FieldSplit(FORMS[form], kind="lower").setup(operator_of(BLOCKY)) @ x, expected, 1e-14)


def test_preconditioners_are_given_by_name_or_in_order():
    fields = {"velocity": STOKES.sizes[0], "pressure": STOKES.sizes[1]}
    options = {"kind": "upper", "schur": STOKES.mass}
    x = np.ones(sum(STOKES.sizes))
    named = FieldSplit(fields, {"pressure": mfdeq.Jacobi()}, **options)
    assert named.description == "FieldSplit upper (velocity: Direct, pressure: Jacobi)"
    found = named.setup(operator_of(STOKES.A)) @ x
    listed = FieldSplit(STOKES.sizes, [None, mfdeq.Jacobi()], **options)
    close(listed.setup(operator_of(STOKES.A)) @ x, found, 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_products_with_a_are_enough(kind):
    A = operator_of(linear_operator_of(np)(
        (12, 12), matvec=lambda x: BLOCKY @ x, rmatvec=lambda y: BLOCKY.T @ y, dtype=float
    ))  # fmt: skip
    M = FieldSplit(SCATTERED, kind=kind).setup(A)
    parts = [np.ravel(part) for part in SCATTERED]
    check_applications(M, dense_form(kind, BLOCKY.toarray(), parts), 1e-11)
    close(
        FieldSplit((7, 5), kind=kind, schur="selfp").setup(A) @ np.ones(12),
        FieldSplit((7, 5), kind=kind, schur="selfp").setup(operator_of(BLOCKY)) @ np.ones(12),
        1e-12,
    )


def test_fields_of_fields_and_operators_in_place_of_a_field_s_inverse():
    inverse = np.linalg.inv(BLOCKY.toarray()[7:, 7:])
    inner = FieldSplit([slice(0, 4), slice(4, 7)], kind="lower")
    M = FieldSplit([slice(0, 7), slice(7, 12)], [inner, inverse], kind="lower")
    P = dense_form("lower", BLOCKY.toarray(), ends(SIZES))
    check_applications(M.setup(operator_of(BLOCKY)), P, 1e-12)
    # With an operator for it, the diagonal block may be zero.
    M = FieldSplit(STOKES.sizes, [None, np.eye(STOKES.sizes[1])]).setup(operator_of(STOKES.A))
    P = dense_form("upper", STOKES.A.toarray(), ends(STOKES.sizes), np.eye(STOKES.sizes[1]))
    check_applications(M, P, 1e-10)


# In solves.

CG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(), rtol=0.01)
SOLVERS = {
    "minres": ("minres", FieldSplit(STOKES.sizes, [mfdeq.AMG(), mfdeq.Jacobi()], "diagonal",
                                    STOKES.mass)),
    "amg upper": ("gmres", FieldSplit(STOKES.sizes, [mfdeq.AMG(), None], "upper", STOKES.mass)),
    "ilu lower": ("gmres", FieldSplit(STOKES.sizes, [mfdeq.ILU(), mfdeq.Jacobi()], "lower",
                                      STOKES.mass)),
    "direct full": ("gmres", FieldSplit(STOKES.sizes, None, "full", STOKES.mass)),
    "float32": ("gmres", FieldSplit(STOKES.sizes, [mfdeq.AMG(levels="float32"), None], "upper",
                                    STOKES.mass)),
    "inner": ("gmres", FieldSplit(STOKES.sizes, [CG, CG], "upper", STOKES.mass)),
    "lgmres": ("lgmres", FieldSplit(STOKES.sizes, None, "full", STOKES.mass)),
}  # fmt: skip


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SOLVERS)
def test_saddle_points_are_solved_from_both_sides(name, dtype, xp):
    method, M = SOLVERS[name]
    if xp is not np:
        if method == "lgmres":
            pytest.skip("the array library has no lgmres")
        M = copy.copy(M)
        object.__setattr__(M, "schur", to_library(M.schur, xp))
    A = STOKES.A if dtype == "float64" else COMPRESSIBLE
    factor = mfdeq.Krylov(method, preconditioner=M).setup(operator(A, dtype, xp))
    check_solves(factor, A.toarray(), dtype)
    assert factor.counts.iterations > 0
    assert M.description in factor.name


def test_a_solve_in_the_middle_of_a_system_that_is_not_symmetric():
    model = CavityFlow(4)
    eq = mfdeq.solve(model, np.zeros(4))
    A = eq.state_operator.array
    for kind in KINDS:
        M = FieldSplit(model.fields, kind=kind, schur=model.mass / model.viscosity)
        factor = mfdeq.Krylov(preconditioner=M).setup(A)
        check_solves(factor, A.toarray())


def test_a_negative_schur_complement_is_solved_by_cg():
    """As that of a system with a positive first block is, which CG would refuse."""
    problem = darcy(6)
    parts = [mfdeq.Jacobi(), mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(), rtol=1e-3)]
    for kind in KINDS:
        M = FieldSplit(problem.sizes, parts, kind, "selfp")
        check_solves(mfdeq.Krylov(preconditioner=M).setup(problem.A), problem.A.toarray())


CASES = {
    "stokes": (lambda n: TaylorHood(n).stokes(), (8, 24), None, "mass"),
    "darcy": (darcy, (12, 36), [mfdeq.Jacobi(), None], "selfp"),
}


@pytest.mark.parametrize(("method", "kind"), [("gmres", "upper"), ("minres", "diagonal")])
@pytest.mark.parametrize("name", CASES)
def test_iterations_hardly_grow_with_the_mesh(name, method, kind):
    make, meshes, parts, schur = CASES[name]
    taken = []
    for n in meshes:
        problem = make(n)
        M = FieldSplit(problem.sizes, parts, kind, problem.mass if schur == "mass" else schur)
        factor = mfdeq.Krylov(method, preconditioner=M, rtol=1e-8).setup(problem.A)
        b = np.random.default_rng(0).standard_normal(sum(problem.sizes))
        factor.solve(b), factor.solve_adjoint(b)
        taken.append(factor.counts.iterations / 2)
    assert taken[1] <= 1.3 * taken[0]
    assert taken[1] <= (35 if method == "gmres" else 60)


def test_one_or_two_applications_estimate_a_solution():
    """For error estimates, from both sides."""
    b = np.random.default_rng(0).standard_normal(sum(STOKES.sizes))
    for kind in KINDS:
        M = FieldSplit(STOKES.sizes, kind=kind, schur=STOKES.mass)
        factor = mfdeq.Krylov(preconditioner=M).setup(STOKES.A)
        for adjoint, A in ((False, STOKES.A), (True, STOKES.A.T)):
            x = factor.approximate(b, adjoint=adjoint)
            assert np.linalg.norm(b - A @ x) < 0.5 * np.linalg.norm(b)


def test_bytes_and_costs_count_fields_and_the_blocks_between_them():
    A, parts = operator_of(STOKES.A), [mfdeq.AMG(), mfdeq.Jacobi()]
    made = {kind: FieldSplit(STOKES.sizes, parts, kind, STOKES.mass).setup(A) for kind in KINDS}
    alone = sum(part.nbytes for part in made["diagonal"].parts)
    entries = STOKES.A[: STOKES.sizes[0], STOKES.sizes[0] :].nnz
    assert made["diagonal"].nbytes == alone > 0
    assert 12 * entries < made["upper"].nbytes - alone < 20 * entries
    assert made["lower"].nbytes == pytest.approx(made["upper"].nbytes, rel=0.1)
    costs = {kind: M.application_cost(1.0, 3.0) for kind, M in made.items()}
    assert costs["diagonal"] < costs["upper"] < costs["full"] < 3 * costs["upper"]


# Along Newton's steps.

THETA = np.array([-1.0, 0.5, 0.2, -0.7])


@pytest.mark.parametrize(
    "parts",
    [None, {"velocity": mfdeq.AMG("ruge_stuben")}, {"velocity": mfdeq.ILU()}],
    ids=["direct", "amg", "ilu"],
)
@pytest.mark.parametrize("kind", ["upper", "full"])
def test_derivatives_of_a_flow_are_those_of_a_factorization(kind, parts):
    model = CavityFlow(5)
    M = FieldSplit(model.fields, parts, kind=kind, schur="selfp")
    found, expected = (
        mfdeq.solve(model, THETA, solver=solver)
        for solver in (mfdeq.Krylov(preconditioner=M), mfdeq.Direct())
    )
    close(found.state, expected.state, 1e-8)
    loss, v = model.loss(), np.array([1.0, -2.0, 0.5, 1.0])
    close(found.gradient(loss), expected.gradient(loss), 1e-7)
    close(found.hessian(loss) @ v, expected.hessian(loss) @ v, 1e-6)
    smallest = found.report.smallest_singular, expected.report.smallest_singular
    assert smallest[0] == pytest.approx(smallest[1], rel=1e-3)
    assert "FieldSplit" in found.report.solver


def test_a_flow_passes_verification():
    model = CavityFlow(3)
    found = mfdeq.verify(model, THETA, model.loss())
    assert found.verdict == "PASS", str(found)


def test_fields_are_refreshed_where_they_can_be():
    model, counts = CavityFlow(8), LinearCounts()
    states = [np.zeros(model.state_size), mfdeq.solve(model, THETA).state]
    first, second = (operator_of(model.linearize(h, THETA).d_state) for h in states)
    parts = [mfdeq.AMG("ruge_stuben"), mfdeq.Direct()]
    split = FieldSplit(model.fields, parts, "upper", lambda A: model.mass / model.viscosity)
    M, new = split.setup(first), split.setup(second)
    hierarchy, lu = M.parts
    x = np.random.default_rng(0).standard_normal(first.shape[0])
    assert np.linalg.norm(M @ x - new @ x) > 1e-3 * np.linalg.norm(new @ x)
    before = hierarchy._apply(x[: hierarchy.shape[0]])
    assert M.refresh(second)
    assert M.parts[0].transfers is hierarchy.transfers  # a copy: the old one may be in use
    np.testing.assert_array_equal(hierarchy._apply(x[: hierarchy.shape[0]]), before)
    assert M.parts[1] is not lu
    b = second @ x
    close(mfdeq.Krylov(preconditioner=M).setup(second).solve(b), x, 1e-6)
    assert not FieldSplit(model.fields, schur=model.mass).setup(first).refresh(second)
    reused = Reused(mfdeq.Krylov(preconditioner=split))
    reused.setup(first, counts).solve(b)
    reused.renew(second, counts).solve(b)
    assert (counts.setups, counts.refreshes) == (1, 1)


def test_descriptions_pickle():
    M = pickle.loads(pickle.dumps(SOLVERS["amg upper"][1]))
    x = np.ones(sum(STOKES.sizes))
    close(M.setup(STOKES.A) @ x, SOLVERS["amg upper"][1].setup(STOKES.A) @ x, 1e-12)


def test_scales_of_the_model_reach_the_fields():
    """A hierarchy in the model's own units is the same for unknowns in others."""
    problem = darcy(30)  # more cells than the coarsest level has
    n, m = problem.sizes
    units = np.concatenate([np.full(n, 1e-3), np.geomspace(1, 1e4, m)])
    A = operator_of(problem.A)
    changed = operator_of((sp.diags(1 / units) @ problem.A @ sp.diags(1 / units)).tocsr())
    changed.scales = 1 / units, units
    b, taken = np.ones(n + m), []
    for matrix, side in ((A, b), (changed, b / units)):
        M = FieldSplit((n, m), [mfdeq.Jacobi(), mfdeq.AMG("ruge_stuben")], schur="selfp")
        factor = mfdeq.Krylov(preconditioner=M).setup(matrix)
        factor.solve(side)
        taken.append(factor.counts.iterations)
    assert abs(taken[0] - taken[1]) <= 2


# What is refused.

PRESSURE_FIRST = [slice(STOKES.sizes[0], None), slice(STOKES.sizes[0])]
WRONG = {
    "one field": (lambda: FieldSplit([12]), "at least two fields"),
    "a number": (lambda: FieldSplit(12), "at least two fields .* got 12"),
    "a string": (lambda: FieldSplit("up"), "at least two fields .* got 'up'"),
    "kind": (lambda: FieldSplit(SIZES, kind="schur"), "kind of mfdeq.FieldSplit: expected one of"),
    "schur": (lambda: FieldSplit(SIZES, schur="lsc"), "schur of .*'selfp', a matrix .* got 'lsc'"),
    "schur class": (lambda: FieldSplit(SIZES, schur=dict), "got the class dict"),
    "number of parts": (lambda: FieldSplit(SIZES, [None]), "a sequence of 3, got 1"),
    "one part": (lambda: FieldSplit(SIZES, mfdeq.AMG()), "a sequence of 3, got a AMG"),
    "names of parts": (
        lambda: FieldSplit({"u": 1, "p": 2}, {"q": None}), "the names 'u', 'p', got 'q'"
    ),
    "a part": (lambda: FieldSplit(SIZES, [None, None, "amg"]), "preconditioner: expected .* 'amg'"),
    "sum of sizes": (lambda: FieldSplit((4, 5)).setup(BLOCKY), "add up to N = 12, got 9 from"),
    "sizes and slices": (
        lambda: FieldSplit((4, slice(4, 12))).setup(BLOCKY), "sizes of all fields or of none"
    ),
    "overlap": (
        lambda: FieldSplit({"u": range(7), "p": range(6, 12)}).setup(BLOCKY),
        "unknown 6 is in u and p",
    ),
    "gap": (lambda: FieldSplit((range(6), range(7, 12))).setup(BLOCKY), "unknown 6 is in none"),
    "twice": (
        lambda: FieldSplit(([0, 1, 1], range(2, 12))).setup(BLOCKY), "unknown 1 is in field 0 twice"
    ),
    "empty": (lambda: FieldSplit((range(12), slice(3, 3))).setup(BLOCKY), "field 1 .* is empty"),
    "outside": (lambda: FieldSplit((range(6), [6, 40])).setup(BLOCKY), "below N = 12, got 40"),
    "floats": (lambda: FieldSplit(([0.5], [1.5])).setup(BLOCKY), "field 0 .*expected a size, a sl"),
    "zero block": (
        lambda: FieldSplit({"u": STOKES.sizes[0], "p": STOKES.sizes[1]}).setup(STOKES.A),
        "p of mfdeq.FieldSplit: the diagonal block of A is zero.* pass schur='selfp' or a matrix",
    ),
    "singular block": (
        lambda: FieldSplit({"u": 2, "p": 2}).setup(np.eye(4)[[0, 1, 3, 2]] + np.diag([0, 0, 1, 1])),
        "p of mfdeq.FieldSplit: the diagonal block of A is singular.*schur='selfp'",
    ),
    "zero diagonal": (
        lambda: FieldSplit(
            PRESSURE_FIRST, [np.eye(STOKES.sizes[1]), None], schur="selfp"
        ).setup(STOKES.A),
        "schur='selfp' .*field 0: the diagonal block is zero; pass a matrix",
    ),
    "shape of schur": (
        lambda: FieldSplit(STOKES.sizes, schur=np.eye(3)).setup(STOKES.A),
        r"schur of mfdeq.FieldSplit: expected an array of shape \(24, 24\)",
    ),
    "the part does not suit": (
        lambda: FieldSplit((7, 5), [mfdeq.AMG(), None]).setup(BLOCKY.toarray()),
        r"field 0 of mfdeq.FieldSplit: mfdeq.AMG\(\) needs a sparse A",
    ),
    "an inner method": (
        lambda: FieldSplit(STOKES.sizes, [mfdeq.Krylov("cg"), None]).setup(-COMPRESSIBLE),
        "field 0 of mfdeq.FieldSplit: Krylov cg with no preconditioner gives up at once",
    ),
    "minres": (
        lambda: mfdeq.Krylov("minres", FieldSplit((7, 5), kind="upper")), "needs a symmetric precon"
    ),
    "recycling": (
        lambda: mfdeq.Krylov(
            preconditioner=FieldSplit((7, 5), [mfdeq.Krylov(), None]), recycle=5
        ).setup(BLOCKY),
        "recycle needs a preconditioner that is linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_named(what):
    make, message = WRONG[what]
    errors = (mfdeq.ArgumentError, mfdeq.ModelError, mfdeq.SingularStateError)
    with pytest.raises(errors, match=message):
        make()


def test_an_indefinite_form_tells_minres_users_what_to_do():
    M = FieldSplit(STOKES.sizes, kind="full", schur=STOKES.mass)
    factor = mfdeq.Krylov("minres", preconditioner=M).setup(STOKES.A)
    with pytest.raises(mfdeq.ConvergenceError, match="not positive definite: use gmres"):
        factor.solve(np.ones(STOKES.A.shape[0]))
