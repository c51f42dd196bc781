"""What a checkpoint keeps of an eigenvalue computation: its search, its products, its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import array_on_host
from ..files.checkpoints import Checkpoint, other_run
from ..priors.precision import Precision
from .eigenpairs import Eigenpairs, EigenReport
from .lanczos import Lanczos
from .products import Products

FOUND = 3.0  # times its bound, within which a pair must be one of the operator


class Kept:
    """The file of one computation, if it has one.

    Parameters
    ----------
    file : Checkpoint or None
    H : Products

    Attributes
    ----------
    search : dict or None
        What the file holds of a search that has not ended.
    """

    def __init__(self, file: Checkpoint | None, H: Products) -> None:
        self.file, self.H, self.all = file, H, [H]
        saved: dict[str, Any] = {} if file is None or file.saved is None else file.saved
        self.search: dict[str, Any] | None = saved.get("search")
        self._pairs: dict[str, Any] | None = saved.get("pairs")
        self._products: list[Any] = saved.get("products", [])

    def go_on(self, counted: Products, off: float, allowed: float) -> None:
        """Take up the counts of all products, where one with the operator is what it was."""
        assert self.file is not None
        if not off <= allowed:
            raise other_run(self.file.path, f"a product is off by {off:.1e}: H or M is another")
        for products, memory in zip(self.all, self._products, strict=True):
            products.memory = memory
        self.file.went_on(counted.count)
        self._forget()

    def step(self, done: int, search: Callable[[], dict[str, Any]]) -> None:
        """After so many products, write what there is of the search if it is time."""
        if self.file is not None and self.file.due(done):
            products = [products.memory for products in self.all]
            self.file.write(done, {"search": search(), "products": products})
            self._forget()

    def end(self, pairs: Eigenpairs) -> None:
        """Write the result."""
        if self.file is not None:
            krylov = None if pairs.krylov is None else pairs.krylov.memory
            given = {**vars(pairs), "precision": None, "krylov": krylov}
            self.file.write(0, {"pairs": {**given, "report": vars(pairs.report)}})
            self._forget()

    def pairs(self) -> Eigenpairs | None:
        """The result in the file, if it is there and one of this operator."""
        if self._pairs is None:
            return None
        H, given, report = self.H, {**self._pairs}, {}
        put = H.backend.coefficients
        for name, value in given.pop("report").items():
            report[name] = put(value) if name in ("residuals", "product_errors") else value
        for name in ("values", "error_bounds"):
            given[name] = put(given[name])
        given["vectors"] = H.backend.from_host(given["vectors"])
        given["precision"] = H.metric if isinstance(H.metric, Precision) else None
        if given["krylov"] is not None:
            given["krylov"] = Lanczos.recalled(H.backend, H, H.metric, given["krylov"])
        pairs = Eigenpairs(**given, report=EigenReport(**report))
        x, dual = pairs.vectors[:, -1:], H.metric.apply(pairs.vectors[:, -1:])
        off = H.metric.dual_norms(H.H._apply(x) - dual * pairs.values[-1:])
        self._products = [H.memory]
        bound = float(array_on_host(pairs.error_bounds)[-1])
        rounding = H.backend.eps * pairs.report.norm
        self.go_on(H, float(array_on_host(off)[0]), FOUND * (bound + rounding))
        return pairs

    def _forget(self) -> None:
        for products in self.all:
            products.H.forget()
