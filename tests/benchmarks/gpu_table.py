"""The table of the GPU benchmark, as a page of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

MILLIONS = ("4096²", "256³")  # of 16.8 million parameters
AGREED = 1e-9  # relative difference of device and host
FASTER, THAN_JAX = 40.0, 10.0  # at those
FINE, WHOLE = 1 / 2, 1 / 3  # of the bandwidth of a copy
COLUMN = 0.3  # of a block of 32, of a single product
MINUTES = 120.0  # seconds of 8 eigenpairs at those
OFF = ("state", "gradient", "product")

Figure = Callable[[dict], float]
DASH = "–"


def seconds(value: float) -> str:
    return f"{1e3 * value:.1f} ms" if value < 1 else f"{value:.1f} s"


def rate(value: float) -> str:
    return f"{value / 1e9:.0f} GB/s"


def times(value: float) -> str:
    return f"{value:.1f}"


def share(value: float) -> str:
    return f"{value:.2f}"


def small(value: float) -> str:
    return f"{value:.0e}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def of(role: str, name: str) -> Figure:
    return lambda record: record[role][name]


def ratio(above: Figure, below: Figure) -> Figure:
    return lambda record: above(record) / below(record)


PRODUCT = of("device", "product")
EIGHT = ratio(of("device", "column of 8"), PRODUCT)
BLOCK = ratio(of("device", "column of 32"), PRODUCT)
FINE_LEVEL = ratio(of("device", "fine"), of("device", "copy"))
WHOLE_PRODUCT = ratio(of("device", "whole"), of("device", "copy"))
OVER_HOST, OVER_JAX = ratio(of("cpu", "product"), PRODUCT), ratio(of("jax", "product"), PRODUCT)
ROWS: list[tuple[str, Figure, Callable[[float], str]]] = [
    ("N", of("device", "N"), whole),
    ("P", of("device", "P"), whole),
    ("AMG set-up (on the host), each", of("device", "setup"), seconds),
    ("set-ups", of("device", "setups"), whole),
    ("forward solve, without set-ups", of("device", "solve"), seconds),
    ("Newton's steps", of("device", "steps"), whole),
    ("Hessian product", PRODUCT, seconds),
    ("iterations of its two solves", of("device", "iterations"), whole),
    ("a column in a block of 8, of a single product", EIGHT, share),
    ("a column in a block of 32, of a single product", BLOCK, share),
    ("8 largest eigenpairs", of("device", "eigenpairs"), seconds),
    ("their products", of("device", "products"), whole),
    ("copy, device to device", of("device", "copy"), rate),
    ("sparse products of the fine level, of a copy", FINE_LEVEL, share),
    ("a whole product, of a copy", WHOLE_PRODUCT, share),
    ("peak memory", lambda record: record["device"]["peak"] / 2**30, lambda x: f"{x:.2f} GiB"),
    ("host: AMG set-up, each", of("cpu", "setup"), seconds),
    ("host: forward solve, without set-ups", of("cpu", "solve"), seconds),
    ("host: Hessian product", of("cpu", "product"), seconds),
    ("host: a column in a block of 8", of("cpu", "column of 8"), seconds),
    ("host / device, single", OVER_HOST, times),
    (
        "host / device, in blocks of 8",
        ratio(of("cpu", "column of 8"), of("device", "column of 8")),
        times,
    ),
    *((f"{name}: device from host", of("cpu", f"{name} off"), small) for name in OFF),
    ("JAX: Hessian product", of("jax", "product"), seconds),
    ("JAX: true residual of a solve", of("jax", "residual"), small),
    ("JAX: product from ours", of("jax", "off"), small),
    ("JAX / ours", OVER_JAX, times),
]
# What was aimed at: name, figure, bound, whether the figure is to be at least that, and of which.
TARGETS: list[tuple[str, Figure, float, bool, tuple[str, ...]]] = [
    ("times faster than the host", OVER_HOST, FASTER, True, MILLIONS),
    ("times faster than JAX", OVER_JAX, THAN_JAX, True, MILLIONS),
    ("sparse products of the fine level, of a copy", FINE_LEVEL, FINE, True, ()),
    ("a whole product, of a copy", WHOLE_PRODUCT, WHOLE, True, ()),
    ("a column in a block of 32, of a single product", BLOCK, COLUMN, False, ()),
    ("8 eigenpairs, seconds", of("device", "eigenpairs"), MINUTES, False, MILLIONS),
]


METHOD = """
How it was measured, :doc:`method` says. Bandwidth: bytes of the matrices' values and indices as
they are stored, and of vectors read and written once, for every sparse product, level of a V-cycle
and vector update that was run, over the time; of a copy, what is read and what is written.
"""


def table(records: list[dict]) -> str:
    """The page, of records of one machine."""
    machine = records[-1]["machine"]
    title = machine["name"]
    lines = [
        title,
        "=" * len(title),
        "",
        *about(records),
        METHOD,
        *grid(records),
        "",
        *missing(records),
    ]
    return "\n".join([*lines, "", *verdicts(records), ""])


def about(records: list[dict]) -> list[str]:
    """Where, when and of what."""
    machine = records[-1]["machine"]
    when = sorted({f"{record['date']} at {record['commit']}" for record in records})
    lines = [
        f"Driver {machine['driver']}, CUDA {machine['cuda']}; {machine['versions']}. Host: "
        f"{machine['host']}, {machine['cores']} cores to use, OMP_NUM_THREADS "
        f"{machine['threads']}. Measured on {', '.join(when)}."
    ]
    if any(record["sizes"] != "full" for record in records):
        lines += ["", "Sizes are small: this shows that it runs, and nothing of speed."]
    return lines


def grid(records: list[dict]) -> list[str]:
    """A list table, a column for each problem."""
    heads = ["", *(record["device"].get("title", record["problem"]) for record in records)]
    lines = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    for row in [heads, *([name, *cells(records, *rest)] for name, *rest in ROWS)]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return lines


def cells(records: list[dict], figure: Figure, shown: Callable[[float], str]) -> list[str]:
    return [DASH if (x := value(record, figure)) is None else shown(x) for record in records]


def value(record: dict, figure: Figure) -> float | None:
    """The figure, or None where it was not measured."""
    try:
        return figure(record)
    except KeyError:
        return None


def missing(records: list[dict]) -> Iterator[str]:
    """Why there are dashes."""
    for record in records:
        for role in ("device", "jax", "cpu"):
            for what, why in record.get(role, {"failed": {}})["failed"].items():
                said = why.replace("`", "'").replace("*", "").replace("|", "")
                yield f"- {record['problem']}, {role}, {what}: {said}"


def verdicts(records: list[dict]) -> Iterator[str]:
    """Targets, met or missed, and whether device and host agree."""
    yield "What was aimed at:"
    yield ""
    by_name = {record["problem"]: record for record in records}
    if all(record["sizes"] == "full" for record in records):
        for name, figure, bound, at_least, problems in TARGETS:
            for problem in problems or by_name:
                x = value(by_name[problem], figure) if problem in by_name else None
                sign, aim = (">=", f"{bound:.2g}") if at_least else ("<=", f"{bound:.3g}")
                met = x is not None and (x >= bound if at_least else x <= bound)
                verdict = "not measured" if x is None else "met" if met else "MISSED"
                given = "" if x is None else f" {x:.2f}"
                yield f"- {problem}: {name}{given} (target {sign} {aim}: {verdict})"
    for problem, record in by_name.items():
        found = [x for name in OFF if (x := value(record, of("cpu", f"{name} off"))) is not None]
        if found:
            verdict = "met" if max(found) <= AGREED else "MISSED"
            yield f"- {problem}: device from host {max(found):.0e} (<= {AGREED:.0e}: {verdict})"
        else:
            yield f"- {problem}: device from host not compared"
