"""Results to pickle, by name, and what is computed with each after it has travelled.

The functions can be imported, so that they are found in other processes.
"""

import functools

import numpy as np
import scipy.sparse as sp

import mfdeq

N, P = 40, 3


def cubic(h, theta):
    """A residual with a tridiagonal derivative and N != P."""
    out = 2.5 * h + h**3 - theta[0] - theta[1] * np.linspace(0, 1, N) - theta[2] * h**2
    out[1:] -= h[:-1]
    out[:-1] -= h[1:]
    return out


def shifted(h, theta):
    """A residual for arrays of any library."""
    return h + h**3 - theta


class Cubic(mfdeq.ResidualModel):
    """The same with derivatives by hand, dense or sparse, and a closure for the curvature."""

    state_size, param_size = N, P

    def __init__(self, dense=False):
        self.dense = dense

    def residual(self, h, theta):
        return cubic(h, theta)

    def linearize(self, h, theta):
        diagonal = 2.5 + 3 * h**2 - 2 * theta[2] * h
        A = sp.diags([-np.ones(N - 1), diagonal, -np.ones(N - 1)], [-1, 0, 1]).tocsr()
        B = -np.stack([np.ones(N), np.linspace(0, 1, N), h**2], axis=1)

        def curvature(lam):
            mixed = sp.csr_matrix((-2 * lam * h, (range(N), N * [2])), shape=(N, P))
            return mfdeq.Curvature(
                state_params=mixed, state_state=sp.diags(lam * (6 * h - 2 * theta[2])).tocsr()
            )

        return mfdeq.Linearization(A.toarray() if self.dense else A, B, curvature)


def jax_cubic(h, theta):
    import jax.numpy as jnp

    neighbours = jnp.pad(h[:-1], (1, 0)) + jnp.pad(h[1:], (0, 1))
    force = theta[0] + theta[1] * jnp.linspace(0, 1, N, dtype=h.dtype) + theta[2] * h**2
    return 2.5 * h + h**3 - neighbours - force


def torch_cubic(h, theta):
    import torch

    zero = torch.zeros(1, dtype=h.dtype)
    neighbours = torch.cat([zero, h[:-1]]) + torch.cat([h[1:], zero])
    force = theta[0] + theta[1] * torch.linspace(0, 1, N, dtype=h.dtype) + theta[2] * h**2
    return 2.5 * h + h**3 - neighbours - force


def jax_loss(h, theta):
    return 0.5 * (h**2).sum() + 0.05 * (theta**2).sum()


def value(h, theta):
    return 0.5 * h @ h + 0.05 * theta @ theta


def d_state(h, theta):
    return h


def d_params(h, theta):
    return 0.1 * theta


def curvature(h, theta):
    return mfdeq.Curvature(params_params=0.1 * np.eye(P), state_state=np.eye(N))


def product(theta, x):
    return theta * x


THETA = np.array([1.0, 0.5, 0.2])
LEAST_SQUARES = mfdeq.LeastSquares(np.arange(N), np.zeros(N)) + 0.1 * mfdeq.QuadraticPrior(1.0)
BY_HAND = mfdeq.Loss(value, d_state, d_params, curvature)


def _tridiagonal():
    return sp.diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(60, 60)).tocsr()


def _misfit():
    J = np.random.default_rng(0).standard_normal((5, 60))
    return 50.0 * J.T @ J


def _minimum():
    loss = mfdeq.LeastSquares(np.arange(N), np.full(N, 0.4)) + mfdeq.QuadraticPrior(1e-2)
    return mfdeq.minimize(mfdeq.ReducedFunctional(Cubic(), loss), THETA)


def _functional(model):
    F = mfdeq.ReducedFunctional(model, LEAST_SQUARES, accuracy=1e-6)
    F.hessp(THETA, np.ones(P))
    return F


def _model(source):
    state, params = np.zeros(N), np.zeros(P)
    if source == "from_jax":
        return mfdeq.from_jax(jax_cubic, state, params, "residual", sparsity="detect")
    if source == "from_torch":
        return mfdeq.from_torch(torch_cubic, state, params, "residual")
    model = mfdeq.from_function(cubic, N, P, "residual", sparsity="detect", order=2)
    return mfdeq.mixed(model, Cubic()) if source == "mixed" else model


def _used(eq):
    """An equilibrium that has a factor, adjoints and corrections."""
    eq.gradient(LEAST_SQUARES)
    eq.hessian(LEAST_SQUARES) @ np.ones(P)
    eq.gradient(LEAST_SQUARES, rtol=1e-6)
    return eq


def _equilibrium(model, **options):
    return _used(mfdeq.solve(model, THETA, **options))


def _branch():
    return mfdeq.follow(Cubic(), THETA, span=(0.0, 1.0), direction=np.array([1.0, 0.0, 0.0]))


def _pairs(**options):
    return mfdeq.eigsh(_tridiagonal(), k=3, rtol=1e-6, **options)


def _posterior(R):
    return mfdeq.LowRank(mfdeq.eigsh(_misfit(), k=6, M=R))


def use_nothing(x):
    return np.zeros(0)


def use_pairs(pairs):
    again = mfdeq.eigsh(_tridiagonal(), k=4, resume=pairs) if pairs.krylov else pairs
    return np.concatenate([pairs.values, pairs.error_bounds, again.values])


def use_posterior(posterior):
    x = np.ones(posterior.shape[0])
    return np.concatenate(
        [posterior.samples(seed=3), posterior.variances(), posterior @ x, posterior.prior.solve(x)]
    )


def use_equilibrium(eq):
    loss = LEAST_SQUARES
    return np.concatenate(
        [eq.gradient(loss), eq.hessian(loss) @ np.ones(P), eq.sensitivity @ np.ones(P), eq.state]
    )


def use_operator(H):
    return np.concatenate([H @ np.ones(H.shape[1]), (H.H @ np.ones(H.shape[0]))])


def use_functional(F):
    return np.concatenate([F.gradient(THETA + 0.1), F.hessp(THETA, np.ones(P)), [F.value(THETA)]])


def use_minimum(found):
    return np.concatenate([found.params, found.smallest.values, use_equilibrium(found.equilibrium)])


def use_branch(branch):
    return np.concatenate([branch.t, branch.measured(np.max), branch.points[0].tangent])


def use_loss(loss):
    return np.concatenate([*loss.gradients(np.ones(N), THETA), [loss.value(np.ones(N), THETA)]])


def use_model(model):
    return mfdeq.solve(model, THETA).state


def use_text(x):
    return np.frombuffer(str(x).encode(), dtype="uint8").astype(float)


def use_values(x):
    values = vars(x).values()
    return np.concatenate([np.ravel(v) for v in values if isinstance(v, (float, np.ndarray))])


def _loss_of(source):
    make = mfdeq.loss_from_jax if source == "jax" else mfdeq.loss_from_torch
    return make(jax_loss, np.zeros(N), np.zeros(P))


RESULTS = {
    "pairs": (_pairs, use_pairs),
    "dense pairs": (functools.partial(_pairs, which="SA"), use_pairs),
    "pairs near a shift": (functools.partial(_pairs, sigma=1.0), use_values),
    "values": (functools.partial(_pairs, return_eigenvectors=False), use_values),
    "generalized pairs": (lambda: mfdeq.eigsh(_misfit(), k=3, M=_tridiagonal()), use_values),
    "posterior": (lambda: _posterior(_tridiagonal()), use_posterior),
    "posterior, dense": (lambda: _posterior(_tridiagonal().toarray()), use_posterior),
    "posterior, diagonal": (lambda: _posterior(np.linspace(1, 2, 60)), use_posterior),
    "equilibrium": (lambda: _equilibrium(Cubic()), use_equilibrium),
    "equilibrium, dense": (lambda: _equilibrium(Cubic(dense=True)), use_equilibrium),
    "equilibrium by Krylov": (
        lambda: _equilibrium(Cubic(), solver=mfdeq.Krylov(preconditioner=mfdeq.ILU(), recycle=5)),
        use_equilibrium,
    ),
    "equilibrium at": (
        lambda: _used(mfdeq.equilibrium_at(Cubic(), THETA, mfdeq.solve(Cubic(), THETA).state)),
        use_equilibrium,
    ),
    **{
        f"equilibrium {source}": (
            lambda source=source: _equilibrium(_model(source)),
            use_equilibrium,
        )
        for source in ("from_function", "from_jax", "from_torch", "mixed")
    },
    **{
        f"model {source}": (lambda source=source: _model(source), use_model)
        for source in ("from_function", "from_jax", "from_torch", "mixed")
    },
    "hessian": (lambda: _equilibrium(Cubic()).hessian(LEAST_SQUARES), use_operator),
    "functional": (lambda: _functional(Cubic()), use_functional),
    "functional from_jax": (lambda: _functional(_model("from_jax")), use_functional),
    "minimum": (_minimum, use_minimum),
    "branch": (_branch, use_branch),
    "report": (lambda: _equilibrium(Cubic()).report, use_text),
    "counts": (lambda: mfdeq.Direct().setup(_tridiagonal()).counts, use_text),
    "smallest singular": (lambda: _equilibrium(Cubic()).smallest_singular, use_values),
    "verification": (lambda: mfdeq.verify(Cubic(), THETA, BY_HAND), use_text),
    "density": (lambda: mfdeq.spectral_density(_tridiagonal()), use_values),
    "trace": (lambda: mfdeq.trace(_tridiagonal()), use_text),
    "nystrom": (lambda: mfdeq.Nystrom(_tridiagonal(), 5, 1.0), use_operator),
    "precision": (lambda: mfdeq.Precision(_tridiagonal()), use_operator),
    "covariance": (lambda: mfdeq.Precision(_tridiagonal()).covariance, use_operator),
    "loss": (lambda: BY_HAND, use_loss),
    "least squares": (lambda: LEAST_SQUARES, use_loss),
    "loss from_jax": (lambda: _loss_of("jax"), use_loss),
    "loss from_torch": (lambda: _loss_of("torch"), use_loss),
}


def used(name, x):
    """What is computed with a result after it has travelled."""
    return RESULTS[name][1](x)


def used_and_returned(name, x):
    """The same and the result itself, which travels back."""
    return used(name, x), x


def fail(theta):
    """Raise an error that carries its best result and a report."""
    mfdeq.solve(Cubic(), theta, max_iterations=1)


def fail_singular(theta):
    mfdeq.Direct().setup(np.zeros((3, 3)))
