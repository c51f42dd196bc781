"""The loss as a function of the parameters alone, and its minimization.

`ReducedFunctional` solves for the equilibrium at each point and returns the value, gradient and
Hessian of the loss. `minimize` minimizes it, optionally within bounds, by Newton's method in a
trust region, line searches or limited-memory BFGS, and `Minimum` tells whether the result is a
minimum. Equilibria, their derivatives and eigenvalues belong to other packages.
"""
