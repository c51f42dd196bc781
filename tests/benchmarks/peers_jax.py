"""JAX and lineax as peers: compiled products that use structure instead of sparse formats.

The coefficients are arguments of the compiled functions, so that other parameters of the model
need no new compilation. The set-up therefore excludes the time of compilation.
"""

from __future__ import annotations

import functools

import numpy as np

from .peers import MAX_ITERATIONS, RESTART, Peer, Solves, need
from .systems import System


def jax_peers(system: System) -> list[Peer]:
    need("jax")
    methods = ("cg",) if system.symmetric else ("gmres", "bicgstab")
    found = [
        Peer("jax", f"{method} + Jacobi", functools.partial(Compiled, solver=jax_solver(method)))
        for method in methods
    ]
    if system.layer is not None:
        found.append(Peer("jax", "LU of the blocks", BlockLU))
    return found


def lineax_peers(system: System) -> list[Peer]:
    need("jax", "lineax")
    method = "CG" if system.symmetric else "GMRES"
    solver = lineax_solver(method)
    return [Peer("lineax", f"{method} + Jacobi", functools.partial(Compiled, solver=solver))]


def in_float64():
    """JAX, in double precision."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def jax_solver(method: str, iterations: int = MAX_ITERATIONS):
    """Solve by JAX's own Krylov method inside `custom_linear_solve`."""

    def solve(product, inverse_diagonal, symmetric, rtol, b):
        import jax

        krylov = getattr(jax.scipy.sparse.linalg, method)
        options = {"tol": rtol, "M": lambda r: inverse_diagonal * r, "maxiter": iterations}
        if method == "gmres":
            cycles = iterations // RESTART
            options |= {"restart": RESTART, "maxiter": cycles, "solve_method": "incremental"}

        def run(matvec, rhs):
            return krylov(matvec, rhs, **options)[0]

        x = jax.lax.custom_linear_solve(product, b, run, run, symmetric=symmetric)
        return x, -1

    return solve


def lineax_solver(method: str):
    """Solve by lineax."""

    def solve(product, inverse_diagonal, symmetric, rtol, b):
        import jax
        import lineax as lx

        positive = lx.positive_semidefinite_tag
        # It scales each entry of the residual by rtol |b_i| + atol: leave the size to atol.
        options = {
            "rtol": rtol,
            "atol": rtol * jax.numpy.linalg.norm(b),
            "norm": jax.numpy.linalg.norm,
            "max_steps": MAX_ITERATIONS,
        }
        if not symmetric:
            options["restart"] = RESTART
        A = lx.FunctionLinearOperator(
            product, jax.eval_shape(lambda: b), tags=positive if symmetric else ()
        )
        M = lx.TaggedLinearOperator(lx.DiagonalLinearOperator(inverse_diagonal), positive)
        solver = getattr(lx, method)(**options)
        found = lx.linear_solve(A, b, solver, options={"preconditioner": M}, throw=False)
        return found.value, found.stats["num_steps"]

    return solve


class Compiled(Solves):
    """A compiled Krylov method over the products that suit the system."""

    traceable = False

    def __init__(self, system: System, solver) -> None:
        jax = in_float64()
        product, arrays, self.blocks = products(system)
        self.arrays = jax.device_put((arrays, 1.0 / system.A.diagonal()))
        self._compiled = _compiled(solver, product, system.symmetric)

    def prepare(self, b):
        jax = in_float64()
        as_it_is = b.ndim == 1 or self.blocks == "columns"
        prepared = jax.device_put(b if as_it_is else np.ascontiguousarray(b.T))
        for adjoint in (False, True):
            self._run(adjoint, 0.9, prepared)  # compiles
        return prepared

    def collect(self, x):
        x = np.asarray(x)
        return x if x.ndim == 1 or self.blocks == "columns" else x.T

    def solve(self, b):
        return self._run(False, self.rtol, b)

    def solve_adjoint(self, b):
        return self._run(True, self.rtol, b)

    def _run(self, adjoint, rtol, b):
        function = self._compiled[adjoint, "vector" if b.ndim == 1 else self.blocks]
        x, steps = function(self.arrays, rtol, b)
        x.block_until_ready()
        steps = int(np.sum(steps))
        self.iterations = steps if steps >= 0 else None
        return x


@functools.cache
def _compiled(solver, product, symmetric: bool) -> dict:
    """The compiled solve and adjoint solve, of vectors and of the ways to hold a block."""
    import jax

    def solve(arrays, rtol, b):
        coefficients, inverse_diagonal = arrays
        matvec = functools.partial(product, coefficients)
        return solver(matvec, inverse_diagonal, symmetric, rtol, b)

    def adjoint(arrays, rtol, b):
        if symmetric:
            return solve(arrays, rtol, b)
        coefficients, inverse_diagonal = arrays
        matvec = functools.partial(product, coefficients)
        transposed = jax.linear_transpose(matvec, b)
        return solver(lambda y: transposed(y)[0], inverse_diagonal, symmetric, rtol, b)

    def in_turn(function):
        return lambda arrays, rtol, b: jax.lax.map(lambda c: function(arrays, rtol, c), b)

    found = {}
    for key, function in ((False, solve), (True, adjoint)):
        found[key, "vector"] = jax.jit(function)
        found[key, "in turn"] = jax.jit(in_turn(function))
        columns = jax.vmap(function, in_axes=(None, None, 1), out_axes=(1, 0))
        found[key, "columns"] = jax.jit(columns)
    return found


def products(system: System):
    """A function of (arrays, x) that gives A x, its arrays, and how it takes blocks best.

    A column after the other stays in the cache, which a block under `vmap` does not; with `vmap`
    all columns also iterate until the last is done. Gathers gain more than they lose by it.
    """
    if system.layer is not None:
        return layer_product, (system.layer.slope, system.layer.W), "in turn"
    offsets = np.unique(_offsets(system.A))
    if offsets.size * system.size <= 2 * system.A.nnz:
        return shifts(tuple(offsets.tolist())), _diagonals(system.A, offsets), "in turn"
    return gather, _padded(system.A), "columns"


def layer_product(arrays, x):
    """(I - diag(slope) W) x of each sample: one dense product."""
    slope, W = arrays
    blocks = x.reshape(slope.shape)
    return (blocks - slope * (blocks @ W.T)).ravel()


@functools.cache
def shifts(offsets: tuple[int, ...]):
    """A x as a sum of shifted arrays, for a matrix of a few diagonals."""
    reach = max(abs(offset) for offset in offsets)

    def product(diagonals, x):
        import jax.numpy as jnp

        wide = jnp.pad(x, reach)
        starts = [reach + offset for offset in offsets]
        return sum(d * wide[s : s + x.size] for d, s in zip(diagonals, starts, strict=True))

    return product


def gather(arrays, x):
    """A x by gathering, for rows padded to one length."""
    columns, values = arrays
    return (values * x[columns]).sum(axis=1)


def _offsets(A) -> np.ndarray:
    return A.indices - np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))


def _diagonals(A, offsets: np.ndarray) -> list[np.ndarray]:
    """For each offset the entries A[i, i + offset] by row."""
    rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    table = np.zeros((offsets.size, A.shape[0]))
    table[np.searchsorted(offsets, _offsets(A)), rows] = A.data
    return list(table)


def _padded(A) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values with every row as long as the longest."""
    counts = np.diff(A.indptr)
    rows = np.repeat(np.arange(A.shape[0]), counts)
    place = np.arange(A.nnz) - np.repeat(A.indptr[:-1], counts)
    columns = np.zeros((A.shape[0], counts.max()), dtype=np.int32)
    values = np.zeros(columns.shape)
    columns[rows, place], values[rows, place] = A.indices, A.data
    return columns, values


class BlockLU(Solves):
    """A dense LU of each sample's block."""

    tunable = traceable = False

    def __init__(self, system: System) -> None:
        jax = in_float64()
        slope, W = jax.device_put((system.layer.slope, system.layer.W))
        self._factor, self._solve = _block_lu()
        self.lu = jax.block_until_ready(self._factor(slope, W))

    def prepare(self, b):
        b = in_float64().device_put(b)
        for trans in (0, 1):
            self._solve(self.lu, b, trans).block_until_ready()  # compiles
        return b

    def collect(self, x):
        return np.asarray(x)

    def solve(self, b):
        return self._solve(self.lu, b, 0).block_until_ready()

    def solve_adjoint(self, b):
        return self._solve(self.lu, b, 1).block_until_ready()


@functools.cache
def _block_lu():
    import jax

    def factor(slope, W):
        eye = jax.numpy.eye(W.shape[0])
        return jax.vmap(lambda s: jax.scipy.linalg.lu_factor(eye - s[:, None] * W))(slope)

    def solve(lu, b, trans):
        batch, state = lu[1].shape
        blocks = b.reshape(batch, state, -1)
        run = functools.partial(jax.scipy.linalg.lu_solve, trans=trans)
        return jax.vmap(run)(lu, blocks).reshape(b.shape)

    return jax.jit(factor), jax.jit(solve, static_argnums=2)
