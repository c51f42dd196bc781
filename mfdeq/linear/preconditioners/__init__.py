"""Approximate inverses of A for Krylov methods, one description a file.

`amg` (with its V-cycle in `cycle`), `ilu` and `jacobi` are built from the entries of A,
`approximate` from those of a matrix near A; `wrappers` makes preconditioners of factors and of
users' operators. Each description derives from `Preconditioner`, and what its set-up returns from
`PreconditionerOperator`. How iterations go on with it does not belong here.
"""
