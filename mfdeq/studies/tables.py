"""Records as tables of pandas and datasets of xarray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..arrays.backend import host
from ..arrays.optional_packages import package
from ..errors import ArgumentError

if TYPE_CHECKING:
    from .records import Record


def to_pandas(records: Sequence[Record]) -> Any:
    """A row for each record, in the order of `records`."""
    pandas = package("pandas", "studies")
    rows = [
        {
            **record.params.plain,
            **record._outputs.plain,
            "status": record.status,
            "seconds": record.seconds,
            "started": record.started,
            "error": record.error,
        }
        for record in records
    ]
    index = pandas.Index([record.key for record in records], name="case")
    return pandas.DataFrame(rows, index=index)


def to_xarray(records: Sequence[Record], dims: Sequence[str], names: Sequence[str] | None) -> Any:
    """Outputs over the cases that are done."""
    xarray = package("xarray", "studies")
    done = [record for record in records if record.status == "done"]
    params = list(dict.fromkeys(name for record in done for name in record.params.plain))
    dims = [dims] if isinstance(dims, str) else list(dims)
    if not done:
        raise ArgumentError("no case is done; one at least was expected")
    if unknown := [name for name in dims if name not in params]:
        raise ArgumentError(f"dims has {unknown[0]!r}; some of {', '.join(params)} were expected")
    found = list(dict.fromkeys(name for record in done for name in record.outputs))
    names = found if names is None else list(names)
    if unknown := [name for name in names if name not in found]:
        raise ArgumentError(f"names has {unknown[0]!r}; some of {', '.join(found)} were expected")
    variables = {}
    for name in names:
        block = _stacked([record.outputs.get(name) for record in done], name)
        variables[name] = (["case", *(f"{name}_{i}" for i in range(block.ndim - 1))], block)
    coordinates = {
        name: ("case", host.asarray([record.params.get(name) for record in done]))
        for name in params
    }
    dataset = xarray.Dataset(variables, coords=coordinates)
    if not dims:
        return dataset.assign_coords(case=[record.key for record in done])
    if len({tuple(record.params[name] for name in dims) for record in done}) < len(done):
        raise ArgumentError(
            f"dims {', '.join(dims)} do not tell all cases apart; more of {', '.join(params)} were "
            "expected"
        )
    dataset = dataset.drop_vars([name for name in params if name not in dims])
    if len(dims) == 1:
        dataset = dataset.swap_dims(case=dims[0])
    else:
        dataset = dataset.set_index(case=list(dims)).unstack("case").transpose(*dims, ...)
    # Values that no case was done with have their places, too.
    every = {
        name: sorted({one.params[name] for one in records if name in one.params}) for name in dims
    }
    if math.prod(map(len, every.values())) > len(done):  # NaN would make them numbers
        dataset = dataset.assign({n: x.astype(object) for n, x in _bools(dataset)})
    return dataset.reindex(every)


def _bools(dataset: Any) -> list[tuple[str, Any]]:
    return [(name, x) for name, x in dataset.items() if x.dtype == bool]


def _stacked(values: list[Any], name: str) -> Any:
    try:
        shapes = {host.shape(x) for x in values if x is not None}
    except ValueError as error:
        raise ArgumentError(
            f"the output {name!r} has lists of different lengths; numbers, or lists that make an "
            "array, were expected. names= takes others alone"
        ) from error
    if len(shapes) > 1:
        raise ArgumentError(
            f"the output {name!r} has the shapes {', '.join(map(str, sorted(shapes)))}; one was "
            "expected. names= takes others alone"
        )
    shape = shapes.pop() if shapes else ()
    numbers = all(isinstance(x, (int, float, host.ndarray)) for x in values if x is not None)
    missing = host.full(shape, host.nan)[()] if numbers else None
    return host.stack([host.asarray(missing if x is None else x) for x in values])
