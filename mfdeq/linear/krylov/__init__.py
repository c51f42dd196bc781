"""Iterative solvers that take products with A, and one preconditioner each.

`krylov` holds the public description and its factors, `neumann` the fixed-point iteration. `cg`
and `gmres` are the methods on blocks, written against any array library; `columns` holds what they
share, `recycling` the space that GMRES keeps from solve to solve. Preconditioners do not belong
here: these methods know one as an operator that is applied.
"""
