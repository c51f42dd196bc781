"""The objects that a function refers to besides its arguments, and whether they have changed.

A Python function looks up closure variables, globals and attributes each time it is called, so that
assigning a new value to one of them changes the function, and so does changing an array in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fingerprints import fingerprint, is_watched_array
from .reference_search import PLAIN_TYPES, Reference, find_references


def replaced(references: list[Reference]) -> list[Reference]:
    """Return the references whose names now refer to objects with other values."""
    found = []
    for reference in references:
        now, before = reference.find(), reference.value
        if now is not before and not (
            type(now) is type(before) and isinstance(now, PLAIN_TYPES) and now == before
        ):
            found.append(reference)
    return found


class References:
    """What a function refers to: variables of its closure, globals, and their attributes.

    Functions that it calls are searched as well, except those of installed packages. Only such
    attributes are found whose names occur in the code, and all parameters of modules of PyTorch.
    The search is made when it is first needed, and again when something was replaced.

    Parameters
    ----------
    function : callable
    data : tuple, optional
        Objects that are passed to the function besides its point.

    Examples
    --------
    >>> import numpy as np
    >>> __name__ = "models"  # a module of a user, since those of this package are not searched
    >>> weights = np.ones(3)
    >>> snapshot = References(lambda h: weights * h).snapshot()
    >>> snapshot.has_changed()
    False
    >>> weights[0] = 2.0
    >>> snapshot.has_changed()
    True
    """

    def __init__(self, function: Callable[..., Any], data: tuple[Any, ...] = ()) -> None:
        self.function, self.data = function, data
        self._found: list[Reference] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return References, (self.function, self.data)

    def current(self) -> list[Reference]:
        """Return what the function refers to now."""
        found = self._found
        if found is None or replaced(found):
            self._found = found = find_references(self.function, self.data)
        return found

    def snapshot(self) -> Snapshot:
        """Return the same with fingerprints of arrays, to be compared with later ones."""
        return Snapshot(self.current())


class Snapshot:
    """References at one moment, with fingerprints of arrays."""

    def __init__(self, references: list[Reference]) -> None:
        self.references = references
        arrays = {id(r.value): r.value for r in references if is_watched_array(r.value)}
        self._fingerprints = [(x, fingerprint(x)) for x in arrays.values()]

    def forget_changes(self) -> None:
        """Watch no longer what has changed since, such as arrays that the function writes to."""
        if changed := set(map(id, replaced(self.references))):
            self.references = [one for one in self.references if id(one) not in changed]
        if self._fingerprints:
            pairs = self._fingerprints
            self._fingerprints = [(x, before) for x, before in pairs if fingerprint(x) == before]

    def has_changed(self) -> bool:
        """Return whether an object was replaced since, or an array has other entries."""
        return bool(replaced(self.references)) or any(
            fingerprint(x) != before for x, before in self._fingerprints
        )


class Unchanged:
    """A test that a function is the same as at a linearization.

    Parameters
    ----------
    references : References
        What the function refers to.
    check : callable
        ``check()`` evaluates the function and raises `ModelError` if it has another value.
    """

    def __init__(self, references: References, check: Callable[[], None]) -> None:
        self.references, self.check = references, check
        self.snapshot = references.snapshot()

    def settle(self) -> None:
        """Watch no longer what has changed since the last check, while the function was called."""
        self.snapshot.forget_changes()

    def __call__(self, compare: bool) -> None:
        """Check the function with `compare`, or if something that it refers to has changed."""
        if compare or self.snapshot.has_changed():
            now = self.references.snapshot()
            self.check()
            now.forget_changes()
            self.snapshot = now
