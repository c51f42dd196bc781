"""The loss as a function of the parameters alone, and its minimization.

`ReducedFunctional` solves the equilibrium at each point and gives value, gradient and Hessian
there; `minimize` searches for a minimum by Newton's method in a trust region, line searches or
limited-memory BFGS, within bounds, and says whether what it found is one. Solves for equilibria,
derivatives through them and eigenvalues do not belong here: they are used.
"""
