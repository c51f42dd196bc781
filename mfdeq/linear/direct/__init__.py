"""Direct solvers: one factorization of A, for A and its adjoint.

`direct` has the description that users write, `factors` what it returns. A package that factorizes
sparse matrices is one file (`superlu`, `cholespy`, `cudss`, `multifrontal`) that implements
`package.DirectPackage`, and one line of `registry`. `fill` and `costs` estimate what a
factorization takes, for "auto". Iterations and preconditioners do not belong here, nor does the
multifrontal method itself, which is `mfdeq.linear.multifrontal`.
"""
