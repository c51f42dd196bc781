"""Linear operators: their algebra, users' operators on the way in, dot tests and probing.

Everything from the linearization on is one of these operators. What an operator means (a
derivative, an inverse, a Hessian) is for other rooms to say.
"""
