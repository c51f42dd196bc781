"""Eigenvalues of symmetric operators with error bounds, and what follows from them.

Extreme, nearest and largest eigenpairs (`eigsh`, `randomized_eigsh`), Gaussian posteriors and
preconditioners from them (`LowRank`, `Nystrom`), and densities, traces, norms, determinants and
ranks from random products (`spectral_density`, `trace`, ...). H is used as a LinearOperator that is
multiplied; only the shifted inverses and the counts look at its parts, through the Lagrangian
system. Singular values of A, and how equilibria are solved for, do not belong here.
"""
