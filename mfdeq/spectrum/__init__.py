"""Eigenvalues of symmetric operators with error bounds, and quantities computed from them.

`eigsh` and `randomized_eigsh` compute eigenpairs; `LowRank` and `Nystrom` are a Gaussian posterior
and a preconditioner; `spectral_density`, `trace` and others estimate densities, traces, norms,
determinants and ranks from products with random vectors. All use H as a LinearOperator. Only
shifted inverses and inertia counts use its components, through the Lagrangian system. Singular
values of A and the solution of equilibria do not belong here.
"""
