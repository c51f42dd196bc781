"""Random results of callbacks: layouts, dtypes, formats and wrong values in every one of them.

Every case gives the correct result or an error that names the callback.
"""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from support.case_fuzzed import (
    FORMS,
    HARMFUL_AT,
    HARMLESS_AT,
    QUANTITIES,
    SOLVERS,
    VALUES,
    Setup,
    message_pattern,
    through,
)
from support.case_toy import N, P, Toy, ToyResidual, U, W
from support.cases import error
from support.fuzzing import TOLERANCE, WHEN, any_of, assert_named, cases, outcome
from support.treatments import CHANGED, HARMFUL, HARMLESS, SomeCalls, harmless_treatment

import mfdeq

LOOSE_RTOL = 3e-2  # for quantities with a loose tolerance
SETUPS = st.builds(
    Setup,
    kind=any_of([Toy, ToyResidual]),
    dtype=any_of(TOLERANCE),
    form=any_of(FORMS),
    loss=any_of(["written", "sum"]),
    method=any_of(["auto", "newton", "anderson", "picard"]),
    solver=any_of(SOLVERS),
)


def is_right(found, setup, quantity):
    compute = QUANTITIES[quantity][1]
    loose = LOOSE_RTOL if "rtol" in quantity or "accuracy" in quantity else 0.0
    return error(found, compute(setup.truth)) <= max(loose, TOLERANCE[setup.dtype])


@cases(120)
@given(SETUPS, st.lists(any_of(HARMLESS_AT), max_size=8), any_of(QUANTITIES))
@example(Setup(solver="direct"), [("linearize().d_state", "duplicates")], "H")
@example(Setup(method="newton", solver="direct"), [("linearize().d_state", "unsorted")], "Z'")
def test_harmless_callbacks_give_the_correct_result(setup, drawn, quantity):
    for path, name in drawn:
        setup.treatments[path] = harmless_treatment(VALUES[path][0], name)
    assert is_right(QUANTITIES[quantity][0](setup), setup, quantity)


@cases(150)
@given(SETUPS, any_of(HARMFUL_AT), WHEN, any_of(QUANTITIES))
def test_harmful_callbacks_give_the_correct_result_or_a_named_error(setup, place, when, quantity):
    path, name = place
    setup.treatments[path] = treatment = SomeCalls(HARMFUL[name], when)
    found = outcome(lambda: QUANTITIES[quantity][0](setup))
    if isinstance(found, Exception):
        assert treatment.done
        # scipy's LinearOperator may fail to convert the result of a product, and a function in
        # place of another result may raise anything.
        own = name.startswith("raises") or name == "function" or VALUES[path][0] == "product"
        assert_named(found, message_pattern(path, name), typed=not own)
    else:
        assert is_right(found, setup, quantity)


# Contradictory derivatives, where the library compares them.


def paths(kinds, *ends):
    return [p for p, (kind, _) in VALUES.items() if kind in kinds and p.endswith(ends)]


SYMMETRIC = ("params_params", "state_state", "precision")
CONTRADICTIONS = [
    (form, path, name)
    for form, places, names in (
        ("operators", paths(["product"], ".rmatvec()", ".matmat()", ".rmatmat()"), CHANGED),
        ("products of blocks", paths(["vector"], ".apply()[0]", ".apply()[1]"), CHANGED),
        ("products", paths(["vector"], "()()[0]", "()()[1]"), CHANGED),
        ("blocks", paths(["matrix"], *SYMMETRIC), ["one entry"]),
    )
    for path in places
    for name in names
]


@cases(80)
@given(SETUPS, any_of(CONTRADICTIONS), any_of(QUANTITIES))
def test_contradictory_derivatives_give_the_correct_result_or_a_named_error(
    setup, contradiction, quantity
):
    """A derivative that happens to be correct gives the correct result."""
    setup.form, path, name = contradiction
    if setup.solver == "direct":
        setup.solver = "preconditioned"
    setup.treatments[path] = SomeCalls(CHANGED[name], "always")
    found = outcome(lambda: QUANTITIES[quantity][0](setup))
    if isinstance(found, Exception):
        assert_named(found, VALUES[path.partition("[")[0]][1])
    else:
        assert is_right(found, setup, quantity)


# Models of a function without derivatives.


class FromFunction(Setup):
    """The toy model without its derivatives."""

    def model(self):
        def f(h, theta):
            y = np.tanh(W @ h + U @ theta)
            return y if self.kind is Toy else h - y

        kind = "map" if self.kind is Toy else "residual"
        return mfdeq.from_function(through(self.treat, "f", f), N, P, kind)


FIRST_ORDER = ("state", "gradient", "adjoint", "Z", "Z'", "functional", "value")
OF_REAL = ("half", "single", "dates")  # numpy warns when f discards imaginary parts
OF_F = [(True, name) for name in HARMFUL]
OF_F += [(False, name) for name in HARMLESS["vector"] if name not in ("long", "double")]


@cases(50)
@given(
    st.builds(FromFunction, kind=any_of([Toy, ToyResidual]), method=any_of(["auto", "anderson"])),
    any_of(OF_F),
    WHEN,
    any_of(QUANTITIES),
)
def test_plain_functions_give_the_correct_result_or_a_named_error(setup, treatment, when, quantity):
    harm, name = treatment
    setup.treatments["f()"] = f = SomeCalls(
        HARMFUL[name] if harm else harmless_treatment("vector", name), when
    )
    found = outcome(lambda: QUANTITIES[quantity][0](setup))
    if isinstance(found, Exception):
        assert harm, repr(found)
        assert f.done
        typed = not name.startswith("raises") and name not in OF_REAL
        assert_named(found, r"of mfdeq\.from_function|mfdeq\.from_function\(", typed)
    else:
        exact = quantity in FIRST_ORDER and not harm
        expected = QUANTITIES[quantity][1](setup.truth)
        assert error(found, expected) <= (1e-6 if exact else 1e-3)


# `verify` does not pass derivatives that are wrong or change from call to call.

FIELDS = [
    *paths(["matrix"], "linearize().d_state", "linearize().d_params"),
    *paths(["matrix"], "params_params", "state_params", "state_state"),
    "linearize().second()",
    "loss.d_state()",
    "loss.d_params()",
]
FUNCTIONS = ("map()", "residual()", "loss.value()")
WRONG = [
    (path, name, when)
    for places, names, times in (
        (FIELDS, ("scaled", "moved", "one entry"), ("always", 1)),
        (FUNCTIONS, ("scaled",), ("always",)),  # adding a constant leaves derivatives correct
        (FUNCTIONS, ("scaled", "moved"), ("alternately",)),
    )
    for path in places
    for name in names
    for when in times
]


@cases(24)
@given(
    st.builds(Setup, kind=any_of([Toy, ToyResidual]), dtype=any_of(TOLERANCE)),
    any_of(WRONG),
    st.integers(0, 3),
)
def test_verification_passes_no_wrong_derivative(setup, wrong, seed):
    path, name, when = wrong
    if when != "always":
        setup.dtype = "float64"  # float32 hides a small part of a sum
    spoil = CHANGED[name]
    setup.treatments[path] = treatment = SomeCalls(lambda x, args: spoil(np.asarray(x), args), when)
    model, loss = setup.model(), setup.the_loss()
    found = outcome(lambda: mfdeq.verify(model, setup.params(), loss, seed=seed))
    if isinstance(found, Exception):
        assert_named(found, VALUES[path][1])
    elif treatment.done:
        assert not found, f"{found}"
