"""A multifrontal sparse factorization, on numpy alone for its set-up and on any library for solves.

`dissection` finds separators in the graph of a matrix, `fronts` lays out the dense blocks that
they give, `multifrontal` computes them and solves with them. What chooses between direct solvers
belongs to `mfdeq.linear.direct`.
"""
