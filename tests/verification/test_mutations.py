"""Verify finds every kind of wrong derivative of a model or a loss, and names it.

A mutant is a correct model or loss with one wrong field. `mfdeq.verify` must fail for it and name
that field first, and pass for the original.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.case_forms import AS_IS, FORMS, linearization, product, with_linearize
from support.case_models import Fields, linear_operator_of
from support.case_truth import dense_blocks, derivatives
from support.cases import CASES, SINGLE, build, case_in_form

import mfdeq

NAMED = {"smooth": build("smooth"), "stiff": build("stiff"), "square": build("square")}


# Mutants of a model


@dataclass(frozen=True)
class Mutant:
    name: str
    fields: Any  # (fields, model, h, theta) -> Fields or Linearization
    on: tuple[str, ...] = ("smooth", "stiff", "square")


def field(name, change):
    """A mutant of d_state or d_params."""
    return lambda fields, model, h, theta: fields._replace(**{name: change(getattr(fields, name))})


def stale(name):
    """The derivative at another point."""

    def mutate(fields, model, h, theta):
        there = model.fields(0.8 * h, 1.2 * theta)
        return fields._replace(**{name: getattr(there, name)})

    return mutate


def wrong_adjoint(name, change):
    """An operator whose product is right and whose adjoint is not."""

    def mutate(fields, model, h, theta):
        M = getattr(fields, name)
        wrong = linear_operator_of(model.xp)(
            M.shape,
            matvec=lambda x: M @ x,
            rmatvec=lambda y: change(M, y),
            matmat=lambda X: M @ X,
            rmatmat=lambda Y: change(M, Y),
            dtype=M.dtype,
        )
        return fields._replace(**{name: wrong})

    return mutate


def block(name, change):
    """A mutant of one block of the curvature."""

    def mutate(fields, model, h, theta):
        def curvature(lam):
            blocks = dense_blocks(fields.curvature(lam), model)
            return blocks._replace(**{name: change(getattr(blocks, name))})

        return fields._replace(curvature=curvature)

    return mutate


def weights(change):
    """The curvature of another weighting than the one asked for."""
    return lambda fields, model, h, theta: fields._replace(
        curvature=lambda lam: fields.curvature(change(lam))
    )


def applied(change):
    """A curvature given by its product, (blocks, dtheta, dh) -> (a_theta, a_h)."""

    def mutate(fields, model, h, theta):
        def curvature(lam):
            blocks = dense_blocks(fields.curvature(lam), model)
            return lambda dtheta, dh: change(blocks, dtheta, dh)

        right = linearization(model, fields, AS_IS)
        return mfdeq.Linearization(right.d_state, right.d_params, curvature, right.second)

    return mutate


def second(change):
    """A mutant of second(a, b): change(tensors, a, b, right) -> (N,)."""

    def mutate(fields, model, h, theta):
        tensors = derivatives(model.twin(), h, theta)
        return fields._replace(second=lambda a, b: change(tensors, a, b, fields.second(a, b)))

    return mutate


def skewed(matrix):
    """A matrix with its symmetric part kept and its symmetry lost."""
    upper = np.triu(matrix, 1) + np.triu(np.full_like(matrix, np.max(abs(matrix)) / 2), 1)
    return matrix + upper - upper.T


def mixed(tensors, a, b):
    """f_ht[a_h, b_theta], one of the two mixed terms."""
    return np.einsum("ijn,j,n->i", tensors.f_ht, a[1], b[0])


def one_sided(blocks, dtheta, dh):
    """The operator whose reduced form has 2M in place of M + M'."""
    pp, sp, ss = blocks
    return pp @ dtheta + 2 * (sp.T @ dh), ss @ dh


def swapped_arguments(blocks, dtheta, dh):
    return product(blocks, dh, dtheta)


def swapped_results(blocks, dtheta, dh):
    return product(blocks, dtheta, dh)[::-1]


CHANGES = {"sign": lambda M: -M, "double": lambda M: 2 * M, "dropped": lambda M: 0 * M}
SQUARE = ("square",)

MUTANTS = [
    *(Mutant(f"d_state {n}", field("d_state", c)) for n, c in CHANGES.items()),
    Mutant("d_state transposed", field("d_state", lambda M: M.T)),
    Mutant("d_state stale", stale("d_state")),
    Mutant("d_state for I - d_state", field("d_state", lambda M: np.eye(len(M)) - M)),
    *(Mutant(f"d_params {n}", field("d_params", c)) for n, c in CHANGES.items()),
    Mutant("d_params transposed", field("d_params", lambda M: M.T), SQUARE),
    Mutant("d_params stale", stale("d_params")),
    Mutant("d_state its own adjoint", wrong_adjoint("d_state", lambda M, y: M @ y)),
    Mutant("d_state adjoint sign", wrong_adjoint("d_state", lambda M, y: -M.T @ y)),
    Mutant("d_params adjoint sign", wrong_adjoint("d_params", lambda M, y: -M.T @ y)),
    Mutant("d_params adjoint double", wrong_adjoint("d_params", lambda M, y: 2 * M.T @ y)),
    Mutant("d_params adjoint dropped", wrong_adjoint("d_params", lambda M, y: 0 * (M.T @ y))),
    Mutant("d_params its own adjoint", wrong_adjoint("d_params", lambda M, y: M @ y), SQUARE),
    *(
        Mutant(f"{b} {n}", block(b, c), on)
        for n, c in CHANGES.items()
        for b, on in (
            ("params_params", ("smooth", "stiff")),  # zero in Chandrasekhar's equation
            ("state_params", ("smooth", "stiff", "square")),
            ("state_state", ("smooth", "stiff", "square")),
        )
    ),
    Mutant("params_params skewed", block("params_params", skewed), ("smooth", "stiff")),
    Mutant("state_state skewed", block("state_state", skewed)),
    Mutant("state_params transposed", block("state_params", lambda M: M.T), SQUARE),
    Mutant("curvature stale", stale("curvature")),
    Mutant("curvature of -lam", weights(lambda lam: -lam)),
    Mutant("curvature of 2 lam", weights(lambda lam: 2 * lam)),
    Mutant("curvature of |lam|", weights(abs), ("smooth", "stiff")),  # of one sign in the third
    Mutant("curvature of ones", weights(np.ones_like)),
    Mutant("curvature one-sided", applied(one_sided)),
    Mutant("curvature arguments swapped", applied(swapped_arguments), SQUARE),
    Mutant("curvature results swapped", applied(swapped_results), SQUARE),
    Mutant("second sign", second(lambda t, a, b, right: -right)),
    Mutant("second double", second(lambda t, a, b, right: 2 * right)),
    Mutant("second dropped", second(lambda t, a, b, right: 0 * right)),
    Mutant("second one mixed term", second(lambda t, a, b, right: right - mixed(t, a, b))),
    Mutant(
        "second one-sided",  # right where a = b: only two directions show it
        second(lambda t, a, b, right: right + mixed(t, a, b) - mixed(t, b, a)),
    ),
    Mutant("second no mixed", second(lambda t, a, b, r: r - mixed(t, a, b) - mixed(t, b, a))),
    Mutant(
        "second no state",
        second(lambda t, a, b, r: r - np.einsum("ijm,j,m->i", t.f_hh, a[1], b[1])),
    ),
    Mutant(
        "second no params",
        second(lambda t, a, b, r: r - np.einsum("ikn,k,n->i", t.f_tt, a[0], b[0])),
        ("smooth", "stiff"),
    ),
    Mutant(
        "second arguments swapped",
        lambda fields, model, h, theta: fields._replace(
            second=lambda a, b: fields.second(a[::-1], b[::-1])
        ),
        SQUARE,
    ),
]


def mutant_model(case, mutant):
    """The model of the case with one field wrong."""
    model = case.written[0]

    def linearize(self, h, theta):
        changed = mutant.fields(self.fields(h, theta), self, h, theta)
        return linearization(self, changed, AS_IS) if isinstance(changed, Fields) else changed

    return with_linearize(model, linearize)


def assert_blamed(verification, field):
    """Verify failed, and the first check that did names the field."""
    assert verification.verdict == "FAIL", str(verification)
    assert not verification
    first = next(check for check in verification if check.verdict == "FAIL")
    assert field in f"{first.name} {first.detail}", str(verification)
    with pytest.raises(mfdeq.DerivativeError, match=re.escape(first.name)):
        verification.raise_if_failed()


@pytest.mark.parametrize(
    ("mutant", "name"),
    [
        pytest.param(
            mutant,
            name,
            id=f"{mutant.name}-{name}".replace(" ", "_"),
            # Each mutant has a fast test, of one of the models for which there is the mutant.
            marks=[] if j == i % len(mutant.on) else pytest.mark.slow,
        )
        for i, mutant in enumerate(MUTANTS)
        for j, name in enumerate(mutant.on)
    ],
)
def test_verify_fails_for_a_mutant_of_the_model(mutant, name):
    case = NAMED[name]
    verification = mfdeq.verify(mutant_model(case, mutant), case.params, case.loss, case.h0)
    assert_blamed(verification, mutant.name.split()[0])  # the field, or the block of the curvature


SLIGHT = [
    Mutant("d_state", field("d_state", lambda M: 1.0001 * M)),
    Mutant("d_params", field("d_params", lambda M: 1.0001 * M)),
    Mutant("params_params", block("params_params", lambda M: 1.0001 * M), ("smooth", "stiff")),
    Mutant("state_params", block("state_params", lambda M: 1.0001 * M)),
    Mutant("state_state", block("state_state", lambda M: 1.0001 * M)),
    Mutant("second", second(lambda t, a, b, right: 1.0001 * right)),
]


@pytest.mark.parametrize(
    ("mutant", "name"), [pytest.param(m, n, id=f"{m.name}-{n}") for m in SLIGHT for n in m.on]
)
def test_verify_fails_for_one_part_in_ten_thousand(mutant, name):
    case = NAMED[name]
    verification = mfdeq.verify(mutant_model(case, mutant), case.params, case.loss, case.h0)
    assert_blamed(verification, mutant.name)


def contradicts_itself(mutant):
    """Wrong in a way that a dot test shows without any other derivative."""
    adjoint = "adjoint" in mutant.name
    return adjoint or any(word in mutant.name for word in ("skewed", "curvature one", "swapped"))


@pytest.mark.parametrize(
    ("mutant", "name"),
    [
        pytest.param(m, n, id=f"{m.name}-{n}".replace(" ", "_"))
        for m in MUTANTS
        if contradicts_itself(m) and not m.name.startswith("second")
        for n in m.on
    ],
)
def test_solve_and_hessian_refuse_contradictory_derivatives(mutant, name):
    case = NAMED[name]
    with pytest.raises(mfdeq.DerivativeError):
        mfdeq.solve(mutant_model(case, mutant), case.params, case.h0).hessian(case.loss)


# Mutants of a loss


def loss_block(name, change):
    def mutate(fields, loss, model):
        def curvature(h, theta):
            blocks = dense_blocks(loss.blocks(h, theta), model)
            return mfdeq.Curvature(**blocks._replace(**{name: change(blocks)})._asdict())

        return {**fields, "curvature": curvature}

    return mutate


def loss_slope(name, change):
    def mutate(fields, loss, model):
        right = fields[name]
        return {**fields, name: lambda h, theta: change(right(h, theta), h, theta)}

    return mutate


def without(name):
    return lambda fields, loss, model: {**fields, name: None}


LOSS_MUTANTS = {
    **{
        f"{slope} {how}": loss_slope(slope, change)
        for slope in ("d_state", "d_params")
        for how, change in {
            "sign": lambda g, h, theta: -g,
            "double": lambda g, h, theta: 2 * g,
            "dropped": lambda g, h, theta: 0 * g,
        }.items()
    },
    "d_params left out": without("d_params"),
    "curvature left out": without("curvature"),
    **{
        f"{name} {how}": loss_block(name, lambda b, n=name, c=change: c(getattr(b, n)))
        for name in ("params_params", "state_params", "state_state")
        for how, change in CHANGES.items()
    },
    "state_state skewed": loss_block("state_state", lambda b: skewed(b.state_state)),
}


@pytest.mark.parametrize(
    ("mutant", "name"),
    [
        *((mutant, "smooth") for mutant in LOSS_MUTANTS),
        ("d_state stale", "smooth"),
        ("state_params transposed", "square"),
        ("d_state for d_params", "square"),
    ],
)
def test_verify_fails_for_a_mutant_of_the_loss(mutant, name):
    case = NAMED[name]
    model, loss = case.written
    extra = {
        "d_state stale": lambda f, loss, model: {
            **f,
            "d_state": lambda h, theta: loss.d_state(0.9 * h, theta),
        },
        "state_params transposed": loss_block("state_params", lambda b: b.state_params.T),
        "d_state for d_params": lambda f, loss, model: {**f, "d_params": loss.d_state},
    }
    fields = {
        "d_state": loss.d_state,
        "d_params": loss.d_params,
        "curvature": lambda h, theta: mfdeq.Curvature(**loss.blocks(h, theta)._asdict()),
    }
    changed = ({**LOSS_MUTANTS, **extra})[mutant](fields, loss, model)
    wrong = mfdeq.Loss(loss.value, **changed)
    assert_blamed(mfdeq.verify(case.model, case.params, wrong, case.h0), "loss")


# The originals


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_verify_passes_for_the_original(case, seed):
    verification = mfdeq.verify(case.model, case.params, case.loss, case.h0, seed=seed)
    assert verification.verdict == "PASS", str(verification)
    assert verification
    verification.raise_if_failed()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["smooth", "stiff", "diffusion"])
def test_verify_passes_in_every_form(name, form):
    case = case_in_form(build(name), form)
    verification = mfdeq.verify(case.model, case.params, case.loss, case.h0)
    assert verification.verdict == "PASS", str(verification)


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_verify_does_not_fail_for_correct_derivatives_in_float32(case):
    """It may be INCONCLUSIVE: there are only half the digits."""
    verification = mfdeq.verify(case.model, case.params, case.loss, case.h0)
    assert verification.verdict != "FAIL", str(verification)
