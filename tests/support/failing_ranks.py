"""Programs that fail on one rank, in the way that their argument names; run under mpiexec."""

import gc
import os
import signal
import sys

from petsc4py import PETSc
from support.petsc_problems import COMM, LOSS, THETA, Cubic, N, P, vec_of

import mfdeq
import mfdeq.petsc
from mfdeq.petsc import agreement

agreement.PATIENCE = 2.0
LAST = COMM.getRank() == COMM.getSize() - 1


class Raising(Cubic):
    """Its last rank raises when all messages of the function have come."""

    def residual(self, h, theta):
        r = super().residual(h, theta)
        if LAST:
            raise ValueError("no water left")
        return r


class Stuck(Cubic):
    """Its last rank raises before a sum that the others wait in."""

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
    """Its last rank leaves by `sys.exit`."""

    def residual(self, h, theta):
        if LAST:
            sys.exit(4)
        return super().residual(h, theta)


class Sequential(Cubic):
    """Its last rank returns a Vec of its own."""

    def residual(self, h, theta):
        r = super().residual(h, theta)
        return PETSc.Vec().createSeq(N) if LAST else r


def told(function):
    try:
        function()
    except (mfdeq.MfdeqError, ValueError) as error:
        say(f"{type(error).__name__}: {error}")
    else:
        say("nothing was raised")


def say(words):
    """In one piece, for ranks write at the same time."""
    sys.stdout.write(f"\nrank {COMM.getRank()}: {words}\n")
    sys.stdout.flush()


def solve(model, h0=None, **options):
    return lambda: mfdeq.petsc.solve(model, vec_of(THETA), h0, **options)


def between():
    if LAST:
        raise RuntimeError("a script of one's own")
    solve(Cubic())()


def alone():
    h0 = PETSc.Vec().createSeq(N)
    told(solve(Cubic(), h0))


def kept():
    """What holds Python's functions is there until the end."""
    global functional, product, search
    functional = mfdeq.ReducedFunctional(Cubic(), LOSS, on_failure="inf")
    search = mfdeq.petsc.tao(functional, vec_of(THETA), options={"tao_max_it": 3})
    search.solve()
    D = PETSc.Mat().createDense(((vec_of(THETA).getLocalSize(), P), (None, 2)), comm=COMM)
    D.setUp()
    product = mfdeq.petsc.solve(Cubic(), vec_of(THETA)).hessian(LOSS).matMult(D)
    say("done")


def once(shift, solver):
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA + shift), solver=solver)
    H, x = eq.hessian(LOSS), vec_of(THETA)
    H.mult(x, x.duplicate())


def unevenly():
    """One rank has collected its garbage and the other has not, of factors that go together."""
    gc.disable()
    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    solver = mfdeq.petsc.KSP(prefix="uneven_", options=options)
    for shift in (0.0, 1.0):
        once(shift, solver)
    PETSc.garbage_cleanup(COMM)
    if LAST:
        gc.collect()
    say("done")


MODES = {
    "kept": kept,
    "unevenly": unevenly,
    "leaving": solve(Leaving()),
    "sequential": lambda: told(solve(Sequential())),
    "raising": lambda: told(solve(Raising())),
    "uncaught": solve(Raising()),
    "stuck": solve(Stuck()),
    "dying": solve(Dying()),
    "disagreeing": lambda: told(solve(Disagreeing())),
    "not finite": lambda: told(solve(NotFinite())),
    "between": between,
    "communicators": alone,
    "not converged": lambda: told(
        solve(
            Cubic(),
            method="newton",
            solver=mfdeq.petsc.KSP(prefix="short_", options={"ksp_max_it": 1, "pc_type": "none"}),
        )
    ),
}

if __name__ == "__main__":
    MODES[sys.argv[1]]()
