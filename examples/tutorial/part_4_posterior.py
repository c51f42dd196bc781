r"""
Part 4: spectrum, prior and posterior
=====================================

The fit of part 3 is one answer. Which of its 400 numbers do the data determine, and how well? The
eigenvalues of the Hessian tell, and so few of them are large that the whole posterior covariance
follows from these.
"""

# %%
# The fit of part 3:

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import mfdeq
import mfdeq.plot

n = 20
x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2)
heating = 100.0 * np.exp(-40.0 * ((x - 0.35) ** 2 + (y - 0.4) ** 2))


def residual(h, theta):
    h, k = np.pad(h.reshape(n, n), 1), np.pad(np.exp(theta).reshape(n, n), 1, mode="edge")
    down = 0.5 * (k[1:, 1:-1] + k[:-1, 1:-1]) * np.diff(h[:, 1:-1], axis=0) * n**2
    across = 0.5 * (k[1:-1, 1:] + k[1:-1, :-1]) * np.diff(h[1:-1, :], axis=1) * n**2
    return (-np.diff(down, axis=0) - np.diff(across, axis=1) - heating).ravel()


model = mfdeq.from_function(residual, n * n, n * n, "residual", sparsity="detect")
truth = np.where((x - 0.6) ** 2 + (y - 0.6) ** 2 < 0.06, 1.5, 0.0).ravel()
sensors = (np.arange(n * n).reshape(n, n)[2::3, 2::3]).ravel()
rng = np.random.default_rng(0)
data = mfdeq.solve(model, truth).state[sensors] + 0.005 * rng.standard_normal(sensors.size)
misfit = mfdeq.LeastSquares(sensors, data, weights=1 / 0.005**2)
rough = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
eye = sp.eye_array(n)
differences = sp.vstack([sp.kron(rough, eye), sp.kron(eye, rough)])
R = 4.0 * differences.T @ differences + 0.1 * sp.eye_array(n * n)
F = mfdeq.ReducedFunctional(model, misfit + mfdeq.QuadraticPrior(R))
fit = mfdeq.minimize(F, np.zeros(n * n))

# %%
# Data against prior
# ------------------
#
# ``eigsh(H, M=precision)`` solves :math:`H x = \mu R x`, where :math:`H` is the Hessian of the
# misfit and :math:`R` the precision of the prior. A direction with :math:`\mu > 1` is determined by
# the data, one with :math:`\mu < 1` by the prior. Each value comes with a bound on its error.

precision = mfdeq.Precision(R)
H = fit.equilibrium.hessian(misfit)
pairs = mfdeq.eigsh(H, k=60, M=precision, which="LM")
print(pairs)
print("directions that the data determine:", int(np.sum(pairs.values > 1)))

# %%
# The posterior
# -------------
#
# The Laplace approximation of the posterior has the covariance :math:`(H + R)^{-1}`. It is that of
# the prior, less what the data say along these directions.

posterior = mfdeq.LowRank(pairs)
before = np.sqrt(precision.variances())
after = np.sqrt(posterior.variances())
print(f"standard deviations: {before.mean():.2f} before the data, {after.mean():.2f} with them")
inside = np.abs(fit.params - truth) < 2 * after
print(f"true values within two standard deviations: {np.mean(inside):.0%}")

# %%
# A sample from the posterior shows what else would explain the data as well:

sample = posterior.samples(seed=1, mean=fit.params)

figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
mfdeq.plot.spectrum(pairs, axes[0])
axes[0].set(title="data against prior")
limits = {"vmin": -0.6, "vmax": 1.8}
panels = ("posterior standard deviation", after, {}), ("a sample", sample, limits)
for ax, (title, values, limits) in zip(axes[1:], panels, strict=True):
    image = ax.imshow(values.reshape(n, n), origin="lower", extent=(0, 1, 0, 1), **limits)
    ax.plot(x.ravel()[sensors], y.ravel()[sensors], "w.", markersize=4)
    ax.set(title=title, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=ax)
plt.show()

# %%
# Next: :doc:`part_5_more`, several experiments on one plate, and larger problems.
