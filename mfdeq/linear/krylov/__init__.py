"""Iterative solvers, which take products with A and a preconditioner.

`krylov` has the public description, `factors` what it sets up, and `neumann` the fixed-point
iteration. `cg`, `minres`, `gmres` and `block_gmres` are the methods on blocks, for any array
library; `columns` has what they share, and `recycling` the space that GMRES keeps from one solve to
the next.
Preconditioners do not belong here: these methods only apply them, as operators.
"""
