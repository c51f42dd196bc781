"""The forms in which a model may return the same derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.case_models import Blocks, linear_operator_of, sparse_of
from support.case_truth import dense, dense_blocks

import mfdeq


@dataclass(frozen=True)
class Form:
    """The form of matrices, the form of a Hessian's blocks, and whether `second` is present."""

    matrix: Callable[[Any, Any], Any]  # (matrix, xp)
    curvature: Callable[[Blocks, Any], Any]  # (blocks, model)
    second: bool = True


def as_is(matrix, xp):
    return matrix


def as_dense(matrix, xp):
    return dense(matrix)


def as_csr(matrix, xp):
    return sparse_of(xp).csr_matrix(matrix)


def as_csc(matrix, xp):
    package = sparse_of(xp)
    return getattr(package, "csc_array", package.csc_matrix)(matrix)


def as_operator(matrix, xp):
    M = dense(matrix)
    return linear_operator_of(xp)(
        M.shape,
        matvec=lambda x: M @ x,
        rmatvec=lambda y: M.T @ y,
        matmat=lambda X: M @ X,
        rmatmat=lambda Y: M.T @ Y,
        dtype=M.dtype,
    )


def as_blocks(matrix):
    """Return a function that makes an mfdeq.Curvature of blocks in a form; None is a zero block."""

    def curvature(blocks, model):
        given = (None if b is None else matrix(b, model.xp) for b in blocks)
        return mfdeq.Curvature(**Blocks(*given)._asdict())

    return curvature


def as_full_blocks(blocks, model):
    """Return an mfdeq.Curvature of dense blocks, none of which is None."""
    return mfdeq.Curvature(**dense_blocks(blocks, model)._asdict())


def product(blocks, dtheta, dh):
    """Return (a_theta, a_h), the product of a Hessian in blocks with vectors or blocks of them."""
    pp, sp, ss = blocks
    a_theta, a_h = 0 * dtheta, 0 * dh
    if pp is not None:
        a_theta = a_theta + pp @ dtheta
    if sp is not None:
        a_theta, a_h = a_theta + sp.T @ dh, a_h + sp @ dtheta
    if ss is not None:
        a_h = a_h + ss @ dh
    return a_theta, a_h


def as_callable(blocks, model):
    def apply(dtheta, dh):
        assert dtheta.ndim == dh.ndim == 1, "a plain callable gets vectors"
        return product(blocks, dtheta, dh)

    return apply


def as_block_callable(blocks, model):
    def apply(dtheta, dh):
        assert dtheta.shape[1:] == dh.shape[1:], "a block of each, with the same columns"
        return product(blocks, dtheta, dh)

    return mfdeq.Curvature(apply=apply, blocks=True)


AS_IS = Form(as_is, as_blocks(as_is))

FORMS = {
    "dense": Form(as_dense, as_full_blocks),
    "csr": Form(as_csr, as_blocks(as_csr)),
    "csc": Form(as_csc, as_blocks(as_csc)),
    "operators": Form(as_operator, as_blocks(as_operator)),
    "callable": Form(as_csc, as_callable),
    "apply": Form(as_dense, as_block_callable),
    "without_second": Form(as_csr, as_callable, second=False),
}


def with_linearize(model, linearize):
    """Return a copy of the model with another linearize(model, h, theta)."""
    kind = type(type(model).__name__, (type(model),), {"linearize": linearize})
    return kind(model.xp, model.dtype, **model.source)


def linearization(model, fields, form):
    """Return the fields of a model as an mfdeq.Linearization in the given form."""
    return mfdeq.Linearization(
        d_state=form.matrix(fields.d_state, model.xp),
        d_params=form.matrix(fields.d_params, model.xp),
        curvature=lambda lam: form.curvature(fields.curvature(lam), model),
        second=fields.second if form.second else None,
    )
