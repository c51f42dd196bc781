"""Approximate inverses of A for Krylov methods, one in each file.

`amg`, `ilu` and `jacobi` are built from the entries of A, `approximate` from those of a matrix near
A; `wrappers` makes preconditioners of factors, of users' operators and of functions that build
them. Of multigrid, `hierarchies` makes the coarser levels, `coarsest_level` the inverse of the last
one, `amg_cycle` a V-cycle of them, which `cycle` applies, `unsmoothed` with few products. Each
description derives from `Preconditioner`, and its set-up returns a `PreconditionerOperator`. The
iterations that apply them do not belong here.
"""
