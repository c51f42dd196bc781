"""A multifrontal sparse factorization: set-up on the host, solves by any array library.

`dissection` finds separators in the graph of a matrix, `fronts` lays out the resulting dense
blocks, `elimination` computes them, and `multifrontal` solves with them. The loops over vertices
and edges are in `graphs`; numba compiles those of `compiled_graphs`, `compiled_axes` and
`compiled_fronts`, if it is installed. The choice between direct solvers belongs in
`mfdeq.linear.direct`.
"""
