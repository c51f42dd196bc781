"""Verification: whether the derivatives of a model are the derivatives of what it computes.

`mfdeq.verify` and its checks: Taylor remainders of first and second derivatives, dot tests of
adjoints, symmetry of curvature, and the sensitivities, gradients and Hessians that follow from
them. What every solve checks by itself, such as the adjoint of an operator, is not here but where
it is used: `mfdeq.operators.dot_tests`.
"""

from .checks import Check

__all__ = ["Check"]
