"""The competitor in the GPU benchmark: Hessian products compiled by JAX.

They run in float64, with the Jacobi preconditioner and the fastest of JAX's Krylov methods: CG if
A is symmetric, otherwise BiCGSTAB or GMRES. If the equilibrium is linear in h, it is one
`custom_linear_solve`, and a product is a `jvp` of `grad`. Groundwater is written out by hand
around the equilibrium, with the solves that such a product takes. All solve to the same true
residual.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .gpu_cases import Case, Problem
from .gpu_run import TOLERANCE, Device, Figures
from .hessian_peers import coefficients, grid_offsets, jax_product
from .jax_products import by_hand
from .peers_jax import _diagonals, in_float64, jax_solver, shifts

ITERATIONS = 60_000  # of one solve: Jacobi takes some thousands on the largest grids
TIGHTER = (1.0, 0.5, 0.1)  # times the tolerance, where the true residual is above what it asks for


def measure(case: Case, device: Device, folder: Path, figures: Figures, wanted: str) -> None:
    """The fastest product of JAX's that reaches the true residual."""
    jax = in_float64()
    platform = jax.devices()[0].platform
    figures.save(version=jax.__version__, platform=platform)
    if platform != wanted:
        figures.found["failed"]["JAX"] = f"it has no {wanted} here, its platform is {platform}"
        figures.save()
        return
    problem = case.build()
    reference = np.load(folder / "product.npy")
    state, theta, v = (
        jax.device_put(x)
        for x in (np.load(folder / "state.npy"), problem.theta, problem.direction())
    )
    for method in ("cg",) if case.kind == "diffusion" else ("bicgstab", "gmres"):
        with figures.attempt(f"JAX, {method}"):
            for share in TIGHTER:
                made = prepared(case, problem, state, theta, method, share * TOLERANCE)
                product_of, residual_of = made
                residual = float(residual_of(v))
                if residual <= TOLERANCE:
                    break
            else:
                raise ArithmeticError(f"true residual {residual:.0e} of a solve")
            product = product_of()  # only now: it solves for the state and the adjoint
            found = np.asarray(product(v))
            off = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
            seconds = device.seconds(lambda p=product: p(v).block_until_ready())
            if seconds < figures.found.get("product", float("inf")):
                figures.save(method=method, product=seconds, residual=residual, off=off)


def prepared(case: Case, problem: Problem, state, theta, method: str, rtol: float):
    """What makes v -> H v, and v -> the true relative residual of the first of its two solves."""
    jax = in_float64()
    krylov, symmetric = jax_solver(method, ITERATIONS), method == "cg"
    if case.kind == "terrain":
        f = groundwater(problem.model, case)
        diagonal = problem.model.linearize(np.asarray(state), problem.theta).d_state.diagonal()
    else:
        f, diagonals_of, offsets = linear(case, problem.model)
        diagonal = diagonals_of(theta)[0]
    inverse = 1.0 / jax.numpy.asarray(diagonal)

    def solve(A, b):
        return krylov(A, inverse, symmetric, rtol, b)[0]

    @jax.jit
    def residual_of(state, theta, v):
        _, A = jax.linearize(lambda h: f(h, theta), state)
        b = -jax.jvp(lambda theta: f(state, theta), (theta,), (v,))[1]
        return jax.numpy.linalg.norm(A(solve(A, b)) - b) / jax.numpy.linalg.norm(b)

    observed, data = problem.loss.observe, problem.loss.data

    def loss(h, theta):
        return 0.5 * ((h[observed] - data) ** 2).sum()

    def product_of():
        if case.kind == "terrain":
            return by_hand(f, state, theta, loss, solve)
        return jax_product(diagonals_of, offsets, problem.loss, theta, krylov, symmetric, rtol)

    return product_of, lambda v: residual_of(state, theta, v)


def linear(case: Case, model):
    """A(theta) h - 1 of diffusion, in a wind or not, and A's diagonals."""
    import jax.numpy as jnp

    n, dimension = model.n, model.dimension
    offsets = grid_offsets(n, dimension)
    drift = None
    if case.kind == "convection":
        order = np.argsort(np.argsort(offsets))
        sorted_diagonals = _diagonals(model.W, np.sort(offsets))
        drift = [jnp.asarray(sorted_diagonals[i]) for i in order]

    def diagonals_of(theta):
        if drift is None:
            return coefficients(theta, n, dimension)
        pairs = theta.reshape(n // 2, n // 2).repeat(2, axis=0).repeat(2, axis=1)
        both = zip(coefficients(pairs.ravel(), n, dimension), drift, strict=True)
        return [a + w for a, w in both]

    multiply = shifts(offsets)
    return lambda h, theta: multiply(diagonals_of(theta), h) - 1.0, diagonals_of, offsets


def groundwater(model, case: Case):
    """The residual of the example's class, on the cells of its rectangle."""
    import jax
    import jax.numpy as jnp

    rows, factor = case.size
    shape = (rows * factor, model.state_size // (rows * factor))
    surface, bottom = (jnp.asarray(x.reshape(shape)) for x in (model.surface, model.bottom))
    across, along = float(model.c[0]), float(model.c[-1])
    thick, wet = model.thickness_width, model.drain_width

    def f(h, theta):
        h, theta = h.reshape(shape), theta.reshape(shape)
        t = thick * jax.nn.softplus((h - bottom) / thick)
        out = model.drain * wet * jax.nn.softplus((h - surface) / wet) - model.recharge
        for axis, c in ((1, across), (0, along)):
            first = [slice(None)] * 2
            first[axis] = slice(None, -1)
            last = [slice(None)] * 2
            last[axis] = slice(1, None)
            a, b = tuple(first), tuple(last)
            k = c * jnp.exp(0.5 * (theta[a] + theta[b])) * 0.5 * (t[a] + t[b])
            q = k * (h[b] - h[a])
            out = out.at[b].add(q).at[a].add(-q)
        return out.ravel()

    return f
