"""Wrong input of every kind raises a typed error that says what was expected and found."""

import re

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator
from support.case_toy import (
    THETA,
    N,
    P,
    Toy,
    ToyResidual,
    V,
    W,
    by_product,
    operator,
    solve_toy,
    toy_loss,
    without,
)
from support.refusing import refused, table

import mfdeq
from mfdeq import ArgumentError, DerivativeError, ModelError

LOSS = toy_loss()
EQ = solve_toy()
SINGLE = mfdeq.solve(Toy(), THETA.astype(np.float32))
SINGLE_OF_SHAPE = {
    (N, N): SINGLE.state_operator,
    (N, P): SINGLE.sensitivity,
    (P, P): SINGLE.hessian(LOSS),
}


def hessian(**spoil):
    return solve_toy(**spoil).hessian(LOSS) @ V


# Vectors: results of callbacks, and arguments.


def put(value):
    def spoil(x):
        x = np.array(x)
        x.flat[0] = value
        return x

    return spoil


BAD_VECTORS = {
    "none": (lambda x: None, "None|cannot reshape"),
    "nan": (put(np.nan), "NaN or infinity"),
    "infinity": (put(-np.inf), "NaN or infinity"),
    "complex": (lambda x: x + 0j, "a real array, got dtype complex128"),
    "single": (lambda x: x.astype(np.float32), "dtype float32, less precise than"),
    "short": (lambda x: x[:-1], r"shape \(|cannot reshape"),
    "text": (lambda x: "some text", r"shape \(\)|dtype <U9|cannot reshape"),
    "objects": (lambda x: x.astype(object), "dtype object"),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], "got list|inhomogeneous"),
    "column": (lambda x: x[..., None], r"shape \("),
    "sparse": (lambda x: csr_array(np.atleast_2d(x)), "got a sparse matrix"),
    "masked": (lambda x: np.ma.masked_array(x, mask=x == x.flat[0]), "masked"),
}

VECTORS = {
    "Toy.map": lambda s: solve_toy(map=s),
    "ToyResidual.residual": lambda s: solve_toy(ToyResidual, residual=s),
    "Toy.initial_state": lambda s: solve_toy(initial_state=s),
    "h0": lambda s: mfdeq.solve(Toy(), THETA, s(np.zeros(N))),
    "state": lambda s: mfdeq.equilibrium_at(Toy(), THETA, s(np.zeros(N))),
    "second of Toy": lambda s: solve_toy(second=s).second_order_slice(V[:, 0]) @ V,
    "a_theta of curvature of Toy": lambda s: hessian(curvature=by_product(a_theta=s)),
    "a_h of curvature of Toy": lambda s: hessian(curvature=by_product(a_h=s)),
    "d_state of the loss": lambda s: EQ.gradient(toy_loss(d_state=s)),
    "d_params of the loss": lambda s: EQ.gradient(toy_loss(d_params=s)),
    "LeastSquares .*data|data of Least": lambda s: EQ.gradient(
        mfdeq.LeastSquares(W, s(np.ones(N)))
    ),
    "weights of Least": lambda s: EQ.gradient(mfdeq.LeastSquares(W, np.ones(N), s(np.ones(N)))),
    "mean of Quadratic": lambda s: EQ.gradient(mfdeq.QuadraticPrior(2.0, s(np.ones(P)))),
}
ALLOWED = [("Toy.initial_state", "none"), ("h0", "none")]  # None selects the default
ALLOWED += [(name, "single") for name in list(VECTORS)[2:5] + list(VECTORS)[-3:]]  # starts and data


@pytest.mark.parametrize(
    ("name", "bad"), [(n, b) for n in VECTORS for b in BAD_VECTORS if (n, b) not in ALLOWED]
)
def test_wrong_vectors_raise(name, bad):
    spoil, words = BAD_VECTORS[bad]
    with refused(ModelError, name, words):
        VECTORS[name](spoil)


@pytest.mark.parametrize("bad", sorted(set(BAD_VECTORS) - {"single"}))  # it sets the dtype
def test_wrong_params_raise(bad):
    spoil, words = BAD_VECTORS[bad]
    for use in (
        lambda theta: mfdeq.solve(Toy(), theta),
        lambda theta: mfdeq.equilibrium_at(Toy(), theta, EQ.state),
        mfdeq.ReducedFunctional(Toy(), LOSS).gradient,
    ):
        with refused(ModelError, "params", words):
            use(spoil(THETA))


DIRECTIONS = {
    "w": (N, EQ.curvature),
    "w of a component": (N, EQ.component_hessian),
    "u": (P, lambda u: EQ.second_order(u, V[:, 0])),
    "v": (P, lambda v: EQ.total_curvature(V[:, 0], v)),
    "v of a slice": (P, EQ.second_order_slice),
    "v0": (P, lambda v: mfdeq.eigsh(EQ.hessian(LOSS), 1, v0=v)),
}


@pytest.mark.parametrize(
    ("name", "bad"),
    # A start is optional, and may be a block.
    [(n, b) for n in DIRECTIONS for b in BAD_VECTORS if n != "v0" or b not in ("none", "column")],
)
def test_wrong_directions_raise(name, bad):
    size, use = DIRECTIONS[name]
    spoil, words = BAD_VECTORS[bad]
    with refused(ArgumentError, rf"^{name.split()[0]}\b", f"{words}|an integer"):
        use(spoil(np.arange(1.0, size + 1)))


BLOCKS = ("params_params", "state_params", "state_state")
PRODUCTS = [
    (field, product)
    for field in ("d_state", "d_params", *BLOCKS)
    for product in ("matvec", "rmatvec", "matmat", "rmatmat")
    if (field, product) not in [("params_params", "rmatmat"), ("state_state", "rmatmat")]
]


# scipy converts the results of products, so columns, sparse and masked ones do not reach mfdeq.
@pytest.mark.parametrize("bad", sorted(set(BAD_VECTORS) - {"column", "sparse", "masked"}))
@pytest.mark.parametrize(("field", "product"), PRODUCTS)
def test_wrong_products_of_a_linear_operator_raise(field, product, bad):
    spoil, words = BAD_VECTORS[bad]
    spoils = {field: lambda right: operator(right, **{product: spoil})}
    what = "adjoint product" if product.startswith("r") else "product"
    words = f"{words}|dimension|shape"
    with refused(ModelError, f"the {what} of {field}", words):
        eq = solve_toy(**spoils)
        eq.hessian(LOSS).toarray()
        # "auto" assembles A from its products, and needs none with the adjoint.
        eq.state_operator.H @ np.eye(eq.state.shape[0])


@pytest.mark.parametrize("bad", BAD_VECTORS)
@pytest.mark.parametrize("side", ["a_theta", "a_h"])
def test_wrong_products_of_a_curvature_with_blocks_raise(side, bad):
    spoil, words = BAD_VECTORS[bad]
    spoiled = {side: lambda x: spoil(x) if x.ndim == 2 else x}
    with refused(ModelError, f"{side} of curvature of Toy", words):
        hessian(curvature=by_product(blocks=True, **spoiled))


# Scalars.

BAD_SCALARS = table(
    ("nan", np.nan, "NaN"),
    ("infinity", np.inf, "infinity"),
    ("complex", 1j, "dtype complex128"),
    ("complex of numpy", np.complex128(1 + 2j), "dtype complex128"),
    ("two", np.ones(2), r"a number, got shape \(2,\)"),
    ("text", "1.5", "dtype"),
    ("list", [1.0], r"a number, got shape \(1,\)"),
    ("dict", {}, "dtype object"),
)


@pytest.mark.parametrize(("bad", "word"), BAD_SCALARS)
def test_wrong_scalars_raise(bad, word):
    with refused(ModelError, "value of the loss", word):
        toy_loss(value=lambda _: bad).value(EQ.state, EQ.params)


BAD_SCALES = [case for case in BAD_SCALARS if case.id not in ("two", "list")]


@pytest.mark.parametrize(("bad", "word"), BAD_SCALES)
def test_wrong_scales_raise(bad, word):
    with refused(ModelError, r"Toy.residual_scale", word):
        solve_toy(residual_scale=lambda _: bad)


def test_a_missing_value_and_a_negative_scale_raise():
    with refused(ModelError, "value of the loss", "got None"):
        toy_loss(value=lambda _: None).value(EQ.state, EQ.params)
    with refused(ModelError, "residual_scale: expected a number >= 0, got -1.0"):
        solve_toy(residual_scale=lambda _: -1.0)


# Matrices: every field that accepts one.

MATRICES = {
    "d_state of Toy": lambda s: solve_toy(d_state=s),
    "d_params of Toy": lambda s: solve_toy(d_params=s),
    "params_params of curvature of Toy": lambda s: hessian(params_params=s),
    "state_params of curvature of Toy": lambda s: hessian(state_params=s),
    "state_state of curvature of Toy": lambda s: hessian(state_state=s),
    "state_state of curvature of the loss": lambda s: EQ.hessian(toy_loss(state_state=s)),
    r"observe of LeastSquares \(3 data\)": lambda s: EQ.gradient(
        mfdeq.LeastSquares(s(W), np.ones(N))
    ),
    "precision of QuadraticPrior": lambda s: EQ.gradient(mfdeq.QuadraticPrior(s(np.eye(P)))),
}
BAD_MATRICES = {
    "none": (
        lambda A: None,
        "expected an array, a sparse matrix or a LinearOperator .* got a NoneType",
    ),
    "nan": (put(np.nan), "NaN or infinity"),
    "infinity": (put(np.inf), "NaN or infinity"),
    "sparse nan": (lambda A: csr_array(put(np.nan)(A)), "NaN or infinity"),
    "complex": (lambda A: A + 0j, "expected a real array, got dtype complex128. Pass the"),
    "complex operator": (lambda A: aslinearoperator(A + 0j), "dtype complex128"),
    "single": (lambda A: A.astype(np.float32), "float32, less precise"),
    "masked": (lambda A: np.ma.masked_array(A, mask=A.flat[0] == A), "masked"),
    "single operator of ours": (lambda A: SINGLE_OF_SHAPE[A.shape], "float32, less precise"),
    "short": (lambda A: A[:-1], r"expected .*shape .*, got"),
    "sparse short": (lambda A: csr_array(A[:-1]), r"expected .*shape .*, got"),
    "short operator": (lambda A: aslinearoperator(A[:-1]), r"expected .*shape .*, got"),
    "scalar": (lambda A: np.array(2.0), r"expected .* got (shape )?\(\)"),
    "objects": (lambda A: A.astype(object), "dtype object"),
    "list": (lambda A: A.tolist(), "got a list"),
    "function": (lambda A: lambda x: A @ x, "got a function"),
    "text": (lambda A: "A", "got a str"),
}
ALLOWED_MATRICES = [(name, "none") for name in MATRICES if " of curvature of " in name]
# Matrices that are data are converted to the dtype of the parameters.
ALLOWED_MATRICES += [(name, "single") for name in MATRICES if re.match("observe|precision", name)]


@pytest.mark.parametrize(
    ("name", "bad"),
    [(n, b) for n in MATRICES for b in BAD_MATRICES if (n, b) not in ALLOWED_MATRICES],
)
def test_wrong_matrices_raise(name, bad):
    spoil, words = BAD_MATRICES[bad]
    with refused(ModelError, name, words):
        MATRICES[name](spoil)


@pytest.mark.parametrize("name", [*MATRICES, "the preconditioner"])
def test_missing_and_wrong_adjoints_raise(name):
    def preconditioned(spoil):
        solver = mfdeq.Krylov(preconditioner=spoil(np.eye(N)))
        return mfdeq.solve(Toy(), THETA, solver=solver).gradient(LOSS)

    use = MATRICES.get(name, preconditioned)
    with refused(ModelError, f"{name}.* is an operator without an adjoint", "pass rmatvec="):
        use(lambda A: operator(A, rmatvec=None))
    with refused(DerivativeError, f"{name}.*: the adjoint product is not the adjoint", "rmatvec"):
        use(lambda A: operator(A, rmatvec=lambda y: 2 * y))


def test_object_without_adjoint_and_dtype_raises():
    class Duck:
        shape = (N, P)

        def matvec(self, x):
            return np.ones(N)

    with refused(ModelError, "d_params of Toy", "without an adjoint"):
        solve_toy(d_params=lambda _: Duck())


SKEW = np.triu(np.ones((5, 5)))


@pytest.mark.parametrize(
    ("words", "use"),
    table(
        ("pp", "params_params is not", lambda: hessian(params_params=lambda A: SKEW[:P, :P])),
        ("ss", "state_state is not", lambda: hessian(state_state=lambda A: SKEW[:N, :N])),
        ("sparse", "state_state", lambda: hessian(state_state=lambda A: csr_array(SKEW[:N, :N]))),
        ("operator", "", lambda: hessian(state_state=lambda A: aslinearoperator(SKEW[:N, :N]))),
        ("product", "apply is not", lambda: hessian(curvature=by_product(a_h=lambda x: 2 * x))),
        ("loss", "of the loss", lambda: EQ.hessian(toy_loss(params_params=lambda A: SKEW[:P, :P]))),
        ("prior", "precision", lambda: EQ.gradient(mfdeq.QuadraticPrior(SKEW[:P, :P]))),
    ),
)
def test_unsymmetric_curvature_raises(words, use):
    with refused(DerivativeError, words, "symmetric", "check for a transposed"):
        use()


# Parts that are missing or of a wrong kind.


class Bare(mfdeq.FixedPointModel):
    state_size = param_size = 1

    def map(self, h, theta):
        return 0 * h


class NoResidual(mfdeq.ResidualModel):
    state_size = param_size = 1

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.eye(1), np.eye(1))


WHOLE = np.eye(N + P)
MODELS = table(
    (
        "no model",
        lambda: mfdeq.solve(None, THETA),
        "expected an mfdeq.FixedPointModel .* got NoneType",
    ),
    ("the class", lambda: mfdeq.solve(Toy, THETA), r"got the class Toy itself: .* Toy\(\.\.\.\)"),
    ("no linearize", lambda: mfdeq.solve(Bare(), np.ones(1)), r"no linearize\(h, theta\): define"),
    ("no residual", lambda: mfdeq.solve(NoResidual(), np.ones(1)), r"no residual\(h, theta\)"),
    (
        "linearization",
        lambda: solve_toy(linearize=lambda _: {}),
        "Toy.linearize: expected .*Linearization, got dict",
    ),
    (
        "no curvature",
        lambda: hessian(linearize=without("curvature")),
        r"Linearization\(curvature=.* mfdeq.mixed\(model\)",
    ),
    (
        "no second",
        lambda: solve_toy(linearize=without("second")).second_order(V[:, 0], V[:, 1]),
        r"returned no second.*Linearization\(second=",
    ),
    (
        "no second for a slice",
        lambda: solve_toy(linearize=without("second")).second_order_slice(V[:, 0]) @ V,
        r"returned no second.*Linearization\(second=",
    ),
    (
        "curvature is no function",
        lambda: solve_toy(**{"curvature field": lambda _: mfdeq.Curvature()}),
        "curvature of the Linearization: expected a function, got Curvature",
    ),
    (
        "second is no function",
        lambda: solve_toy(**{"second field": lambda _: np.ones(N)}),
        "second of the Linearization: expected a function, got ndarray",
    ),
    (
        "curvature: none",
        lambda: hessian(curvature=lambda _: None),
        r"expected an mfdeq.Curvature or .* NoneType",
    ),
    (
        "curvature: whole",
        lambda: hessian(curvature=lambda _: WHOLE),
        r"expected an mfdeq.Curvature or .* ndarray",
    ),
    (
        "curvature: operator",
        lambda: hessian(curvature=lambda _: aslinearoperator(WHOLE)),
        r"expected an mfdeq.Curvature or .* got \w*LinearOperator",
    ),
    (
        "curvature: no pair",
        lambda: hessian(curvature=lambda _: lambda u, z: np.ones(N + P)),
        r"expected it to return a pair \(a_theta, a_h\), got ndarray",
    ),
    (
        "blocks and apply",
        lambda: mfdeq.Curvature(WHOLE, apply=min),
        "expected either blocks or apply=, got both",
    ),
    (
        "apply is no function",
        lambda: mfdeq.Curvature(apply=3),
        "apply .* expected a function, got int",
    ),
    (
        "value is no function",
        lambda: mfdeq.Loss(1.0),
        "value of the loss: expected a function .* got float",
    ),
    (
        "d_state is no function",
        lambda: mfdeq.Loss(min, np.ones(N)),
        "d_state of the loss: expected a function .* got ndarray",
    ),
)


@pytest.mark.parametrize(("use", "words"), MODELS)
def test_models_and_losses_without_a_part_raise(use, words):
    with refused(ModelError, words):
        use()


@pytest.mark.parametrize("size", [None, 0, -1, 1.5, True, "3"])
def test_wrong_sizes_raise(size):
    model = Toy()
    model.state_size = size
    with refused(ModelError, "Toy.state_size: expected a positive integer, got"):
        mfdeq.solve(model, THETA)
    model.state_size = np.int64(N)
    assert mfdeq.solve(model, THETA).state.shape == (N,)


MISSING = {
    "d_state": (
        lambda: EQ.gradient(mfdeq.Loss(lambda h, t: h.sum())),
        "d_state of the loss is missing, but the value depends on the state: pass d_state=",
    ),
    "d_params": (
        lambda: EQ.gradient(mfdeq.Loss(lambda h, t: t.sum(), d_state=lambda h, t: 0 * h)),
        "d_params of the loss is missing, but the value depends on .* parameters: pass d_params=",
    ),
    "curvature": (
        lambda: EQ.hessian(mfdeq.Loss(lambda h, t: h @ h, d_state=lambda h, t: 2 * h)),
        "curvature of the loss is missing.*pass curvature=lambda",
    ),
}


@pytest.mark.parametrize("part", MISSING)
def test_a_missing_nonzero_loss_derivative_raises(part):
    use, words = MISSING[part]
    with refused(DerivativeError, words):
        use()


@pytest.mark.parametrize(
    ("observe", "words"),
    table(
        ("negative", np.array([-1, 0]), "between 0 and 2, got -1 … 0"),
        ("beyond", np.array([0, N]), "between 0 and 2, got 0 … 3"),
        ("floats", np.array([0.0, 1.0]), "expected integer indices or a mask, got dtype float64"),
        ("short mask", np.array([True, True]), "a mask of 3 entries, .* got a mask of 2"),
        (
            "long mask",
            np.array([True, True, False, False]),
            "a mask of 3 entries, .* got a mask of 4",
        ),
        ("another number", np.array([0, 1, 2]), r"2 indices, .* got shape \(3,\)"),
        ("list of floats", [0.0, 1.0], "got a list"),
        ("list beyond", [0, N], "between 0 and 2, got 0 … 3"),
    ),
)
def test_wrong_indices_of_least_squares_raise(observe, words):
    with refused(ModelError, "observe", words):
        EQ.gradient(mfdeq.LeastSquares(observe, np.ones(2)))


@pytest.mark.parametrize(
    ("observe", "data", "weights", "words"),
    [
        ([0, 1], np.ones(3), 1.0, r"observe.*3 indices, .* got shape \(2,\)"),
        (np.array([True, False, True]), np.ones(3), 1.0, r"observe.* got shape \(2,\)"),
        (np.ones((2, N)), np.ones(3), 1.0, r"observe.*shape \(3, N\), .* got shape \(2, 3\)"),
        ([0, 1], np.ones(2), np.ones(3), r"weights.*shape \(2,\), got \(3,\)"),
    ],
)
def test_data_of_another_number_than_the_observations_are_refused_at_once(
    observe, data, weights, words
):
    with refused(ModelError, words):
        mfdeq.LeastSquares(observe, data, weights)


@pytest.mark.parametrize("observe", [[0, 2], (0, 2), [True, False, True]])
def test_indices_of_least_squares_may_be_a_list(observe):
    data = np.array([1.0, 2.0])
    expected = EQ.gradient(mfdeq.LeastSquares(np.array([0, 2]), data))
    np.testing.assert_array_equal(EQ.gradient(mfdeq.LeastSquares(observe, data)), expected)


@pytest.mark.parametrize("weights", [-1.0, np.array([1.0, -2.0])])
def test_negative_weights_are_refused_and_zero_is_not(weights):
    with refused(ModelError, "weights of LeastSquares", "not negative, got -"):
        mfdeq.LeastSquares([0, 1], np.ones(2), weights)
    zero = mfdeq.LeastSquares([0, 1], np.ones(2), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(
        EQ.gradient(zero), EQ.gradient(mfdeq.LeastSquares([1], np.ones(1)))
    )


@pytest.mark.parametrize("negative", [np.diag([1.0, -4.0]), csr_array(np.diag([1.0, -4.0]))])
def test_negative_precisions_are_refused(negative):
    with refused(ModelError, "precision of QuadraticPrior", "not negative, got -2"):
        mfdeq.QuadraticPrior(-2.0)
    with refused(ModelError, "diagonal of the precision of QuadraticPrior", "not negative, got -4"):
        mfdeq.QuadraticPrior(negative).gradients(np.ones(1), np.ones(2))


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_factors_of_losses_that_are_not_finite_real_numbers_raise(factor):
    for use in (lambda: factor * LOSS, lambda: LOSS * factor):
        with refused(ArgumentError, f"expected a finite number, got {factor}"):
            use()
    for use in (lambda: LOSS * 1j, lambda: LOSS + 1, lambda: LOSS * LOSS):
        with pytest.raises(TypeError, match="unsupported operand"):
            use()
