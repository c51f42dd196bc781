"""Equilibria and their derivatives as operators.

`solve` takes a model and its parameters to an `Equilibrium`, which composes one linearization and
one factor of A into sensitivities, gradients, the reduced Hessian and the second-order response,
with estimates of their errors. `lagrangian_system` solves with H - sigma I by the sparse KKT
system. The iterations that find a state belong to `mfdeq.forward`, linear solvers to
`mfdeq.linear`; what is done with a Hessian (spectra, optimization, verification) has rooms of its
own.
"""
