"""Equilibria and their derivatives as operators.

`solve` computes the `Equilibrium` of a model and its parameters. From one linearization and one
factor of A, an equilibrium computes sensitivities, gradients, the reduced Hessian and the
second-order response, with estimates of their errors. `uniqueness` judges whether A is singular,
and `singularity` says what is. `lagrangian_system` solves with H - sigma I
by the sparse KKT system. Forward iterations belong to `mfdeq.forward` and linear solvers to
`mfdeq.linear`; spectra of Hessians, optimization and verification have packages of their own.
"""
