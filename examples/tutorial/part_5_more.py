r"""
Part 5: many experiments, and larger problems
=============================================

What one experiment leaves open another one may show. This part adds experiments, and says what to
change when the plate has a million cells.
"""

# %%
# The plate of part 1, which is now heated at one of several places:

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import mfdeq

n = 20
x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2)


def heated_at(place):
    """Return the model of the plate that is heated at a place."""
    heating = 100.0 * np.exp(-40.0 * ((x - place[0]) ** 2 + (y - place[1]) ** 2))

    def residual(h, theta):
        h, k = np.pad(h.reshape(n, n), 1), np.pad(np.exp(theta).reshape(n, n), 1, mode="edge")
        down = 0.5 * (k[1:, 1:-1] + k[:-1, 1:-1]) * np.diff(h[:, 1:-1], axis=0) * n**2
        across = 0.5 * (k[1:-1, 1:] + k[1:-1, :-1]) * np.diff(h[1:-1, :], axis=1) * n**2
        return (-np.diff(down, axis=0) - np.diff(across, axis=1) - heating).ravel()

    return mfdeq.from_function(residual, n * n, n * n, "residual", sparsity="detect")


# %%
# Experiments
# -----------
#
# Each experiment is a functional of its own. Their sum has a value, a gradient and a Hessian like
# any of them. Since all have the same matrix :math:`A`, they share one factorization.

truth = np.where((x - 0.6) ** 2 + (y - 0.6) ** 2 < 0.06, 1.5, 0.0).ravel()
sensors = (np.arange(n * n).reshape(n, n)[2::3, 2::3]).ravel()
rng = np.random.default_rng(0)
experiments = []
for place in ((0.35, 0.4), (0.7, 0.3), (0.3, 0.75), (0.75, 0.75)):
    model = heated_at(place)
    data = mfdeq.solve(model, truth).state[sensors] + 0.005 * rng.standard_normal(sensors.size)
    misfit = mfdeq.LeastSquares(sensors, data, weights=1 / 0.005**2)
    experiments.append(mfdeq.ReducedFunctional(model, misfit))

rough = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
eye = sp.eye_array(n)
differences = sp.vstack([sp.kron(rough, eye), sp.kron(eye, rough)])
prior = mfdeq.QuadraticPrior(4.0 * differences.T @ differences + 0.1 * sp.eye_array(n * n))

# %%
fits = {}
for count in (1, 4):
    F = mfdeq.SumFunctional(experiments[:count], prior=prior)
    fits[count] = mfdeq.minimize(F, np.zeros(n * n)).params
    error = np.sqrt(np.mean((fits[count] - truth) ** 2))
    print(f"{count} experiments: root mean square error {error:.3f}")

figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
panels = ("true log conductivity", truth), ("one experiment", fits[1]), ("four", fits[4])
for ax, (title, values) in zip(axes, panels, strict=True):
    image = ax.imshow(
        values.reshape(n, n), origin="lower", extent=(0, 1, 0, 1), vmin=-0.3, vmax=1.5
    )
    ax.set(title=title, xlabel="x", ylabel="y")
figure.colorbar(image, ax=axes)
plt.show()

# %%
# A larger plate
# --------------
#
# Nothing above stores an array over the parameters squared, so that a million cells fit into
# memory. What changes is what is worth writing by hand:
#
# - Derivatives as sparse matrices, in a :class:`mfdeq.ResidualModel` with ``linearize``. A plain
#   function takes a dozen evaluations for each linearization. :doc:`/getting_started` has such a
#   model.
# - Multigrid in place of a factorization in three dimensions: ``solver="auto"`` estimates the cost
#   of both and takes the cheaper one. :doc:`/solvers` has the choices.
# - On a cluster, the same model with PETSc's vectors and matrices, with ``mfdeq.petsc.solve`` in
#   place of :func:`mfdeq.solve`: :doc:`/petsc`.
# - Hundreds of such fits, from scripts that may be killed: :class:`mfdeq.Study`, in
#   :doc:`/studies`.
#
# The :doc:`/gallery/index` has an example of each.
