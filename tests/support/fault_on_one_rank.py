"""A program for mpiexec: every public function with a fault on the last rank only.

For each case it prints the classes of the errors on the ranks, and it solves afterwards.
"""

import contextlib
import faulthandler
import sys

import numpy as np
import scipy.sparse as sp
from petsc4py import PETSc
from support.petsc_problems import (
    COMM,
    DATA,
    LOSS,
    OBSERVED,
    THETA,
    Cubic,
    N,
    P,
    Products,
    Twin,
    mat_of,
    shell_of,
    vec_of,
)

import mfdeq
import mfdeq.petsc
from mfdeq.petsc import errors

errors.ABORT_TIMEOUT_SECONDS = 20.0
CASE_TIMEOUT_SECONDS = 100
LAST = COMM.getRank() == COMM.getSize() - 1
V = vec_of(THETA)


def pick(value, fault):
    """Return a value, and on the last rank the faulty one."""
    return fault if LAST else value


def raised(kind):
    """Return a function that raises an exception on the last rank."""

    def raising(result):
        if LAST:
            raise kind("no water left")
        return result

    return raising


def solve(model=None, **options):
    return mfdeq.petsc.solve(Cubic() if model is None else model, V, **options)


class Faulty(Cubic):
    """The last rank changes what one of the functions returns."""

    def __init__(self, function, fault):
        super().__init__()
        self.function, self.fault = function, fault

    def returned(self, function, result):
        return self.fault(result) if function == self.function else result

    def residual(self, h, theta):
        return self.returned("residual", super().residual(h, theta))

    def initial_state(self, theta):
        return self.returned("initial_state", super().initial_state(theta))

    def residual_scale(self, h, theta):
        return self.returned("residual_scale", super().residual_scale(h, theta))

    def state_scale(self, theta):
        return self.returned("state_scale", super().state_scale(theta))

    def linearize(self, h, theta):
        given = super().linearize(h, theta)
        return self.returned(
            "linearize",
            mfdeq.Linearization(
                given.d_state,
                given.d_params,
                lambda lam: self.returned("curvature", given.curvature(lam)),
                lambda a, b: self.returned("second", given.second(a, b)),
            ),
        )


class RaisingProducts(Products):
    """Products that raise on the last rank, after some that do not."""

    calls = 0

    def mult(self, mat, x, y):
        super().mult(mat, x, y)
        self.calls += 1
        if self.calls > 8:
            raised(ValueError)(None)


class Shell(Cubic):
    def linearize(self, h, theta):
        given = super().linearize(h, theta)
        shell = shell_of(given.d_state, RaisingProducts(given.d_state))
        return mfdeq.Linearization(shell, given.d_params, given.curvature)


class FaultyTwin(Twin):
    """The model for numpy, with a fault on the last rank."""

    def __init__(self, function, fault):
        self.function, self.fault = function, fault

    def residual(self, h, theta):
        r = super().residual(h, theta)
        return self.fault(r) if self.function == "residual" else r

    def linearize(self, h, theta):
        given = super().linearize(h, theta)
        if self.function == "linearize":
            return self.fault(given)
        d_state, curvature = given.d_state, given.curvature
        if self.function == "d_state":
            d_state = self.fault(d_state)
        return mfdeq.Linearization(
            d_state,
            given.d_params,
            (lambda lam: self.fault(curvature(lam))) if self.function == "curvature" else curvature,
        )


def use_distributed(function, fault):
    model = mfdeq.petsc.distributed(FaultyTwin(function, fault))
    eq = mfdeq.petsc.solve(model, model.params(THETA))
    eq.hessian(model.loss(LOSS)).mult(*(model.params(THETA) for _ in range(2)))


def none(result):
    return pick(result, None)


def hessian(model=None, loss=LOSS):
    return solve(model).hessian(loss)


def product(model=None, loss=LOSS):
    hessian(model, loss).mult(V, V.duplicate())


def gradient(**fault):
    solve().gradient(mfdeq.LeastSquares(**{"observe": OBSERVED, "data": DATA, **fault}))


def loss_of(**functions):
    value_and_gradient = {"value": lambda h, theta: 0.5 * h.dot(h), "d_state": lambda h, theta: h}
    return mfdeq.Loss(**{**value_and_gradient, **functions})


def functional(loss=LOSS, **options):
    return mfdeq.ReducedFunctional(Cubic(), loss, **options)


def with_nan(array):
    changed = array.copy()
    if LAST:
        changed[0] = np.nan
    return changed


def vec_with_nan():
    changed = vec_of(THETA)
    if LAST:
        changed.array[0] = np.nan
    return changed


def dense_mat():
    dense = PETSc.Mat().createDense(((V.getLocalSize(), P), (None, 2)), comm=COMM)
    dense.setUp()
    dense.assemble()
    return dense


def stop(theta, step):
    raised(KeyError)(None)


identity = mfdeq.Precision(mat_of(sp.identity(P)))
ks = mfdeq.petsc.KSP

# By name: the class that all ranks raise, and what they do.
CASES = {
    # arguments
    "rtol": ("ArgumentError", lambda: solve(rtol=pick(1e-8, 2.0))),
    "other rtol": ("ArgumentError", lambda: solve(rtol=pick(1e-8, 1e-9))),
    "method": ("ArgumentError", lambda: solve(method=pick("newton", "newtons"))),
    "max_iterations": ("ArgumentError", lambda: solve(max_iterations=pick(50, -1))),
    "solver": (
        "ArgumentError",
        lambda: solve(solver=pick(ks(), ks(options={"pc_type": "jacobi"}))),
    ),
    "theta": ("ArgumentError", lambda: mfdeq.petsc.solve(Cubic(), pick(V, None))),
    "theta for numpy": ("ArgumentError", lambda: mfdeq.petsc.solve(Cubic(), pick(V, THETA))),
    "theta is NaN": ("ModelError", lambda: mfdeq.petsc.solve(Cubic(), vec_with_nan())),
    "h0": ("ArgumentError", lambda: solve(h0=pick(vec_of(np.ones(N)), None))),
    "model": ("ArgumentError", lambda: mfdeq.petsc.solve(pick(Cubic(), None), V)),
    "state": (
        "ArgumentError",
        lambda: mfdeq.petsc.equilibrium_at(Cubic(), V, pick(vec_of(np.ones(N)), None)),
    ),
    "vec of layout": (
        "ArgumentError",
        lambda: mfdeq.petsc.distributed(Twin()).params(pick(THETA, THETA + 1.0)),
    ),
    "numpy model": ("ArgumentError", lambda: mfdeq.petsc.distributed(pick(Twin(), None))),
    "saved": ("ArgumentError", lambda: mfdeq.petsc.save("unused.bin", a=pick(V, None))),
    # functions of the model
    "residual is None": ("ModelError", lambda: solve(Faulty("residual", none))),
    "residual is a number": ("ModelError", lambda: solve(Faulty("residual", lambda r: pick(r, 1)))),
    "residual raises": ("ValueError", lambda: solve(Faulty("residual", raised(ValueError)))),
    "start raises": ("TypeError", lambda: solve(Faulty("initial_state", raised(TypeError)))),
    "start": ("ModelError", lambda: solve(Faulty("initial_state", lambda _: pick(None, V)))),
    "equations": ("ModelError", lambda: solve(Faulty("residual_scale", lambda _: pick(None, 1)))),
    "unknowns": ("ModelError", lambda: solve(Faulty("state_scale", lambda _: pick(None, -1)))),
    "linearization": ("ModelError", lambda: solve(Faulty("linearize", none))),
    "linearize raises": ("TypeError", lambda: solve(Faulty("linearize", raised(TypeError)))),
    "curvature": ("ModelError", lambda: product(Faulty("curvature", none))),
    "curvature raises": ("TypeError", lambda: product(Faulty("curvature", raised(TypeError)))),
    "second": ("ModelError", lambda: solve(Faulty("second", none)).second_order(V, V)),
    "shell": ("ValueError", lambda: solve(Shell(), method="newton")),
    "snes": ("ModelError", lambda: solve(Faulty("residual", none), method="snes")),
    # models for numpy
    "numpy residual": ("ModelError", lambda: use_distributed("residual", none)),
    "numpy shape": ("ModelError", lambda: use_distributed("residual", lambda r: pick(r, r[1:]))),
    "numpy raises": ("TypeError", lambda: use_distributed("linearize", raised(TypeError))),
    "numpy linearization": ("ModelError", lambda: use_distributed("linearize", none)),
    "numpy d_state": ("ModelError", lambda: use_distributed("d_state", none)),
    "numpy NaN": ("ModelError", lambda: use_distributed("d_state", lambda A: pick(1, np.nan) * A)),
    "numpy curvature": ("ModelError", lambda: use_distributed("curvature", none)),
    # losses
    "data is NaN": ("ModelError", lambda: gradient(data=with_nan(DATA))),
    "data": ("ArgumentError", lambda: gradient(data=pick(DATA, DATA + 1.0))),
    "length of data": ("ModelError", lambda: gradient(data=pick(DATA, DATA[1:]))),
    "shape of data": ("ModelError", lambda: gradient(data=pick(DATA, DATA[:, None]))),
    "observe": ("ArgumentError", lambda: gradient(observe=pick(OBSERVED, OBSERVED + 1))),
    "weights": ("ArgumentError", lambda: gradient(weights=pick(4.0, 3.0))),
    "prior": (
        "ArgumentError",
        lambda: solve().gradient(mfdeq.QuadraticPrior(pick(1.0, 2.0))),
    ),
    "mean is NaN": (
        "ModelError",
        lambda: solve().gradient(mfdeq.QuadraticPrior(1.0, pick(0.0, np.nan))),
    ),
    "factor": ("ArgumentError", lambda: solve().gradient(pick(1.0, 2.0) * LOSS)),
    "loss": ("ArgumentError", lambda: solve().gradient(pick(LOSS, None))),
    "accuracy": ("ArgumentError", lambda: solve().gradient(LOSS, rtol=pick(1e-3, -1.0))),
    "value is None": (
        "ModelError",
        lambda: functional(loss_of(value=lambda h, theta: pick(1.0, None))).value(V),
    ),
    "gradient is None": (
        "ModelError",
        lambda: solve().gradient(loss_of(d_state=lambda h, theta: none(h))),
    ),
    "curvature of loss": (
        "ModelError",
        lambda: product(loss=loss_of(curvature=lambda h, theta: none(mfdeq.Curvature()))),
    ),
    # Hessians and their spectra
    "mult": ("ArgumentError", lambda: hessian().mult(pick(V, None), V.duplicate())),
    "matMult": ("ArgumentError", lambda: hessian().matMult(pick(dense_mat(), 3))),
    "operand": ("ArgumentError", lambda: solve().of.hessian(LOSS) @ pick(V, None)),
    "short operand": ("ArgumentError", lambda: solve().of.hessian(LOSS) @ pick(THETA, THETA[1:])),
    "hessp": ("ArgumentError", lambda: functional().hessp(V, pick(V, None))),
    "hessp of NaN": ("ArgumentError", lambda: functional().hessp(V, vec_with_nan())),
    "component": ("ArgumentError", lambda: solve().component_hessian(pick(3, 4))),
    "k": ("ArgumentError", lambda: mfdeq.eigsh(hessian(), pick(3, 4))),
    "k = 0": ("ArgumentError", lambda: mfdeq.eigsh(hessian(), pick(3, 0))),
    "which": ("ArgumentError", lambda: mfdeq.eigsh(hessian(), 3, pick("LM", "LX"))),
    "k of SLEPc": ("ArgumentError", lambda: mfdeq.petsc.eigsh(hessian(), pick(3, 4))),
    "H": ("ArgumentError", lambda: mfdeq.petsc.eigsh(pick(hessian(), None), 3)),
    "seed": (
        "ArgumentError",
        lambda: mfdeq.randomized_eigsh(hessian(), 3, M=identity, seed=pick(0, 1)),
    ),
    "samples": ("ArgumentError", lambda: identity.samples(pick(1, 2))),
    "solve": ("ArgumentError", lambda: identity.solve(pick(V, None))),
    "pairs": (
        "ArgumentError",
        lambda: mfdeq.LowRank(pick(*(mfdeq.eigsh(hessian(), 2, M=M) for M in (identity, None)))),
    ),
    # optimization, continuation, verification
    "gtol": ("ArgumentError", lambda: mfdeq.minimize(functional(), V, gtol=pick(1e-3, -1.0))),
    "theta0": ("ArgumentError", lambda: mfdeq.minimize(functional(), pick(V, None))),
    "bounds": (
        "ArgumentError",
        lambda: mfdeq.minimize(functional(), V, bounds=(pick(-9.0, -8.0), 9.0)),
    ),
    "callback": ("KeyError", lambda: mfdeq.minimize(functional(), V, callback=stop)),
    "on_failure": ("ArgumentError", lambda: functional(on_failure=pick("raise", "bogus"))),
    "tao": ("ArgumentError", lambda: mfdeq.petsc.tao(pick(functional(), None), V)),
    "span": ("ArgumentError", lambda: mfdeq.follow(Cubic(), V, V, span=(0.0, pick(0.1, 0.2)))),
    "verify": ("ArgumentError", lambda: mfdeq.verify(Cubic(), V, LOSS, seed=pick(0, 1))),
}


def error_of(case):
    try:
        case()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def main(names):
    for name in names or CASES:
        expected, case = CASES[name]
        faulthandler.dump_traceback_later(CASE_TIMEOUT_SECONDS, exit=True)
        kind, message = error_of(case)
        everywhere = COMM.tompi4py().allgather((kind, message))
        converged = False
        with contextlib.suppress(mfdeq.MfdeqError):
            converged = solve().report.converged
        if COMM.getRank() == 0:
            right = {kind for kind, _ in everywhere} == {expected} and converged
            print(f"{'as expected' if right else 'WRONG'}: {name}: {everywhere}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    if COMM.getRank() == 0:
        print("all cases ran", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
