"""Direct solvers: one factorization of A, for A and its adjoint.

`direct` has the description that users write, and `factors` what its set-up returns. A package that
factorizes sparse matrices is a `package.DirectPackage` in a file of its own (`superlu`, `cholmod`,
`pardiso`, `cudss`, `multifrontal`), and one line of `registry`. `fill` and `costs` estimate the
cost of a factorization, for "auto". Iterations and preconditioners do not belong here, nor does the
multifrontal method itself, which is `mfdeq.linear.multifrontal`.
"""
