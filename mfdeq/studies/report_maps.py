"""Maps of the fields that a study stored: arrays of two or three dimensions as small pictures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..arrays.backend import Array, host
from .intact_arrays import IntactArrays
from .records import Record
from .report_labels import describe_case, differing_params, spread

COLUMNS = 3
MAX_PIXELS = 240  # along a side of a map; of larger arrays every second, third, ... row is drawn
MIN_OTHER_SIGN = 0.1  # of the largest magnitude, from which zero is in the middle of the colours
MAX_ASPECT = 5.0  # of the sides of an array whose cells are drawn as squares

Panel = tuple[str, Array]
Describe = Callable[[Mapping[str, Any]], str]


def maps_of(
    done: Sequence[Record], units: Mapping[str, str], arrays: IntactArrays
) -> Iterator[tuple[str, str, list[Panel]]]:
    """Yield the title, the name and the panels of each field.

    Of an array with two dimensions, panels are cases; of one with three, they are places along
    the first axis, such as times, of one case.
    """
    describe = functools.partial(describe_case, names=differing_params(done), units=units)
    names = dict.fromkeys(name for record in done for name in record.outputs)
    for name in names:
        for dimensions in (2, 3):
            chosen = [r for r in done if _is_field(r.outputs.shape(name), dimensions)]
            panels = _cases(chosen, name, arrays, describe) if dimensions == 2 else []
            title = f"maps of {name}"
            if dimensions == 3:
                title, panels = _slices(chosen, name, arrays, describe)
            if panels:
                yield title, name, panels


def draw_maps(figure: Any, panels: Sequence[Panel], label: str) -> None:
    """Draw panels with one scale of colours: around white if values of both signs matter."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    axes = figure.subplots(rows, columns, squeeze=False)
    style = _colours([image for _, image in panels])
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    used = list(axes.flat[: len(panels)])
    for ax, (title, image) in zip(used, panels, strict=True):
        ny, nx = image.shape
        step_y, step_x = (math.ceil(n / MAX_PIXELS) for n in (ny, nx))
        drawn = ax.imshow(
            host.ma.masked_invalid(image[::step_y, ::step_x]),
            extent=(-0.5, nx - 0.5, ny - 0.5, -0.5),
            aspect="equal" if max(nx, ny) <= MAX_ASPECT * min(nx, ny) else "auto",
            interpolation="nearest",
            **style,
        )
        ax.set_title(title, size="small")
        ax.tick_params(labelsize="x-small")
        for axis in (ax.xaxis, ax.yaxis):
            axis.get_major_locator().set_params(integer=True, nbins=4)
    figure.colorbar(drawn, ax=used, label=label, shrink=0.8)


def _is_field(shape: tuple[int, ...], dimensions: int) -> bool:
    return len(shape) == dimensions and min(shape[-2:]) > 1 and 0 not in shape


def _cases(
    chosen: Sequence[Record], name: str, arrays: IntactArrays, describe: Describe
) -> list[Panel]:
    panels = []
    for record in spread([r for r in chosen if arrays.is_readable(r, name)]):
        values = arrays.read(record, name)
        if values is not None and values.dtype.kind in "biuf":
            panels.append((describe(record.params.plain), values.astype(float)))
    return panels


def _slices(
    chosen: Sequence[Record], name: str, arrays: IntactArrays, describe: Describe
) -> tuple[str, list[Panel]]:
    for record in chosen:
        values = arrays.read(record, name)
        if values is not None and values.dtype.kind in "biuf":
            case = describe(record.params.plain)
            title = f"maps of {name} by its first index, case {case}".removesuffix(", case ")
            indices = spread(range(len(values)))
            return title, [(f"{name}[{i}]", values[i].astype(float)) for i in indices]
    return "", []


def _colours(images: Sequence[Array]) -> dict[str, Any]:
    finite = [image[host.isfinite(image)] for image in images]
    low = min((float(x.min()) for x in finite if x.size), default=0.0)
    high = max((float(x.max()) for x in finite if x.size), default=1.0)
    top = max(-low, high)
    if min(-low, high) >= MIN_OTHER_SIGN * top > 0.0:
        return {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
    return {"cmap": "viridis", "vmin": low, "vmax": high}
