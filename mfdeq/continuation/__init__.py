"""Continuation: branches of equilibria along a direction of the parameters.

`mfdeq.follow` steps along a branch, around folds and through crossings with other branches, and
counts unstable eigenvalues. A single equilibrium and its derivatives with respect to parameters
belong to `mfdeq.equilibrium`; `mfdeq.plot` draws diagrams of branches.
"""
