"""Continuation: branches of equilibria along a direction of the parameters.

`mfdeq.follow` steps along a branch, around folds and through crossings with other branches, counts
unstable eigenvalues, and finds the points where their number changes. A single equilibrium and its
derivatives with respect to parameters belong to `mfdeq.equilibrium`; `mfdeq.plot` draws diagrams of
branches.
"""
