"""Compare Hessian products with JAX's and hIPPYlib's, for the same problems.

    python -m tests.benchmarks.hessian --peers
    OMP_NUM_THREADS=1 python -m tests.benchmarks.hessian_peers --small

JAX: `custom_linear_solve` around the equilibrium, CG with the Jacobi preconditioner, products by
shifted arrays. The gradient is linearized once and its linear part compiled, so that a product
takes two solves there, too. hIPPYlib: its reduced Hessian with each of its solvers, and mfdeq on
the matrices that hIPPYlib assembles.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time

import numpy as np
import scipy.sparse as sp

import mfdeq

from .peers import Absent, need
from .peers_jax import in_float64, jax_solver, shifts
from .problems import Diffusion

GRIDS = {  # (cells along a side, dimensions): times that mfdeq is to be faster than JAX
    (256, 2): 100.0,
    (512, 2): 150.0,
    (64, 3): 10.0,
    (100, 3): 15.0,
}
COLUMNS = 32  # of a block of ours
FRONTS = 300_000  # unknowns up to which the multifrontal factorization takes part
HIPPYLIB = 2.5  # ... than hIPPYlib with the best of its solvers
TOLERANCE = 1e-8  # of everyone's solves
PATIENCE = 20.0  # seconds for the repeats of one product


def seconds_of(functions: dict, repeats: int = 15) -> dict[str, float]:
    """Median seconds of the processor, of functions called in turn, each already called once."""
    taken: dict[str, list] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            if sum(taken[name]) > PATIENCE:
                continue
            start = time.process_time()
            function()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def against_peers(small: bool = False) -> None:
    """Print both comparisons; of a peer that is absent, its name."""
    for (n, dimension), target in GRIDS.items():
        try:
            need("jax")
            against_jax(n // 8 if small else n, dimension, target)
        except Absent as reason:
            print(f"absent: JAX, {reason}")
            break
    try:
        need("dolfin", "hippylib")
        against_hippylib(24 if small else 256)
    except Absent as reason:
        print(f"absent: hIPPYlib, {reason}")


def compare(title: str, hessians: dict, v, theirs: dict, target: float) -> None:
    """Time products in turn, print them, how far theirs are from ours, and who is how much faster.

    Ours are taken of one vector and of a block, whose time is given per column.
    """
    reference = next(iter(hessians.values())) @ v
    size = np.linalg.norm(reference)
    off = {name: np.linalg.norm(product() - reference) / size for name, product in theirs.items()}
    block = np.random.default_rng(1).standard_normal((v.size, COLUMNS))
    products, columns = dict(theirs), {}
    for solver, H in hessians.items():
        products[f"mfdeq, {solver}"] = functools.partial(H.apply_inexact, v, TOLERANCE)
        of_block = f"mfdeq, {solver}, column of {COLUMNS}"
        products[of_block], columns[of_block] = (
            functools.partial(H.apply_inexact, block, TOLERANCE),
            COLUMNS,
        )
    taken = {name: s / columns.get(name, 1) for name, s in seconds_of(products).items()}
    best = min(taken[name] for name in theirs)
    print(f"\n{title}: ms of a Hessian product, times the best peer's, difference")
    for name, seconds in taken.items():
        cells = f"{1e3 * seconds:>12.2f}{seconds / best:>8.3f} x"
        print(f"    {name:<60}{cells}{off.get(name, 0.0):>10.0e}")
    for text, ours in (
        ("one vector", [name for name in taken if name not in theirs and name not in columns]),
        ("in blocks", list(columns)),
    ):
        ratio = best / min(taken[name] for name in ours)
        verdict = "met" if ratio >= target else "MISSED"
        print(f"    {text}: faster by {ratio:.1f} (target >= {target:g}: {verdict})", flush=True)


def hessians_of(model, theta, loss) -> dict:
    """The Hessian at theta by what "auto" picks, and by fronts where that is not hopeless."""
    solvers = {"auto": "auto"}
    if model.state_size <= FRONTS:
        solvers["multifrontal"] = mfdeq.Direct(package="multifrontal")
    found = {}
    for name, solver in solvers.items():
        eq = mfdeq.solve(model, theta, solver=solver)
        H = eq.hessian(loss)
        H @ theta  # which "auto" chooses for
        found[f"{name} ({eq.report.solver})" if name == "auto" else name] = H
    return found


# --- JAX -----------------------------------------------------------------------------------------


def against_jax(n: int, dimension: int, target: float) -> None:
    model = Diffusion(n, dimension)
    theta, loss = model.lognormal(), model.loss(min(500, model.state_size // 2))
    v = np.random.default_rng(0).standard_normal(model.param_size)
    product = jax_hessian(model, loss, theta)
    title = f"diffusion {n}^{dimension}, N = P = {model.state_size:,}"
    theirs = {"JAX, CG + Jacobi": lambda: product(v)}
    compare(title, hessians_of(model, theta, loss), v, theirs, target)


def jax_hessian(model: Diffusion, loss: mfdeq.LeastSquares, theta: np.ndarray):
    """The Hessian's product as compiled by JAX, linearized at theta."""
    n, dimension = model.n, model.dimension

    def diagonals(theta):
        return coefficients(theta, n, dimension)

    product = jax_product(diagonals, grid_offsets(n, dimension), loss, theta, jax_solver("cg"))
    return lambda v: np.asarray(product(v))


def jax_product(diagonals_of, offsets, loss, theta, solve, symmetric=True, rtol=TOLERANCE):
    """The same of any A(theta) h = 1 given by its diagonals, left on JAX's device."""
    jax = in_float64()
    multiply = shifts(offsets)
    weight = np.asarray(loss.weights)

    def misfit(theta):
        diagonals = diagonals_of(theta)
        inverse = jax.lax.stop_gradient(1.0 / diagonals[0])
        source = jax.numpy.ones(inverse.size)
        matvec = functools.partial(multiply, diagonals)
        h, _ = solve(matvec, inverse, symmetric, rtol, source)
        return 0.5 * (weight * (h[loss.observe] - loss.data) ** 2).sum()

    _, linear = jax.linearize(jax.jit(jax.grad(misfit)), jax.device_put(theta))
    return jax.jit(linear)


def grid_offsets(n: int, dimension: int) -> tuple[int, ...]:
    """Of the diagonals of the five-point or seven-point matrix, the main one first."""
    strides = [n ** (dimension - 1 - axis) for axis in range(dimension)]
    return (0, *(sign * stride for stride in strides for sign in (-1, 1)))


def coefficients(theta, n: int, dimension: int) -> list:
    """The diagonals of A(theta) in the order of `grid_offsets`, as JAX differentiates them."""
    import jax.numpy as jnp

    field = theta.reshape((n,) * dimension)
    main, others = 0.0, []
    for axis in range(dimension):
        field_first = jnp.moveaxis(field, axis, 0)
        mean = 0.5 * (field_first[1:] + field_first[:-1])
        face = jnp.exp(jnp.concatenate([field_first[:1], mean, field_first[-1:]])) * (n + 1) ** 2
        lower, upper = face[:-1], face[1:]
        main = main + jnp.moveaxis(lower + upper, 0, axis)
        lower = lower.at[0].set(0.0)  # the rim is not an unknown
        upper = upper.at[-1].set(0.0)
        others += [-jnp.moveaxis(side, 0, axis).ravel() for side in (lower, upper)]
    return [main.ravel(), *others]


# --- hIPPYlib ------------------------------------------------------------------------------------


def against_hippylib(n: int) -> None:
    import dolfin as dl

    dl.set_log_level(dl.LogLevel.ERROR)
    problem = P1Diffusion(n)
    rng = np.random.default_rng(0)
    free = np.setdiff1d(np.arange(problem.state_size), problem.rim)
    observed = np.sort(rng.choice(free, min(500, free.size // 2), replace=False))
    theta = problem.smooth_parameters()
    v = rng.standard_normal(problem.param_size)
    loss = mfdeq.LeastSquares(observed, np.zeros(observed.size))
    title = f"hIPPYlib, P1 on {n} x {n} squares, N = P = {problem.state_size:,}"
    theirs = reduced_hessians(problem, theta, observed, v)
    compare(title, hessians_of(problem, theta, loss), v, theirs, HIPPYLIB)


def form(u, m, p):
    """The weak form of -div(exp(m) grad u) = 1."""
    import dolfin as dl
    import ufl

    return ufl.exp(m) * ufl.inner(ufl.grad(u), ufl.grad(p)) * ufl.dx - dl.Constant(1.0) * p * ufl.dx


class P1Diffusion(mfdeq.ResidualModel):
    """The matrices that dolfin assembles, as a model of this library."""

    def __init__(self, n: int) -> None:
        import dolfin as dl

        self.space = dl.FunctionSpace(dl.UnitSquareMesh(n, n), "Lagrange", 1)
        self.condition = dl.DirichletBC(self.space, dl.Constant(0.0), "on_boundary")
        self.rim = np.array(sorted(self.condition.get_boundary_values()))
        self.state_size = self.param_size = self.space.dim()

    def smooth_parameters(self) -> np.ndarray:
        """A smooth log-coefficient of unit size."""
        x, y = self.space.tabulate_dof_coordinates().T
        return np.sin(5.0 * x + 1.0) * np.cos(7.0 * y) + 0.5 * np.sin(11.0 * (x + y))

    def functions(self, h, theta, lam) -> list:
        """Dolfin's functions of these coefficients."""
        import dolfin as dl

        found = []
        for values in (h, theta, lam):
            function = dl.Function(self.space)
            function.vector().set_local(np.array(values))
            found.append(function)
        return found

    def residual(self, h, theta):
        import dolfin as dl

        u, m, p = self.functions(h, theta, np.zeros(self.state_size))
        r = dl.assemble(dl.derivative(form(u, m, p), p)).get_local()
        r[self.rim] = h[self.rim]
        return r

    def linearize(self, h, theta):
        import dolfin as dl

        u, m, p = self.functions(h, theta, np.zeros(self.state_size))
        along_p = dl.derivative(form(u, m, p), p)
        d_state, _ = dl.assemble_system(dl.derivative(along_p, u), along_p, self.condition)
        d_params = dl.assemble(dl.derivative(along_p, m))
        self.condition.zero(d_params)
        interior = np.ones(self.state_size)
        interior[self.rim] = 0.0

        def curvature(lam):
            u, m, p = self.functions(h, theta, interior * lam)
            along_m = dl.derivative(form(u, m, p), m)
            mixed = scipy_matrix(dl.assemble(dl.derivative(along_m, u)))
            return mfdeq.Curvature(
                params_params=scipy_matrix(dl.assemble(dl.derivative(along_m, m))),
                state_params=(mixed @ sp.diags(interior)).T.tocsr(),
            )

        return mfdeq.Linearization(
            d_state=scipy_matrix(d_state), d_params=scipy_matrix(d_params), curvature=curvature
        )


def scipy_matrix(matrix) -> sp.csr_matrix:
    """Dolfin's matrix without its stored zeros."""
    import dolfin as dl

    mat = dl.as_backend_type(matrix).mat()
    indptr, indices, data = (np.array(part) for part in mat.getValuesCSR())
    found = sp.csr_matrix((data, indices, indptr), shape=mat.size)
    found.eliminate_zeros()
    return found


def reduced_hessians(problem: P1Diffusion, theta, observed, v) -> dict:
    """HIPPYlib's products with the misfit's Hessian, by name of its solver."""
    import dolfin as dl
    import hippylib as hp
    from petsc4py import PETSc

    def krylov(comm, preconditioner):
        solver = dl.PETScKrylovSolver("cg", preconditioner)
        solver.parameters["relative_tolerance"] = TOLERANCE
        return solver

    solvers = {
        "LU (its default, MUMPS)": lambda comm: hp.PETScLUSolver(comm),
        "LU (PETSc's)": lambda comm: hp.PETScLUSolver(comm, "petsc"),
        "LU (UMFPACK)": lambda comm: hp.PETScLUSolver(comm, "umfpack"),
        "CG + AMG (GAMG)": lambda comm: krylov(comm, "petsc_amg"),
        "CG + AMG (BoomerAMG)": lambda comm: krylov(comm, "hypre_amg"),
    }
    select = sp.identity(problem.state_size, format="csr")[observed]
    mat = PETSc.Mat().createAIJ(select.shape, csr=(select.indptr, select.indices, select.data))
    misfit = hp.DiscreteStateObservation(dl.PETScMatrix(mat), noise_variance=1.0)
    comm = problem.space.mesh().mpi_comm()

    def product_by(make):
        spaces = [problem.space] * 3
        condition = problem.condition
        pde = hp.PDEVariationalProblem(spaces, form, condition, condition, is_fwd_linear=True)
        pde._createLUSolver = lambda: make(comm)
        model = hp.Model(pde, None, misfit)
        x = model.generate_vector()
        x[hp.PARAMETER].set_local(theta)
        model.solveFwd(x[hp.STATE], x)
        model.solveAdj(x[hp.ADJOINT], x)
        model.setPointForHessianEvaluations(x)
        H = hp.ReducedHessian(model, misfit_only=True)
        direction, out = (model.generate_vector(hp.PARAMETER) for _ in range(2))
        direction.set_local(v)

        def product():
            H.mult(direction, out)
            return out.get_local()

        return product

    return {f"hIPPYlib, {name}": product_by(make) for name, make in solvers.items()}


if __name__ == "__main__":
    against_peers(small="--small" in sys.argv[1:])
