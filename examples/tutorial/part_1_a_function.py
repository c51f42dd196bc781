r"""
Part 1: a PDE as a plain function
=================================

A plate is heated, and its edges are held at temperature zero. Where the material conducts well, the
plate stays cold. With the temperature :math:`h` and the logarithm :math:`\theta` of the
conductivity,

.. math::

   -\nabla \cdot (e^\theta \, \nabla h) = q .

This part turns the equation into a model, checks it, and solves it.
"""

# %%
# The function
# ------------
#
# Finite volumes on a grid of 20 by 20 cells give one equation per cell: what flows out through its
# four faces minus what is heated. mfdeq asks for exactly this, a function ``residual(h, theta)``
# that is zero at the solution. The state comes first, and both are one-dimensional arrays.

import matplotlib.pyplot as plt
import numpy as np

import mfdeq

n = 20
x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2)
heating = 100.0 * np.exp(-40.0 * ((x - 0.35) ** 2 + (y - 0.4) ** 2))


def residual(h, theta):
    h, k = np.pad(h.reshape(n, n), 1), np.pad(np.exp(theta).reshape(n, n), 1, mode="edge")
    down = 0.5 * (k[1:, 1:-1] + k[:-1, 1:-1]) * np.diff(h[:, 1:-1], axis=0) * n**2
    across = 0.5 * (k[1:-1, 1:] + k[1:-1, :-1]) * np.diff(h[1:-1, :], axis=1) * n**2
    return (-np.diff(down, axis=0) - np.diff(across, axis=1) - heating).ravel()


# %%
# The model
# ---------
#
# :func:`mfdeq.from_function` differentiates it. ``sparsity="detect"`` finds out which unknown
# appears in which equation, so that the derivatives are sparse matrices and need a few evaluations
# instead of one for each unknown. Where a function accepts complex arrays, as this one does, they
# are exact. If yours fills a buffer, let it hold them: ``np.zeros(n, np.result_type(h, theta))``.

model = mfdeq.from_function(residual, n * n, n * n, "residual", sparsity="detect")
theta = np.where((x - 0.6) ** 2 + (y - 0.6) ** 2 < 0.06, 1.5, 0.0).ravel()

# %%
# Check it first
# --------------
#
# :func:`mfdeq.verify` compares every derivative with the change of the function itself, at this
# point and along random directions. The last line is the verdict. Without a loss it takes one of
# its own.

print(mfdeq.verify(model, theta))

# %%
# Solve it
# --------

eq = mfdeq.solve(model, theta)
print(eq.report)

# %%
# The report says why the iteration stopped, which method and which linear solver ``"auto"`` has
# chosen and for what reason, and how many digits the result has. If a tolerance is missed, an error
# says so: what :func:`mfdeq.solve` returns has converged.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
panels = ("log conductivity", theta, "viridis"), ("temperature", eq.state, "inferno")
for ax, (title, values, colours) in zip(axes, panels, strict=True):
    image = ax.imshow(values.reshape(n, n), origin="lower", extent=(0, 1, 0, 1), cmap=colours)
    ax.set(title=title, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=ax)
plt.show()

# %%
# Next: :doc:`part_2_derivatives`, the derivatives of anything that depends on the temperature.
