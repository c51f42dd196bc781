r"""
Part 3: a fit
=============

Temperatures are measured at 36 points of the plate, with noise. Which conductivity explains them?
This is an inverse problem: a loss for the misfit, a prior for what the data leave open, and a
minimization over 400 parameters.
"""

# %%
# The plate of part 1:

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import mfdeq

n = 20
x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2)
heating = 100.0 * np.exp(-40.0 * ((x - 0.35) ** 2 + (y - 0.4) ** 2))


def residual(h, theta):
    h, k = np.pad(h.reshape(n, n), 1), np.pad(np.exp(theta).reshape(n, n), 1, mode="edge")
    down = 0.5 * (k[1:, 1:-1] + k[:-1, 1:-1]) * np.diff(h[:, 1:-1], axis=0) * n**2
    across = 0.5 * (k[1:-1, 1:] + k[1:-1, :-1]) * np.diff(h[1:-1, :], axis=1) * n**2
    return (-np.diff(down, axis=0) - np.diff(across, axis=1) - heating).ravel()


model = mfdeq.from_function(residual, n * n, n * n, "residual", sparsity="detect")

# %%
# Data
# ----
#
# The data are those of the plate of part 1, which has a disk of better conductivity, with noise of
# a standard deviation of 0.005. Weights are one over the variance, so that the loss is minus the
# logarithm of the likelihood.

truth = np.where((x - 0.6) ** 2 + (y - 0.6) ** 2 < 0.06, 1.5, 0.0).ravel()
sensors = (np.arange(n * n).reshape(n, n)[2::3, 2::3]).ravel()
noise = 0.005
rng = np.random.default_rng(0)
data = mfdeq.solve(model, truth).state[sensors] + noise * rng.standard_normal(sensors.size)
misfit = mfdeq.LeastSquares(sensors, data, weights=1 / noise**2)

# %%
# A prior
# -------
#
# 36 values do not determine 400. A prior says what is likely without data: here that neighbouring
# cells are similar (Tikhonov regularization, in other words). Its precision is a sparse matrix. Its
# mean is the guess before there are data, and zero by default: here a conductivity of one. Pass
# ``mean=`` for another guess, as parameters in physical units need.

rough = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
eye = sp.eye_array(n)
differences = sp.vstack([sp.kron(rough, eye), sp.kron(eye, rough)])
prior = mfdeq.QuadraticPrior(4.0 * differences.T @ differences + 0.1 * sp.eye_array(n * n))

# %%
# The minimum
# -----------
#
# :class:`mfdeq.ReducedFunctional` is the loss as a function of the parameters alone.
# :func:`mfdeq.minimize` takes Newton's method with the exact Hessian, its inner systems by
# conjugate gradients.

F = mfdeq.ReducedFunctional(model, misfit + prior)
fit = mfdeq.minimize(F, np.zeros(n * n))
print(fit)

# %%
# The gradient is small in the metric of the prior, and ``definite`` says whether the point is known
# to be a minimum, rather than just a point where the method stopped.

print("a minimum:", fit.definite)
left = (fit.equilibrium.state[sensors] - data) / noise
print(f"misfit in standard deviations: {np.sqrt(np.mean(left**2)):.2f}")

# %%
# The misfit is below one standard deviation of the noise, because the fit follows some of it: part
# 4 shows that the data determine as many directions as there are sensors.
#
# The disk is found where heat flows, and is smooth as the prior wants it.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, (title, values) in zip(
    axes, (("true log conductivity", truth), ("fitted", fit.params)), strict=True
):
    image = ax.imshow(
        values.reshape(n, n), origin="lower", extent=(0, 1, 0, 1), vmin=-0.3, vmax=1.5
    )
    ax.plot(x.ravel()[sensors], y.ravel()[sensors], "w.", markersize=4)
    ax.set(title=title, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=ax)
plt.show()

# %%
# Next: :doc:`part_4_posterior`, how certain this picture is.
