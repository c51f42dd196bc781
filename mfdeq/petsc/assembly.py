"""Operators as Mats of entries, where all that they are made of has some."""

from __future__ import annotations

import functools
from typing import Any

from ..arrays.backend import host
from ..operators.operator import (
    Adjoint,
    Diagonal,
    IdentityMinus,
    Operator,
    Product,
    Scaled,
    Sum,
    Zero,
)
from ..priors.precision import Precision
from .mats import FromMat, aij


@functools.singledispatch
def assembled(op: Operator) -> Any:
    """A new AIJ Mat of an operator's entries.

    Raises
    ------
    LookupError
        Naming what is known by its products only.
    """
    raise LookupError(f"a {type(op).__name__}")


@assembled.register
def _(op: FromMat) -> Any:
    from petsc4py import PETSc

    kind = op.mat.getType()
    if not (op.assembled or kind == "nest"):
        raise LookupError(f"a Mat of type {kind}")
    return op.mat.convert("aij", PETSc.Mat())


@assembled.register
def _(op: Adjoint) -> Any:
    from petsc4py import PETSc

    return assembled(op.of).transpose(PETSc.Mat())


@assembled.register
def _(op: Product) -> Any:
    return assembled(op.left).matMult(assembled(op.right))


@assembled.register
def _(op: Sum) -> Any:
    mat = assembled(op.left)
    mat.axpy(1.0, assembled(op.right))
    return mat


@assembled.register
def _(op: Scaled) -> Any:
    mat = assembled(op.of)
    mat.scale(op.factor)
    return mat


@assembled.register
def _(op: IdentityMinus) -> Any:
    mat = diagonal(op, host.ones(_own(op, 0)))
    mat.axpy(-1.0, assembled(op.of))
    return mat


@assembled.register
def _(op: Diagonal) -> Any:
    return diagonal(op, op.diagonal.local)


@assembled.register
def _(op: Precision) -> Any:
    return assembled(op.R)


@assembled.register
def _(op: Zero) -> Any:
    return _of_rows(op, host.zeros(_own(op, 0) + 1), host.zeros(0), host.zeros(0))


def diagonal(op: Operator, entries: Any) -> Any:
    """The diagonal Mat of the size of a square operator, by the entries of this rank."""
    ranks = op.backend.device
    first = ranks.rows(op.shape[0]).of(ranks.rank).start
    places = host.arange(len(entries) + 1)
    return _of_rows(op, places, first + places[:-1], entries)


def _own(op: Operator, axis: int) -> int:
    ranks = op.backend.device
    return ranks.rows(op.shape[axis]).count(ranks.rank)


def _of_rows(op: Operator, starts: Any, columns: Any, entries: Any) -> Any:
    """An AIJ Mat of an operator's shape, by this rank's rows as in CSR."""
    ranks = op.backend.device
    rows, over = map(ranks.rows, op.shape)
    return aij(ranks, rows, over, (starts, columns, entries))
