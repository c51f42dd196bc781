"""Approximate inverses of A for Krylov methods, one in each file.

`amg` (with its V-cycle in `cycle`), `ilu` and `jacobi` are built from the entries of A,
`approximate` from those of a matrix near A; `wrappers` makes preconditioners of factors, of users'
operators and of functions that build them. Each description derives from `Preconditioner`, and its
set-up returns a `PreconditionerOperator`. The iterations that apply them do not belong here.
"""
