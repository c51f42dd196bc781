"""Dense blocks on the diagonal: which matrices have them, and solves by their inverses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.linear_checks import check_solves, contraction
from support.matrices import operator
from support.places import LIBRARIES

import mfdeq

LAYERS = sp.block_diag([contraction(6, seed) for seed in range(7)], format="csr")
SWAPPED = np.random.default_rng(0).permutation(42)


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("scale", [1.0, 1e-9, np.logspace(-6, 6, 42)[:, None]], ids=str)
def test_dense_blocks_are_inverted(scale, form, dtype, xp):
    layers = LAYERS.multiply(scale).asformat(form)
    factor = mfdeq.Direct().setup(operator(layers, dtype, xp))
    assert factor.name == "Direct (dense blocks)"
    assert factor.counts.bytes == factor.nbytes == 2 * 7 * 36 * np.dtype(dtype).itemsize
    check_solves(factor, layers.toarray().astype(dtype), dtype)


OTHER_PATTERNS = {
    "of two sizes": sp.block_diag([contraction(m) for m in (6, 6, 4, 8, 6, 6, 6)]),
    "of three": sp.block_diag([contraction(3, seed) for seed in range(14)]),
    "in another order": LAYERS[SWAPPED][:, SWAPPED],
    "shifted": LAYERS[np.roll(range(42), 3)],
    "with an entry less": LAYERS - LAYERS.multiply(sp.coo_matrix(([1], ([9], [8])), (42, 42))),
    "beyond the diagonal": LAYERS + sp.coo_matrix(([1.0], ([0], [41])), (42, 42)),
    "badly conditioned": sp.block_diag(
        [contraction(6), np.fliplr(np.vander(1 + 1e-3 * np.arange(6)))]
    ),
}


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("name", OTHER_PATTERNS)
def test_other_patterns_are_not_taken_for_dense_blocks(name, xp):
    A = OTHER_PATTERNS[name].tocsr()
    A.eliminate_zeros()
    factor = mfdeq.Direct().setup(operator(A, xp=xp))
    assert factor.name == "Direct (SuperLU)" if xp is np else factor.name != "Direct (dense blocks)"
    if name != "badly conditioned":
        check_solves(factor, A.toarray())


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("rounding", [0.0, 1e-15])
def test_a_singular_block_is_a_singular_state(rounding, xp):
    blocks = LAYERS.toarray()
    blocks[20] = blocks[22] * (1 + rounding)
    with pytest.raises(mfdeq.SingularStateError):
        mfdeq.Direct().setup(operator(sp.csr_matrix(blocks), xp=xp)).solve(xp.arange(42.0))
