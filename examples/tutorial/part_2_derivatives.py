r"""
Part 2: gradient and Hessian
============================

How does a quantity that depends on the temperature change with the conductivity? This part computes
the derivatives of such a loss, with respect to the conductivity of all 400 cells at once.
"""

# %%
# The plate of part 1, at a uniform conductivity:

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


model = mfdeq.from_function(residual, n * n, n * n, "residual", sparsity="detect")
theta = np.zeros(n * n)
eq = mfdeq.solve(model, theta)

# %%
# A loss
# ------
#
# A loss is a function of the state and the parameters. This one is the mean temperature of the
# right half. :class:`mfdeq.LeastSquares`, which part 3 uses, is the one for data.

right = (x > 0.5).ravel() / np.sum(x > 0.5)
loss = mfdeq.loss_from_function(lambda h, theta: right @ h, n * n, n * n)
print(f"mean temperature of the right half: {loss.value(eq.state, theta):.4f}")

# %%
# The gradient
# ------------
#
# The gradient costs one linear solve, with the transpose of a matrix that has been factorized for
# the solution already, whatever the number of parameters.

g = eq.gradient(loss)

# %%
# Compare it with a difference, along some direction:

v = np.sin(3.0 * x + y).ravel()
step = 1e-5
sides = [loss.value(mfdeq.solve(model, theta + s * v).state, theta) for s in (step, -step)]
print(f"gradient {g @ v:.9f}, difference {(sides[0] - sides[1]) / (2 * step):.9f}")

# %%
# The change of the state itself is the sensitivity, :math:`Z = dh/d\theta`. It has 400 times 400
# entries, none of which is stored: it is a linear operator, as scipy has them.

change = eq.sensitivity @ v
print(eq.sensitivity.shape, np.isclose(right @ change, g @ v))

# %%
# The Hessian
# -----------
#
# The Hessian is an operator, too. A product costs two solves with the same factorization. It is
# exact: the curvature of the model is in it, which a Gauss-Newton approximation leaves out. Here
# that is all of it, since this loss is linear in the state.

H = eq.hessian(loss)
print(f"curvature along v: {v @ (H @ v):.6f}, Gauss-Newton: {v @ (H.gauss_newton @ v):.6f}")
second = (sides[0] - 2 * loss.value(eq.state, theta) + sides[1]) / step**2
print(f"second difference: {second:.2f}")

# %%
# The second difference keeps one digit, which is why Hessians are not computed this way. How
# many digits the product has can be asked for:

product, error = H.with_error(v)
print(f"relative error of the product: {np.linalg.norm(error) / np.linalg.norm(product):.0e}")

# %%
# Where would more conductivity warm the right half, and where would it cool it?

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
panels = ("gradient of the mean temperature", g), ("Hessian times v", product)
for ax, (title, values) in zip(axes, panels, strict=True):
    largest = np.max(np.abs(values))
    image = ax.imshow(
        values.reshape(n, n),
        origin="lower",
        extent=(0, 1, 0, 1),
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
    )
    ax.set(title=title, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=ax)
plt.show()

# %%
# Next: :doc:`part_3_a_fit`, the conductivity from measured temperatures.
