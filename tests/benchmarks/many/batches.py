"""Batches of implicit layers from JAX, beside JAX's own vmap with dense solves."""

from __future__ import annotations

import os
import time

# Before JAX is imported: it computes on one core, as everything else here.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np

import mfdeq

from .comparison import Comparison

jax.config.update("jax_enable_x64", True)

SIZES = ((256, 16, 2.0), (1000, 32, 1.2))  # samples, unknowns of one, the ratio to reach
FIRST_TARGET, MINIBATCH_TARGET = 1.5, 1.5
INPUTS, COLUMNS = 8, 8
RTOL, MAX_STEPS = 1e-10, 50


def layer(h, w, x):
    """Return tanh(W h + U x + b)."""
    return jnp.tanh(w["W"] @ h + w["U"] @ x + w["b"])


def misfit(h, w, y):
    """Return half the square of the difference of an output."""
    return 0.5 * (w["c"] @ h - y) ** 2


class Batch:
    """The same batch for both."""

    def __init__(self, samples: int, n: int) -> None:
        rng = np.random.default_rng(0)
        self.samples, self.n = samples, n
        W = rng.standard_normal((n, n)) / n**0.5
        self.weights = {
            "W": 0.6 * W,
            "U": rng.standard_normal((n, INPUTS)) / INPUTS**0.5,
            "b": 0.1 * rng.standard_normal(n),
            "c": rng.standard_normal(n) / n**0.5,
        }
        self.x, self.y = rng.standard_normal((samples, INPUTS)), rng.standard_normal(samples)
        self.other = rng.standard_normal((samples, INPUTS)), rng.standard_normal(samples)
        self.state = np.zeros(n)
        self.make()
        self.theta = self.model.flat_params(self.weights)
        self.directions = rng.standard_normal((self.theta.size, COLUMNS))

    def make(self) -> None:
        """Make the model and the loss, with functions that JAX has not seen."""
        self.model = mfdeq.from_jax(
            lambda *x: layer(*x), self.state, self.weights, "map", args=self.x, batched=True
        )
        self.loss = mfdeq.loss_from_jax(
            lambda *x: misfit(*x), self.state, self.weights, args=self.y, batched=True
        )

    def solve(self, model=None):
        return mfdeq.solve(self.model if model is None else model, self.theta)

    def gradient(self):
        return self.solve().gradient(self.loss)

    def gradient_of_other(self):
        x, y = self.other
        return self.solve(self.model.with_args(x)).gradient(self.loss.with_args(y))


class ByJax:
    """Newton's method, the adjoint and Hessian products by vmap and dense solves, compiled."""

    def __init__(self, batch: Batch) -> None:
        n, unflatten = batch.n, batch.model.params_tree
        f = jax.vmap(layer, in_axes=(0, None, 0))
        jacobian = jax.vmap(jax.jacfwd(layer), in_axes=(0, None, 0))
        solve = jax.vmap(jnp.linalg.solve)
        factorize = jax.vmap(jax.scipy.linalg.lu_factor)
        transpose = (0, 2, 1)

        def solve_with(factors, b, trans):
            return jax.vmap(lambda lu, b: jax.scipy.linalg.lu_solve(lu, b, trans))(factors, b)

        def total(H, w):
            return jax.vmap(misfit, in_axes=(0, None, 0))(H, w, y).sum()

        def A_at(H, w):
            return jnp.eye(n) - jacobian(H, w, x)

        def newton(w):
            def body(state):
                H, _, k = state
                D = solve(A_at(H, w), H - f(H, w, x))
                return H - D, jnp.max(jnp.abs(D)) / jnp.max(jnp.abs(H - D)), k + 1

            def unfinished(state):
                return (state[1] > RTOL) & (state[2] < MAX_STEPS)

            return jax.lax.while_loop(unfinished, body, (H0, jnp.inf, 0))[0]

        def adjoint(H, w):
            return solve(A_at(H, w).transpose(transpose), jax.grad(total)(H, w))

        def gradient_at(H, w):
            lam = adjoint(H, w)
            by_map = jax.vjp(lambda w: f(H, w, x), w)[1](lam)[0]
            direct = jax.grad(total, argnums=1)(H, w)
            return jax.tree_util.tree_map(jnp.add, direct, by_map)

        def product(H, lam, w, v):
            factors = factorize(A_at(H, w))  # two at once block each other on JAX 0.10's threads
            z = solve_with(factors, jax.jvp(lambda w: f(H, w, x), (w,), (v,))[1], 0)
            lagrangian = jax.grad(
                lambda w, H: total(H, w) + (lam * f(H, w, x)).sum(), argnums=(0, 1)
            )
            a_w, a_h = jax.jvp(lagrangian, (w, H), (v, z))[1]
            q = solve_with(factors, a_h, 1)
            return jax.tree_util.tree_map(jnp.add, a_w, jax.vjp(lambda w: f(H, w, x), w)[1](q)[0])

        x, y = jnp.asarray(batch.x), jnp.asarray(batch.y)
        H0 = jnp.zeros((batch.samples, n))
        self.w = jax.tree_util.tree_map(jnp.asarray, unflatten(batch.theta))
        self.newton = jax.jit(newton)
        self.solve_and_differentiate = jax.jit(lambda w: gradient_at(newton(w), w))
        self.H = self.newton(self.w)
        self.lam = jax.jit(adjoint)(self.H, self.w)
        self._product = jax.jit(product)
        self._products = jax.jit(jax.vmap(product, in_axes=(None, None, None, 0)))
        columns = [unflatten(v) for v in batch.directions.T]
        self.v = jax.tree_util.tree_map(jnp.asarray, columns[0])
        self.V = jax.tree_util.tree_map(lambda *x: jnp.stack(x), *columns)

    def solve(self):
        return jax.block_until_ready(self.newton(self.w))

    def gradient(self):
        return jax.block_until_ready(self.solve_and_differentiate(self.w))

    def product(self):
        return jax.block_until_ready(self._product(self.H, self.lam, self.w, self.v))

    def products(self):
        return jax.block_until_ready(self._products(self.H, self.lam, self.w, self.V))


def comparisons(small: bool = False):
    """Yield the rows of the table."""
    for samples, n, target in SIZES[:1] if small else SIZES:
        batch = Batch(samples, n)
        peer = ByJax(batch)
        H = batch.solve().hessian(batch.loss)
        _check(batch, peer, H)
        name = f"{samples} × {n}"
        V = batch.directions
        rows = (
            ("solve", batch.solve, peer.solve),
            ("solve and gradient", batch.gradient, peer.gradient),
            ("product", lambda H=H, v=V[:, 0]: H @ v, peer.product),
            (f"{COLUMNS} products", lambda H=H, V=V: H @ V, peer.products),
        )
        for title, ours, theirs in rows:
            yield Comparison(f"{name}: {title}", ours, theirs, target, "JAX")
        yield Comparison(
            f"{name}: a new minibatch, gradient",
            batch.gradient_of_other,
            batch.gradient,
            MINIBATCH_TARGET,
            "the same batch again",
        )
        yield FirstCall(batch, f"{name}: first call")


def _check(batch: Batch, peer: ByJax, H) -> None:
    """Raise an error unless both compute the same."""
    flat = batch.model.flat_params
    pairs = (
        (batch.solve().samples, peer.solve()),
        (batch.gradient(), flat(peer.gradient())),
        (H @ batch.directions[:, 0], flat(peer.product())),
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


class FirstCall:
    """A solve, a gradient and a product with new functions, beside their compilation."""

    def __init__(self, batch: Batch, title: str) -> None:
        self.batch, self.title, self.compilation = batch, title, 0.0
        self.listening = False

    def _listen(self, event: str, seconds: float, **_) -> None:
        if self.listening and event.startswith("/jax/core/compile"):
            self.compilation += seconds

    def run(self, repeats: int) -> str:
        """Return the row, of one run."""
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        self.batch.make()
        self.listening, begin = True, time.perf_counter()
        eq = self.batch.solve()
        eq.gradient(self.batch.loss)
        _ = eq.hessian(self.batch.loss) @ self.batch.directions[:, 0]
        taken, self.listening = time.perf_counter() - begin, False
        ratio = taken / self.compilation
        verdict = "met" if ratio <= FIRST_TARGET else "missed"
        return (
            f"  {self.title:44} {1e3 * taken:10.1f} {1e3 * self.compilation:10.1f} {ratio:7.2f} "
            f"({FIRST_TARGET:g}: {verdict}) compilation"
        )
