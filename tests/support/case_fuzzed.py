"""The toy model with treatments of its arguments and of the results of its callbacks.

A result of a callback has a path, such as ``linearize().curvature().state_state``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator
from support.case_toy import THETA, N, P, Toy, U, W, by_product, operator, toy_loss
from support.case_truth import DenseTruth, LossData, MapData
from support.treatments import HARMFUL, HARMLESS

import mfdeq

OBSERVE = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 2.0]])
DATA, WEIGHTS = np.array([0.5, -0.25]), np.array([2.0, 0.5])
PRECISION, MEAN = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([0.25, -0.5])
PRECONDITIONER = np.eye(N) + 0.1 * W.T @ W

FORMS = {
    "blocks": {},
    "operators": dict.fromkeys(
        ("d_state", "d_params", "params_params", "state_params", "state_state"), operator
    ),
    "products": {"curvature": by_product()},
    "products of blocks": {"curvature": by_product(blocks=True)},
}

MODEL, LIN = r"Toy\w*", r"of Toy\w*\.linearize"
# The kind of value at each path, and the pattern of its name in messages.
VALUES = {
    "map()": ("vector", rf"{MODEL}(\.map|: )"),
    "residual()": ("vector", rf"{MODEL}(\.residual|: )"),
    "initial_state()": ("vector", rf"{MODEL}\.initial_state"),
    "residual_scale()": ("scalar", rf"{MODEL}\.residual_scale"),
    "linearize()": ("parts", rf"{MODEL}\.linearize"),
    "linearize().d_state": ("matrix", f"d_state {LIN}"),
    "linearize().d_params": ("matrix", f"d_params {LIN}"),
    "linearize().curvature": ("parts", rf"{MODEL}\.linearize"),
    "linearize().curvature()": ("parts", f"curvature {LIN}"),
    "linearize().second": ("parts", rf"{MODEL}\.linearize"),
    "linearize().second()": ("vector", f"second {LIN}"),
    "loss.value()": ("scalar", "value of the loss"),
    "loss.d_state()": ("vector", "d_state of the loss"),
    "loss.d_params()": ("vector", "d_params of the loss"),
    "loss.curvature()": ("parts", "curvature of the loss"),
    "observe": ("matrix", "observe of LeastSquares"),
    "data": ("vector", "(data|observe) of LeastSquares"),
    "weights": ("vector", "weights of LeastSquares"),
    "precision": ("matrix", "precision of QuadraticPrior"),
    "mean": ("vector", "mean of QuadraticPrior"),
    "preconditioner": ("operator", "preconditioner"),
}
for _path, _of in (("linearize()", LIN), ("loss", "of the loss")):
    for _name in ("params_params", "state_params", "state_state"):
        VALUES[f"{_path}.curvature().{_name}"] = (
            "matrix",
            f"{_name} of curvature {_of}|curvature {_of}: {_name}",
        )
    for _name in ("", ".apply"):
        _whole = f"{_path}.curvature(){_name}()"
        VALUES[_whole] = ("parts", f"curvature {_of}")
        VALUES[f"{_whole}[0]"] = ("vector", f"a_theta of curvature {_of}")
        VALUES[f"{_whole}[1]"] = ("vector", f"a_h of curvature {_of}")
for _path in [path for path, (kind, _) in VALUES.items() if kind in ("matrix", "operator")]:
    for _name in ("matvec", "rmatvec", "matmat", "rmatmat"):
        VALUES[f"{_path}.{_name}()"] = ("product", VALUES[_path][1])


def through(treat, path, value, args=()):
    """Apply `treat(path, value, args)` to a value and to everything that it holds or returns."""
    if isinstance(value, (mfdeq.Linearization, mfdeq.Curvature)):
        parts = {
            f.name: through(treat, f"{path}.{f.name}", getattr(value, f.name))
            for f in fields(value)
            if f.name != "blocks"
        }
        value = replace(value, **parts)
    elif isinstance(value, LinearOperator):
        products = {
            name: through(treat, f"{path}.{name}", getattr(value, name)) for name in PRODUCTS
        }
        value = LinearOperator(value.shape, dtype=value.dtype, **products)
    elif isinstance(value, tuple):
        value = tuple(through(treat, f"{path}[{i}]", x, args) for i, x in enumerate(value))
    elif callable(value):
        function = value

        def value(*args):
            return through(treat, f"{path}()", function(*args), args)

    return treat(path, value, args)


@dataclass
class Setup:
    """A random choice of a model, a loss and options of the solve."""

    kind: type = Toy
    dtype: str = "float64"
    form: str = "blocks"
    loss: str = "written"
    method: str = "auto"
    solver: str = "auto"
    treatments: dict[str, Any] = field(default_factory=dict)

    def treat(self, path, value, args):
        if self.dtype == "float32" and isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = value.astype(np.float32)
        if path not in self.treatments or value is None:
            return value
        if isinstance(value, LinearOperator):
            value = value @ np.eye(value.shape[1])
        return self.treatments[path](value, args)

    def model(self):
        model = self.kind(**FORMS[self.form])
        for name in ("map", "residual", "initial_state", "residual_scale", "linearize"):
            if hasattr(model, name):
                setattr(model, name, through(self.treat, name, getattr(model, name)))
        return model

    def the_loss(self):
        def given(path, value):
            return through(self.treat, path, value)

        form = {k: v for k, v in FORMS[self.form].items() if not k.startswith("d_")}
        loss = toy_loss(**form)
        written = ("value", "d_state", "d_params", "curvature")
        loss = mfdeq.Loss(*(given(f"loss.{name}", getattr(loss, f"_{name}")) for name in written))
        if self.loss == "written":
            return loss
        matrix = operator if self.form == "operators" else lambda x: x
        return (
            0.5 * loss
            + mfdeq.LeastSquares(
                given("observe", matrix(OBSERVE)), given("data", DATA), given("weights", WEIGHTS)
            )
            + mfdeq.QuadraticPrior(given("precision", matrix(PRECISION)), given("mean", MEAN))
        )

    def options(self):
        preconditioner = through(self.treat, "preconditioner", operator(PRECONDITIONER))
        products = self.form == "operators" or self.treatments.get("linearize().d_state") in [
            HARMLESS["matrix"][name] for name in ("operator", "operator of scipy")
        ]
        solver = "auto" if self.solver == "direct" and products else self.solver
        return {"method": self.method, "solver": SOLVERS[solver](preconditioner)}

    def params(self):
        return THETA.astype(self.dtype)

    @property
    def truth(self):
        return truth(self.dtype, self.loss)

    def equilibrium(self):
        return mfdeq.solve(self.model(), self.params(), **self.options())


PRODUCTS = ("matvec", "rmatvec", "matmat", "rmatmat")
SOLVERS = {
    "auto": lambda M: "auto",
    "direct": lambda M: mfdeq.Direct(),
    "gmres": lambda M: mfdeq.Krylov(),
    "preconditioned": lambda M: mfdeq.Krylov(preconditioner=M),
    "bicgstab": lambda M: mfdeq.Krylov("bicgstab", preconditioner=M),
    "neumann": lambda M: mfdeq.Neumann(),
}


@cache
def truth(dtype, loss):
    """Return the dense truth of the toy model, from the formulas."""
    theta = THETA.astype(dtype).astype(float)
    h = np.zeros(N)
    for _ in range(200):
        h = np.tanh(W @ h + U @ theta)
    slope, curved = 1 - h**2, -2 * h * (1 - h**2)
    model = MapData(
        slope[:, None] * W,
        slope[:, None] * U,
        np.einsum("i,ij,im->ijm", curved, W, W),
        np.einsum("i,ij,in->ijn", curved, W, U),
        np.einsum("i,ik,in->ikn", curved, U, U),
    )
    first, second = np.eye(N)[0], np.eye(P)[1]
    written = LossData(
        (h**3).sum() + (theta**2).sum() + h[0] * theta[1],
        3 * h**2 + theta[1] * first,
        2 * theta + h[0] * second,
        np.diag(6 * h),
        np.outer(first, second),
        2 * np.eye(P),
    )
    if loss == "sum":
        misfit, deviation = OBSERVE @ h - DATA, theta - MEAN
        written = LossData(
            0.5 * (written.value + WEIGHTS @ misfit**2 + deviation @ PRECISION @ deviation),
            0.5 * written.L_h + OBSERVE.T @ (WEIGHTS * misfit),
            0.5 * written.L_t + PRECISION @ deviation,
            0.5 * written.L_hh + OBSERVE.T @ (WEIGHTS[:, None] * OBSERVE),
            0.5 * written.L_ht,
            0.5 * written.L_tt + PRECISION,
        )
    return DenseTruth(h, theta, model, written)


# Quantities: how each is computed from a setup, and from the truth.

V = np.array([[1.0, 0.5, -2.0], [0.7, -1.0, 0.2]])
Y = np.array([[1.0, -0.5], [0.25, 2.0], [-1.0, 0.5]])
u, v, w = V[:, 0], V[:, 1], Y[:, 0]
FULL = np.eye(N)


def functional(setup):
    return mfdeq.ReducedFunctional(setup.model(), setup.the_loss(), **setup.options())


def at_state(setup):
    state = setup.truth.state.astype(setup.dtype)
    eq = mfdeq.equilibrium_at(setup.model(), setup.params(), state)
    return eq.gradient(setup.the_loss())


QUANTITIES = {
    "state": (lambda s: s.equilibrium().state, lambda t: t.state),
    "gradient": (lambda s: s.equilibrium().gradient(s.the_loss()), lambda t: t.gradient),
    "gradient, rtol": (
        lambda s: s.equilibrium().gradient(s.the_loss(), rtol=1e-2),
        lambda t: t.gradient,
    ),
    "gradient at a state": (at_state, lambda t: t.gradient),
    "adjoint": (lambda s: s.equilibrium().adjoint(s.the_loss()), lambda t: t.adjoint_state),
    "Z": (lambda s: s.equilibrium().sensitivity @ V, lambda t: t.Z @ V),
    "Z'": (lambda s: s.equilibrium().sensitivity.H @ Y, lambda t: t.Z.T @ Y),
    "H": (lambda s: s.equilibrium().hessian(s.the_loss()) @ V, lambda t: t.H @ V),
    "H v": (lambda s: s.equilibrium().hessian(s.the_loss()) @ v, lambda t: t.H @ v),
    "H, with error": (
        lambda s: s.equilibrium().hessian(s.the_loss()).with_error(V)[0],
        lambda t: t.H @ V,
    ),
    "H, to accuracy": (
        lambda s: s.equilibrium().hessian(s.the_loss()).to_accuracy(1e-2) @ V,
        lambda t: t.H @ V,
    ),
    "terms of H": (
        lambda s: sum(x @ V for x in s.equilibrium().hessian(s.the_loss()).terms.values()),
        lambda t: t.H @ V,
    ),
    "eigenvalues": (
        lambda s: mfdeq.eigsh(s.equilibrium().hessian(s.the_loss()), 2, rtol=1e-3).values,
        lambda t: np.linalg.eigvalsh(t.H),
    ),
    "curvature": (lambda s: s.equilibrium().curvature(w).toarray(), lambda t: t.curvature(w)),
    "second order": (
        lambda s: s.equilibrium().second_order(u, v),
        lambda t: t.second_order(u, v),
    ),
    "slice": (
        lambda s: s.equilibrium().second_order_slice(u) @ V,
        lambda t: t.second_order_slice(u) @ V,
    ),
    "slice'": (
        lambda s: s.equilibrium().second_order_slice(u).H @ Y,
        lambda t: t.second_order_slice(u).T @ Y,
    ),
    "component hessian": (
        lambda s: s.equilibrium().component_hessian(1).toarray(),
        lambda t: t.component_hessian(1),
    ),
    "value": (lambda s: np.array(functional(s).value(s.params())), lambda t: t.loss.value),
    "functional": (lambda s: functional(s).gradient(s.params()), lambda t: t.gradient),
    "hessp": (lambda s: functional(s).hessp(s.params(), v), lambda t: t.H @ v),
}


NUMBERS = ("data", "weights", "mean")  # not results of callbacks
HARMLESS_AT = [
    (path, name)
    for path, (kind, _) in VALUES.items()
    for name in HARMLESS.get(kind, ())
    if (name, path) not in [("long", of) for of in NUMBERS]
]
OF_PARTS = ("none", "text", "dict", "generator", "ragged", "number", "function")
HARMFUL_AT = [
    (path, name)
    for path, (kind, _) in VALUES.items()
    for name in HARMFUL
    if ("()" in path if name.startswith("raises") else kind != "parts" or name in OF_PARTS)
    and (name, path) not in [("number", "weights"), ("number", "mean")]
    and not (name == "none" and kind == "matrix" and ".curvature()." in path)  # a zero block
]


def message_pattern(path, name):
    """Return the pattern of the name that a message must give to a harmful treatment's path."""
    if name.startswith("raises"):
        path = path[: path.rindex("()") + 2]
    return VALUES[path][1]
