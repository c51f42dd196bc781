"""Diffusion in three dimensions: log conductivities from a few measured values, with their Hessian.

A source heats a cube of n³ cells; the field h is zero on its boundary. Each cell has one unknown
value and one unknown log conductivity. The data are values in random cells; the prior is smooth.

    python examples/diffusion.py --size small                      # 16³ cells
    mpiexec -n 2 python examples/diffusion.py --size small --petsc # on PETSc's matrices
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.sparse as sp

import mfdeq

CELLS = {"small": 16, "half": 32, "full": 64}
SENSORS = 100


class Diffusion(mfdeq.ResidualModel):
    """Steady diffusion: R(h, θ) = Dᵀ diag(exp(Mθ)) D h − source, by a 7-point stencil.

    D takes differences from cells to faces, divided by the spacing; M averages: the conductivity
    of a face is the geometric mean of its two cells, on the boundary that of its cell.

    Parameters
    ----------
    n : int
        Number of cells per side of the unit cube.
    """

    def __init__(self, n: int):
        self.state_size = self.param_size = n**3
        d = sp.diags([1.0, -1.0], [0, -1], shape=(n + 1, n)) * n
        m = sp.lil_matrix(abs(d) / (2 * n))
        m[0, 0] = m[n, n - 1] = 1.0
        one = sp.identity(n)

        def along(a):
            """Return the operators along the three axes, stacked."""
            axes = ((a, one, one), (one, a, one), (one, one, a))
            return sp.vstack([sp.kron(sp.kron(x, y), z) for x, y, z in axes], "csr")

        self.D, self.M = along(d), along(m)
        self.source = np.ones(n**3)

    def residual(self, h, theta):
        """Return the net outflow of each cell minus its source."""
        return self.D.T @ (np.exp(self.M @ theta) * (self.D @ h)) - self.source

    def linearize(self, h, theta) -> mfdeq.Linearization:
        """Differentiate q = k · D h, k = exp(Mθ)."""
        D, M, DT, MT, diag = self.D, self.M, self.D.T, self.M.T, sp.diags
        k, Dh = np.exp(M @ theta), D @ h
        q = k * Dh

        def curvature(lam) -> mfdeq.Curvature:
            g = D @ lam
            return mfdeq.Curvature(
                params_params=MT @ diag(g * q) @ M, state_params=DT @ diag(g * k) @ M
            )

        def second(a, b):
            (a_theta, a_h), (b_theta, b_h) = a, b
            Ma, Mb = M @ a_theta, M @ b_theta
            return DT @ (q * Ma * Mb + k * (Ma * (D @ b_h) + Mb * (D @ a_h)))

        return mfdeq.Linearization(DT @ diag(k) @ D, DT @ diag(q) @ M, curvature, second)

    def smoothness(self):
        """Return the precision matrix of a smooth field θ."""
        return (self.D.T @ self.D / self.D.data.max() ** 2 + sp.identity(self.param_size)).tocsr()


def loss_of(model):
    """Return the misfit to values in random cells, known to 0.001, plus the prior."""
    cells = np.random.default_rng(0).choice(model.state_size, SENSORS, replace=False)
    misfit = mfdeq.LeastSquares(cells, np.full(SENSORS, 0.03), weights=1e6)
    return misfit + mfdeq.QuadraticPrior(model.smoothness())


def draw(n, state, gradient, pairs, path):
    """Save the figure: fields in the middle of the cube, and the spectrum."""
    import matplotlib.pyplot as plt

    from mfdeq import plot

    fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    panels = (("state h", state, False), ("gradient dL/dθ", gradient, True))
    for ax, (title, x, symmetric) in zip(axes, panels, strict=False):
        middle = x.reshape(n, n, n)[n // 2].ravel()
        plot.field(middle, (n, n), ax=ax, symmetric=symmetric, extent=(0, 1, 1, 0))
        ax.set_title(f"{title} at x = 1/2", loc="left")
        ax.set(xlabel="z", ylabel="y")
    plot.spectrum(pairs, ax=axes[2])
    axes[2].set_title("largest eigenvalues of the Hessian", loc="left")
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Solve, differentiate, and compute the largest eigenvalues of the Hessian."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=CELLS, default="half")
    parser.add_argument("--petsc", action="store_true", help="use PETSc, on all ranks")
    parser.add_argument("--output", default="diffusion.png", help="file of the figure")
    options = parser.parse_args(arguments)

    n = CELLS[options.size]
    model = Diffusion(n)
    loss = loss_of(model)
    theta, first = np.zeros(model.param_size), True
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    if options.petsc:
        from petsc4py import PETSc

        from mfdeq import petsc

        model = petsc.distributed(model)
        loss, theta = model.loss(loss), model.params(theta)
        solver = petsc.KSP(options={"ksp_type": "cg", "pc_type": "gamg"})
        first = PETSc.COMM_WORLD.getRank() == 0

    eq = mfdeq.solve(model, theta, solver=solver)
    gradient, H = eq.gradient(loss), eq.hessian(loss)
    norms = map(eq.backend.norm, (eq.state, gradient, H @ gradient))
    pairs = mfdeq.eigsh(H, 8, "LA")
    text = (
        f"{n}³ cells: {eq.report.reason}\n"
        + "‖h‖ {:.12g}, ‖gradient‖ {:.12g}, ‖H gradient‖ {:.12g}\n".format(*norms)
        + f"largest eigenvalues {np.array2string(pairs.values, precision=9)}, "
        f"± {pairs.error_bounds.max():.0e}, by {pairs.report.method}"
    )
    state = eq.state
    if options.petsc:
        state, gradient = model.gathered_state(state), model.gathered_params(gradient)
    if first:
        print(text)
        draw(n, state, gradient, pairs, options.output)


if __name__ == "__main__":
    main()
