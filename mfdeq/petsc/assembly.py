"""Assembling operators: an AIJ Mat from the entries of everything that an operator is made of."""

from __future__ import annotations

import functools
from typing import Any

from ..arrays.backend import host
from ..operators.matrix_operator import Diagonal
from ..operators.operator import Adjoint, IdentityMinus, Operator, Product, Scaled, Sum, Zero
from ..priors.precision import Precision
from .mats import MatOperator, create_aij


@functools.singledispatch
def assemble_mat(op: Operator) -> Any:
    """Return a new AIJ Mat with an operator's entries.

    Raises
    ------
    LookupError
        If a part of it is known by its products only: the message names that part.
    """
    raise LookupError(f"a {type(op).__name__}")


@assemble_mat.register
def _(op: MatOperator) -> Any:
    from petsc4py import PETSc

    kind = op.mat.getType()
    if not (op.assembled or kind == "nest"):
        raise LookupError(f"a Mat of type {kind}")
    return op.mat.convert("aij", PETSc.Mat())


@assemble_mat.register
def _(op: Adjoint) -> Any:
    from petsc4py import PETSc

    return assemble_mat(op.of).transpose(PETSc.Mat())


@assemble_mat.register
def _(op: Product) -> Any:
    return assemble_mat(op.left).matMult(assemble_mat(op.right))


@assemble_mat.register
def _(op: Sum) -> Any:
    mat = assemble_mat(op.left)
    mat.axpy(1.0, assemble_mat(op.right))
    return mat


@assemble_mat.register
def _(op: Scaled) -> Any:
    mat = assemble_mat(op.of)
    mat.scale(op.factor)
    return mat


@assemble_mat.register
def _(op: IdentityMinus) -> Any:
    mat = diagonal_mat(op, host.ones(_local_size(op, 0)))
    mat.axpy(-1.0, assemble_mat(op.of))
    return mat


@assemble_mat.register
def _(op: Diagonal) -> Any:
    return diagonal_mat(op, op.diagonal.local)


@assemble_mat.register
def _(op: Precision) -> Any:
    return assemble_mat(op.R)


@assemble_mat.register
def _(op: Zero) -> Any:
    return _from_csr(op, host.zeros(_local_size(op, 0) + 1), host.zeros(0), host.zeros(0))


def diagonal_mat(op: Operator, entries: Any) -> Any:
    """Return a diagonal Mat of a square operator's size, from the entries of this rank."""
    ranks = op.backend.device
    first = ranks.rows(op.shape[0]).slice_of(ranks.rank).start
    numbers = host.arange(len(entries) + 1)
    return _from_csr(op, numbers, first + numbers[:-1], entries)


def _local_size(op: Operator, axis: int) -> int:
    """Return how many rows (axis 0) or columns (1) this rank has."""
    ranks = op.backend.device
    return ranks.rows(op.shape[axis]).count(ranks.rank)


def _from_csr(op: Operator, starts: Any, indices: Any, entries: Any) -> Any:
    """Return an AIJ Mat of an operator's shape, from this rank's rows in CSR."""
    ranks = op.backend.device
    rows, columns = map(ranks.rows, op.shape)
    return create_aij(ranks, rows, columns, (starts, indices, entries))
