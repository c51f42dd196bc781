"""Linear operators: their algebra, the conversion of user operators, dot tests and probing.

The rest of the library works with these operators. Classes with a particular meaning (a
derivative, an inverse, a Hessian) are defined elsewhere.
"""
