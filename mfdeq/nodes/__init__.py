"""A model as a function in another program: one of JAX or of PyTorch, with its derivatives.

The functions here solve for an equilibrium in the forward pass, keep its factor, and give the
automatic differentiation of the other program the products that it asks for. Models from functions
of JAX and PyTorch, the opposite direction, are in `mfdeq.derivatives`.
"""
