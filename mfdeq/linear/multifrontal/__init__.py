"""A multifrontal sparse factorization: set-up by numpy and scipy, solves by any array library.

`dissection` finds separators in the graph of a matrix, `fronts` lays out the resulting dense
blocks, and `multifrontal` computes them and solves with them. The choice between direct solvers
belongs in `mfdeq.linear.direct`.
"""
