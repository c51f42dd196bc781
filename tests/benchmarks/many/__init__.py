"""Many equilibria with one parameter vector, beside programs by hand and JAX.

Each module has a function ``comparisons(small)`` that yields the rows of one table; ``__main__``
lists the modules.
"""
