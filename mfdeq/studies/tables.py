"""Conversion of records to a pandas table and an xarray dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..arrays.backend import Array, host
from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError
from .records import Record


def to_pandas(records: Sequence[Record]) -> Any:
    """Return a DataFrame with a row for each record; see `mfdeq.Study.to_pandas`."""
    pandas = import_optional("pandas", "studies")
    rows = [
        {
            **record.params.plain,
            **record.kept.plain,
            "status": record.status,
            "seconds": record.seconds,
            "started": record.started,
            "error": record.error,
        }
        for record in records
    ]
    index = pandas.Index([record.key for record in records], name="case")
    return pandas.DataFrame(rows, index=index)


def to_xarray(
    records: Sequence[Record],
    dims: Sequence[str],
    names: Sequence[str] | None,
    units: Mapping[str, str],
) -> Any:
    """Return a Dataset of the cases that are done; see `mfdeq.Study.to_xarray`."""
    xarray = import_optional("xarray", "studies")
    done = [record for record in records if record.status == "done"]
    if not done:
        raise ArgumentError("to_xarray: expected at least one case that is done, got none")
    params = list(dict.fromkeys(name for record in done for name in record.params.plain))
    outputs = list(dict.fromkeys(name for record in done for name in record.outputs))
    dims = [dims] if isinstance(dims, str) else list(dims)
    names = outputs if names is None else list(names)
    _check_known(dims, params, "dims")
    _check_known(names, outputs, "names")
    variables = {}
    for name in names:
        stacked = _stack([record.outputs.get(name) for record in done], name)
        axes = [f"{name}_{i}" for i in range(stacked.ndim - 1)]
        variables[name] = (["case", *axes], stacked)
    coordinates = {
        name: ("case", host.asarray([record.params.get(name) for record in done]))
        for name in params
    }
    dataset = xarray.Dataset(variables, coords=coordinates)
    if not dims:
        dataset = dataset.assign_coords(case=[record.key for record in done])
        return _with_units(dataset, units)
    if len({tuple(record.params[name] for name in dims) for record in done}) < len(done):
        raise ArgumentError(
            f"dims: expected parameters that together differ between all cases, some of "
            f"{', '.join(params)}, got {', '.join(dims)}, which two cases share"
        )
    dataset = dataset.drop_vars([name for name in params if name not in dims])
    if len(dims) == 1:
        dataset = dataset.swap_dims(case=dims[0])
    else:
        dataset = dataset.set_index(case=list(dims)).unstack("case").transpose(*dims, ...)
    # Include the values of cases that failed.
    axes_values = {
        name: sorted({record.params[name] for record in records if name in record.params})
        for name in dims
    }
    if math.prod(map(len, axes_values.values())) > len(done):
        # Cases are missing. NaN in their places would turn bools into numbers.
        bools = {name: x.astype(object) for name, x in dataset.items() if x.dtype == bool}
        dataset = dataset.assign(bools)
    return _with_units(dataset.reindex(axes_values), units)


def _with_units(dataset: Any, units: Mapping[str, str]) -> Any:
    """Return the dataset with the units among the attributes of its variables."""
    for name in units.keys() & set(dataset.variables):
        dataset[name].attrs["units"] = units[name]
    return dataset


def _check_known(names: Sequence[str], known: Sequence[str], argument: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ArgumentError(f"{argument}: expected some of {', '.join(known)}, got {unknown[0]!r}")


def _stack(values: list[Any], name: str) -> Array:
    """Stack the values of an output along a first axis, with NaN or None if one is missing."""
    advice = "pass names= without it"
    try:
        shapes = {host.shape(x) for x in values if x is not None}
    except ValueError as error:
        raise ArgumentError(
            f"output {name!r}: expected numbers, or lists that make an array, got lists of "
            f"different lengths; {advice}"
        ) from error
    if len(shapes) > 1:
        raise ArgumentError(
            f"output {name!r}: expected one shape, got {', '.join(map(str, sorted(shapes)))}; "
            f"{advice}"
        )
    shape = shapes.pop() if shapes else ()
    numeric = all(isinstance(x, (int, float, host.ndarray)) for x in values if x is not None)
    missing = host.full(shape, host.nan)[()] if numeric else None
    return host.stack([host.asarray(missing if x is None else x) for x in values])
