"""The equilibrium of a PyTorch module, for each sample of a batch."""

from __future__ import annotations

from typing import Any

from ..arguments import at_least, count, fraction, one_of
from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, short_repr
from ..models.model import KINDS
from ..optimization.reduced_functional import SOLVE_OPTIONS

BACKWARD = ("exact", "truncated", "one_step")


def torch_layer(
    module: Any,
    kind: str = "map",
    *,
    state_shape: Any = None,
    order: int = 2,
    backward: str = "exact",
    terms: int = 5,
    warm_start: bool = True,
    **solve_options: Any,
) -> Any:
    """Return the equilibrium of a module as a layer of a PyTorch network.

    Parameters
    ----------
    module : torch.nn.Module
        ``module(h, x)`` returns f(h, x), or R(h, x), of the shape of h, whose first axis is that of
        the samples. Each sample must depend on no other: BatchNorm and dropout in training mode are
        refused.
    kind : {"map", "residual"}, optional
        Whether an equilibrium is h = module(h, x) or module(h, x) = 0.
    state_shape : tuple of int, optional
        The shape of the state of one sample, for a start of zeros. By default it is that of a
        sample of x, or of a vector whose size is a dimension of a parameter of the module, if the
        module accepts it.
    order : int, optional
        The order up to which derivatives are exact; 1 makes backward passes cheaper if only
        gradients are needed.
    backward : {"exact", "truncated", "one_step"}, optional
        The solution of A'w = y in the backward pass: exact; the first `terms` terms of the Neumann
        series, w = y + J'y + ...; or its first term alone, w = y. The latter two are for maps, and
        are inexact to first order; see ``gradient_error`` of the layer.
    terms : int, optional
        The number of terms of "truncated".
    warm_start : bool, optional
        Whether to start from the states of the last batch, in training mode and if the shapes
        agree. In evaluation mode the start is zero.
    **solve_options
        Options of `mfdeq.solve`: method, solver, rtol, max_iterations, lower, upper, progress. With
        others than rtol, max_iterations and the methods "newton" and "anderson" each sample is
        solved by `mfdeq.solve`, one after the other.

    Returns
    -------
    TorchLayer
        A `torch.nn.Module` whose ``forward(x, h0=None)`` returns the equilibrium, with derivatives
        with respect to x and to the parameters of the module. ``report`` tells about the last
        forward solve.

    Raises
    ------
    ArgumentError
        If PyTorch is not installed, or an argument is wrong. Calls raise it for samples that are
        not of the dtype and device of the module's parameters, or not finite.

    See Also
    --------
    to_torch : the equilibrium of a model as a function of tensors.

    Notes
    -----
    Maps of more than 32 unknowns a sample are solved by Anderson acceleration, and their linear
    systems by GMRES, all samples at once; up to 256 unknowns A is factorized if many products ask
    for it. Smaller maps and residuals are solved by Newton's method. A sample that does not
    converge is solved again by `mfdeq.solve`, with at most 100 iterations of each method unless
    max_iterations says otherwise, whose error names the sample.

    With the factor of A at the equilibrium h* held fixed, h* - A^-1 R(h*, x) has the exact first
    derivative, and each further step of this kind one order more. The layer returns the result of
    `order` such steps, which PyTorch differentiates.

    Examples
    --------
    >>> import torch
    >>> import mfdeq
    >>> class Cell(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.state, self.input = torch.nn.Linear(3, 3), torch.nn.Linear(2, 3)
    ...
    ...     def forward(self, h, x):
    ...         return torch.tanh(0.5 * self.state(h) + self.input(x))
    >>> layer = mfdeq.torch_layer(Cell()).double()
    >>> h = layer(torch.ones(5, 2, dtype=torch.float64))
    >>> h.shape, layer.report.converged
    (torch.Size([5, 3]), True)
    >>> h.sum().backward()
    >>> layer.module.input.weight.grad.shape
    torch.Size([3, 2])
    """
    torch: Any = import_optional("torch", "torch")
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(
            f"module of mfdeq.torch_layer: expected a torch.nn.Module, got {short_repr(module)}"
        )
    from .torch_layer_module import TorchLayer  # it imports PyTorch

    one_of(kind, KINDS, "kind of mfdeq.torch_layer")
    for name in solve_options:
        one_of(name, SOLVE_OPTIONS, "options of mfdeq.torch_layer")
    if solve_options.get("rtol") is not None:
        fraction(solve_options["rtol"], "rtol of mfdeq.torch_layer")
    if solve_options.get("max_iterations") is not None:
        count(solve_options["max_iterations"], "max_iterations of mfdeq.torch_layer")
    one_of(backward, BACKWARD, "backward of mfdeq.torch_layer")
    if backward != "exact" and kind != "map":
        raise ArgumentError(
            f'backward of mfdeq.torch_layer: expected "exact" for a residual, got {backward!r}, '
            "whose series is that of a map"
        )
    return TorchLayer(
        module,
        kind,
        None if state_shape is None else _shape(state_shape),
        solve_options,
        int(at_least(1, order, "order of mfdeq.torch_layer")),
        {"exact": 0, "truncated": count(terms, "terms of mfdeq.torch_layer"), "one_step": 1}[
            backward
        ],
        bool(warm_start),
    )


def _shape(sizes: Any) -> tuple[int, ...]:
    """Return the shape of the state of one sample, after checking it."""
    name = "state_shape of mfdeq.torch_layer"
    if isinstance(sizes, (tuple, list)):  # torch.Size is a tuple
        return tuple(count(n, f"each size in {name}") for n in sizes)
    raise ArgumentError(f"{name}: expected a tuple of sizes, got {short_repr(sizes)}")
