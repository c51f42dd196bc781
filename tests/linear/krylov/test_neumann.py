"""The Neumann iteration solves where J contracts, by matrices and by products."""

from __future__ import annotations

import numpy as np
import pytest
from support.linear_checks import check_solves, contraction
from support.matrices import operator
from support.places import LIBRARIES

import mfdeq
from mfdeq.operators.operator import IdentityMinus


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("as_product", [False, True])
def test_neumann_solves_with_a_contraction(dtype, as_product, xp):
    dense = contraction(40)
    A = operator(dense, dtype, xp)
    if as_product:
        A = IdentityMinus(operator(np.eye(40) - dense, dtype, xp))
    factor = mfdeq.Neumann().setup(A)
    check_solves(factor, dense.astype(dtype), dtype)
