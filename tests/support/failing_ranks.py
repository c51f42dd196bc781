"""Programs for mpiexec that fail on one rank; the argument names the failure."""

import gc
import os
import signal
import sys

from petsc4py import PETSc
from support.petsc_problems import COMM, LOSS, THETA, Cubic, N, P, vec_of

import mfdeq
import mfdeq.petsc
from mfdeq.petsc import errors

errors.ABORT_TIMEOUT_SECONDS = 2.0
LAST = COMM.getRank() == COMM.getSize() - 1


class Raising(Cubic):
    """The last rank raises after all communication of the function."""

    def residual(self, h, theta):
        r = super().residual(h, theta)
        if LAST:
            raise ValueError("no water left")
        return r


class Stuck(Cubic):
    """The last rank raises before a sum in which the others wait."""

    def residual(self, h, theta):
        if LAST:
            raise ValueError("no water left")
        h.norm()
        return super().residual(h, theta)


class Dying(Cubic):
    def residual(self, h, theta):
        if LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().residual(h, theta)


class Disagreeing(Cubic):
    state_size = N + LAST


class NotFinite(Cubic):
    def residual(self, h, theta):
        r = super().residual(h, theta)
        if LAST:
            r.array[0] = float("nan")
        return r


class Leaving(Cubic):
    """The last rank leaves by `sys.exit`."""

    def residual(self, h, theta):
        if LAST:
            sys.exit(4)
        return super().residual(h, theta)


class Sequential(Cubic):
    """The last rank returns a sequential Vec."""

    def residual(self, h, theta):
        r = super().residual(h, theta)
        return PETSc.Vec().createSeq(N) if LAST else r


def print_error(function):
    """Print the error that a function raises on this rank."""
    try:
        function()
    except (mfdeq.MfdeqError, ValueError) as error:
        say(f"{type(error).__name__}: {error}")
    else:
        say("nothing was raised")


def say(words):
    """Write a line in one piece, since the ranks write at the same time."""
    sys.stdout.write(f"\nrank {COMM.getRank()}: {words}\n")
    sys.stdout.flush()


def solve(model, h0=None, **options):
    return lambda: mfdeq.petsc.solve(model, vec_of(THETA), h0, **options)


def raise_in_the_script():
    if LAST:
        raise RuntimeError("no script left")
    solve(Cubic())()


def mix_communicators():
    h0 = PETSc.Vec().createSeq(N)
    print_error(solve(Cubic(), h0))


def exit_with_live_objects():
    """Exit while objects that call Python are alive."""
    global functional, product, search
    functional = mfdeq.ReducedFunctional(Cubic(), LOSS, on_failure="inf")
    search = mfdeq.petsc.tao(functional, vec_of(THETA), options={"tao_max_it": 3})
    search.solve()
    D = PETSc.Mat().createDense(((vec_of(THETA).getLocalSize(), P), (None, 2)), comm=COMM)
    D.setUp()
    product = mfdeq.petsc.solve(Cubic(), vec_of(THETA)).hessian(LOSS).matMult(D)
    say("done")


def apply_hessian(shift, solver):
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA + shift), solver=solver)
    H, x = eq.hessian(LOSS), vec_of(THETA)
    H.mult(x, x.duplicate())


def exit_after_uneven_garbage_collection():
    """Exit after one rank has freed factors that the other still has."""
    gc.disable()
    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    solver = mfdeq.petsc.KSP(prefix="uneven_", options=options)
    for shift in (0.0, 1.0):
        apply_hessian(shift, solver)
    PETSc.garbage_cleanup(COMM)
    if LAST:
        gc.collect()
    say("done")


MODES = {
    "live objects": exit_with_live_objects,
    "uneven garbage": exit_after_uneven_garbage_collection,
    "leaving": solve(Leaving()),
    "sequential": lambda: print_error(solve(Sequential())),
    "raising": lambda: print_error(solve(Raising())),
    "uncaught": solve(Raising()),
    "stuck": solve(Stuck()),
    "dying": solve(Dying()),
    "disagreeing": lambda: print_error(solve(Disagreeing())),
    "not finite": lambda: print_error(solve(NotFinite())),
    "script": raise_in_the_script,
    "communicators": mix_communicators,
    "not converged": lambda: print_error(
        solve(
            Cubic(),
            method="newton",
            solver=mfdeq.petsc.KSP(prefix="short_", options={"ksp_max_it": 1, "pc_type": "none"}),
        )
    ),
}

if __name__ == "__main__":
    MODES[sys.argv[1]]()
