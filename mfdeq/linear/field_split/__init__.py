"""Block preconditioners of systems of several fields, composed of solvers and preconditioners.

`field_split` has the public description, `block_preconditioner` what it sets up, `fields` the
partition of the unknowns with the blocks of A, and `schur` the approximations of the Schur
complement. The preconditioners and solvers of the fields do not belong here.
"""
