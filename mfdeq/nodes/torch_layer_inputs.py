"""Checks of a layer's module and of what it is called with."""

from __future__ import annotations

from typing import Any

from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, ModelError, short_repr
from .torch_batch import Residual

torch: Any = import_optional("torch", "torch")

NAME = "mfdeq.torch_layer"
PRECISIONS = (torch.float32, torch.float64)
CALL_ERRORS = (RuntimeError, ValueError, IndexError)  # of a module that cannot take some shapes
SAMPLES = "For one sample pass x[None]"
SHAPES = (
    "The module is called as module(h, x), and the first axis of x is that of the samples. Check "
    f"the shape of x, or pass state_shape= to {NAME} if the state has another one. {SAMPLES}"
)
SWAPPED = (
    "It accepts the two in the other order: it is called as module(h, x), so write forward(h, x) "
    "with the state first"
)
REPEATED_ROUNDINGS = 1e4  # by which two values of a sample may differ, in units of rounding


def check_input(module: Any, x: Any) -> Any:
    """Return the dtype of the states, after checking the samples.

    Raises
    ------
    ArgumentError
        If x is not a tensor of samples of the dtype and on the device of the parameters, or the
        dtype is neither float32 nor float64. Integers, such as those of tokens, are allowed.
    """
    if not torch.is_tensor(x):
        raise ArgumentError(f"x of {NAME}: expected a tensor, got {short_repr(x)}")
    if x.ndim < 1 or not x.shape[0]:
        raise ArgumentError(
            f"x of {NAME}: expected samples along the first axis, got shape {tuple(x.shape)}"
        )
    own = [p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()]
    dtypes = list(dict.fromkeys(p.dtype for p in own))
    is_real = x.is_floating_point() or x.is_complex()
    for dtype in (*dtypes, x.dtype) if is_real else dtypes:
        if dtype not in PRECISIONS:
            raise ArgumentError(
                f"x of {NAME}: expected a module and samples of float32 or float64, got "
                f"{_short(dtype)}, in which an equilibrium cannot be solved for: pass x.float() to "
                "layer.float()"
            )
    if is_real and dtypes and x.dtype not in dtypes:
        raise ArgumentError(
            f"x of {NAME}: expected {_short(dtypes[0])} like the parameters of the module, got "
            f"{_short(x.dtype)}: pass x.to(torch.{_short(dtypes[0])}), or call "
            f"layer.to(torch.{_short(x.dtype)}) before"
        )
    if own and own[0].device != x.device:
        raise ArgumentError(
            f"x of {NAME}: expected a tensor on {own[0].device} like the parameters of the module, "
            f"got one on {x.device}"
        )
    return x.dtype if is_real else (dtypes or [torch.get_default_dtype()])[0]


def check_start(h0: Any, x: Any, dtype: Any, shape: tuple[int, ...] | None) -> Any:
    """Return a start that the user has given, after checking it against the samples."""
    if not torch.is_tensor(h0):
        raise ArgumentError(f"h0 of {NAME}: expected a tensor, got {short_repr(h0)}")
    wanted = (x.shape[0], *(h0.shape[1:] if shape is None else shape))
    if tuple(h0.shape) != wanted or h0.dtype != dtype or h0.device != x.device:
        raise ArgumentError(
            f"h0 of {NAME}: expected shape {wanted}, {_short(dtype)} on {x.device}, got shape "
            f"{tuple(h0.shape)}, {_short(h0.dtype)} on {h0.device}"
        )
    return h0.detach()


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def sample_shape(module: Any, x: Any, dtype: Any) -> tuple[int, ...]:
    """Return the shape of the state of a sample: that which the module accepts and returns.

    It is that of a sample of x, or of a vector whose size is a dimension of a parameter.

    Raises
    ------
    ModelError
        If it accepts none of them; the message says which part of the module has failed.
    """
    shape = tuple(x.shape[1:])
    sizes = {n: None for p in module.parameters() for n in p.shape}
    failures: list[tuple[int, str, Exception | None]] = []
    is_swapped = False
    with torch.no_grad():
        for candidate in dict.fromkeys([shape, *((n,) for n in sizes)]):
            h = torch.zeros((x.shape[0], *candidate), dtype=dtype, device=x.device)
            try:
                value = module(h, x.detach())
            except CALL_ERRORS as error:
                failures.append((*_failed_part(module, h, x.detach()), error))
                is_swapped = is_swapped or _accepts(module, x.detach(), h)
                continue
            _check_tensor(value)
            if tuple(value.shape[1:]) == candidate:
                return candidate
            text = f"the module returns shape {tuple(value.shape)} for a state {tuple(h.shape)}"
            failures.append((0, text, None))
    _, text, reason = max(failures, key=lambda failure: failure[0])
    raise ModelError(
        f"module of {NAME}: expected it to accept x of shape {tuple(x.shape)} and a state of that "
        f"shape or of a vector for each sample, but {text}. {SWAPPED if is_swapped else SHAPES}"
    ) from reason


def check_call(module: Any, h: Any, x: Any, call: Any) -> None:
    """Raise `ModelError` if the module cannot be called with states and samples of these shapes.

    It must accept any number of samples: it is called with theirs and with twice as many. `call` is
    the module, or that with other parameters.
    """
    try:
        value = call(h, x)
    except CALL_ERRORS as error:
        raise ModelError(
            f"module of {NAME}: expected it to accept a state of shape {tuple(h.shape)} and x of "
            f"shape {tuple(x.shape)}, but {_failed_part(module, h, x)[1]}. "
            f"{SWAPPED if _accepts(module, x, h) else SHAPES}"
        ) from error
    _check_tensor(value)
    try:
        call(torch.cat([h, h]), torch.cat([x, x]))
    except CALL_ERRORS as error:
        raise ModelError(
            f"module of {NAME}: expected it to accept any number of samples along the first axis "
            f"of x, got an error for {2 * len(x)} like the {len(x)} of x of shape "
            f"{tuple(x.shape)}: {_first_line(error)}. {SAMPLES}"
        ) from error


def _accepts(module: Any, *inputs: Any) -> bool:
    """Whether a module accepts some inputs."""
    try:
        module(*inputs)
    except CALL_ERRORS:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _check_tensor(value: Any) -> None:
    if not torch.is_tensor(value):
        raise ModelError(
            f"module of {NAME}: expected it to return a tensor, got a {type(value).__name__}"
        )


def _failed_part(module: Any, h: Any, x: Any) -> tuple[int, str]:
    """Return the number of parts that have returned when a call fails, and what has failed."""
    names = {part: name for name, part in module.named_modules()}
    begun: list[tuple[Any, Any]] = []
    returned, reason = 0, ""

    def begin(part: Any, inputs: Any) -> None:
        begun.append((part, inputs))

    def end(part: Any, inputs: Any, output: Any) -> None:
        nonlocal returned
        begun.pop()
        returned += 1

    hooks = [
        hook
        for part in names
        for hook in (part.register_forward_pre_hook(begin), part.register_forward_hook(end))
    ]
    try:
        module(h, x)
    except CALL_ERRORS as error:
        reason = _first_line(error)
    finally:
        for hook in hooks:
            hook.remove()
    part, inputs = begun[-1] if begun else (module, (h, x))  # it may fail at random
    shapes = " and ".join(str(tuple(t.shape)) for t in inputs if torch.is_tensor(t))
    kind = repr(part) if not list(part.children()) else type(part).__name__
    what = "the module" if part is module else f"its part {names[part]} = {kind}"
    return returned, f"{what} cannot take shape {shapes}: {reason}"


def check_independence(module: Any, residual: Residual, h: Any) -> None:
    """Raise `ModelError` if the samples depend on each other or on random numbers.

    Parameters
    ----------
    module : torch.nn.Module
    residual : callable
        That of the module, for states whose rows are those of the samples, repeated.
    h : (B, n) tensor
    """
    buffers = [(b, b._version, b.clone()) for b in module.buffers()]
    h = h + 0.1 * torch.sin(torch.arange(h.numel(), device=h.device).view(h.shape) + 1.0).to(h)
    values = [residual(h), residual(h)]
    among = residual(torch.stack([h, 2.0 * h + 1.0], 1).view(-1, h.shape[1]))[::2]
    changed = any(b._version != version for b, version, _ in buffers)
    with torch.no_grad():
        for b, version, copy in buffers:
            if b._version != version:
                b.copy_(copy)
    bound = REPEATED_ROUNDINGS * torch.finfo(h.dtype).eps * float(values[0].abs().max())
    reason = ""
    if changed:
        reason = "changes its buffers, as BatchNorm and spectral_norm do in training"
    elif float((values[0] - values[1]).abs().max()) > bound:
        reason = "draws random numbers, as dropout does in training"
    elif float((values[0] - among).abs().max()) > bound:
        reason = (
            "lets the samples of a batch depend on each other, as BatchNorm does, and attention if "
            "x is one sample (pass x[None])"
        )
    if reason:
        raise ModelError(
            f"module of {NAME} {reason}, so that no sample has an equilibrium of its own. Put "
            "it into evaluation mode (layer.module.eval() after each model.train()), or use "
            "LayerNorm or GroupNorm, and dropout outside of the layer"
        )


def check_finite(module: Any, x: Any, start: Any, value: Any) -> None:
    """Raise if a module has no finite value at the start: for its parameters, the samples or h0.

    Raises
    ------
    ArgumentError
        If x or h0 holds NaN or infinity.
    ModelError
        If a parameter of the module or its value does.
    """
    bad = ~value.isfinite().reshape(len(value), -1).all(1)
    if not bool(bad.any()):
        return
    i = int(bad.nonzero()[0])
    for name, t in (("x", x), ("h0", start)):
        if t.is_floating_point() and (entries := int((~t[i].isfinite()).sum())):
            raise ArgumentError(
                f"{name} of {NAME}: expected finite numbers, got NaN or infinity in {entries} of "
                f"{t[i].numel()} entries of sample {i} of {len(t)}"
            )
    for name, p in module.named_parameters():
        if entries := int((~p.detach().isfinite()).sum()):
            raise ModelError(
                f"module of {NAME}: its parameter {name} holds NaN or infinity in {entries} of "
                f"{p.numel()} entries, as after a step of an optimizer that diverged",
                non_finite=True,
            )
    raise ModelError(
        f"module of {NAME}: expected finite values, got NaN or infinity for sample {i} of {len(x)} "
        "at the start, though x and all parameters are finite",
        non_finite=True,
    )
