"""Verification of the derivatives of a model against its function.

`mfdeq.verify` checks first and second derivatives by Taylor remainders, adjoints by dot tests, the
symmetry of curvature, and the sensitivities, gradients and Hessians that follow from them. The
checks that every solve makes, such as that of an operator's adjoint, are in
`mfdeq.operators.dot_tests`.
"""

from .checks import Check

__all__ = ["Check"]
