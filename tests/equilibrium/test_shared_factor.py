"""Which matrices are the same, so that one factor serves all of them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from mfdeq.equilibrium.shared_factor import group_equal
from mfdeq.linear import operator_of


def test_matrices_are_grouped_by_all_of_their_entries():
    dense = np.random.default_rng(0).random((60, 60))
    A = sp.csr_array(np.where(dense < 0.2, dense, 0.0))
    A = (A + 2.0 * sp.eye_array(60)).tocsr()
    step = A.nnz // 64
    almost = A.copy()
    almost.data[step + 1] += 1e-12  # an entry that is not among those compared first
    operators = [operator_of(M) for M in (A, almost, A.copy(), A.toarray(), A.tocsr())]
    assert group_equal(operators, ["direct"] * 5) == [[0, 2, 4], [1], [3]]
    assert group_equal(operators, ["a", "a", "b", "a", "a"]) == [[0, 4], [1], [2], [3]]


def test_operators_without_entries_are_the_same_only_as_themselves():
    A = operator_of(sp.linalg.aslinearoperator(np.diag([1.0, 2.0])))
    B = operator_of(sp.linalg.aslinearoperator(np.diag([1.0, 2.0])))
    assert group_equal([A, B, A], [""] * 3) == [[0, 2], [1]]
