"""A search for the objects that a function refers to besides its arguments.

Variables of its closure, globals and attributes are found by their names in the code.
"""

from __future__ import annotations

import collections
import dis
import functools
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..arrays.library import find_library
from .fingerprints import is_watched_array

MAX_REFERENCES = 10_000  # of one function
MAX_ELEMENTS = 100  # of a list or dictionary whose elements are searched
PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None))  # compared by their values
CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
ATTRIBUTE_INSTRUCTIONS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM")
# Special methods that are called by no operator.
NO_OPERATORS = {"__init__", "__new__", "__del__", "__repr__", "__str__", "__reduce__"}
NO_OPERATORS |= {"__getstate__", "__setstate__"}
# Where packages are installed.
INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {*site.getsitepackages(), site.getusersitepackages()}
)
MISSING: Any = object()


class Reference(NamedTuple):
    """A name of an object.

    Attributes
    ----------
    name : str
        The name, such as "W" or "self.W".
    find : callable
        ``find()`` returns the object that has the name now.
    value : object
        The object that had it.
    """

    name: str
    find: Callable[[], Any]
    value: Any


def find_references(function: Callable[..., Any], data: tuple[Any, ...]) -> list[Reference]:
    """Return what a function, and objects that are passed to it, refer to now."""
    search = _Search()
    search.add(function, "")
    search.add_held(data, "args")
    search.run()
    return search.found


class _Search:
    """A search for references, which visits every object once.

    All names of attributes that occur in the code are looked up in all objects, since an object may
    be passed to a function that uses its attributes.
    """

    def __init__(self) -> None:
        self.found: list[Reference] = []
        self.added: dict[int, Any] = {}  # kept alive, so that identities are unique
        self.waiting: collections.deque[tuple[Any, str]] = collections.deque()
        self.names: set[str] = set()  # of attributes
        self.owners: list[_Owner] = []

    def add(self, value: Any, name: str) -> None:
        """Add an object to be searched."""
        if not isinstance(value, PLAIN_TYPES) and id(value) not in self.added:
            self.added[id(value)] = value
            self.waiting.append((value, name))

    def add_held(self, values: Iterable[Any], name: str) -> None:
        """Add objects that no assignment replaces, such as bound arguments."""
        for value in values:
            self._refer(name, functools.partial(_same, value), value)

    def run(self) -> None:
        """Search the objects that have been added, and those that they refer to."""
        while self.waiting and len(self.found) <= MAX_REFERENCES:
            self._visit(*self.waiting.popleft())
            if not self.waiting:  # new names may have been met since the others were searched
                for owner in list(self.owners):
                    self._visit_attributes(owner, self.names - owner.searched)

    def _visit(self, value: Any, name: str) -> None:
        if isinstance(value, functools.partial):
            self.add(value.func, name)
            self.add_held((*value.args, *value.keywords.values()), name)
        elif isinstance(value, types.MethodType):
            self._visit_method(value, name)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value)
        elif isinstance(value, CONTAINERS):
            self._visit_container(value, name)
        elif find_library(type(value)) is not None:  # a sparse matrix, or a spline
            for key in _attributes(value):
                find = functools.partial(getattr, value, key, MISSING)
                if is_watched_array(find()):
                    self._refer(f"{name}.{key}", find, find())
        else:
            if hasattr(type(value), "named_parameters"):
                self._visit_module(value, name)
            owner = _Owner(value, f"{name}." if name else "")
            if owner.own is not None:  # new attributes may hide those of the class
                find = functools.partial(len, owner.own)
                self.found.append(Reference(f"{owner.name}__dict__", find, find()))
            self.owners.append(owner)
            self._visit_attributes(owner, self.names | owner.operators)
        # Decorators and compilers keep the function that they wrap.
        self.add(getattr(value, "__wrapped__", None), name)

    def _refer(self, name: str, find: Callable[[], Any], value: Any) -> None:
        if isinstance(value, types.ModuleType | type) and _is_installed(_module_of(value)):
            return
        self.found.append(Reference(name, find, value))
        self.add(value, name)

    def _visit_method(self, method: types.MethodType, name: str) -> None:
        owner, function = method.__self__, method.__func__
        if isinstance(function, types.FunctionType) and _is_of_package(function):
            # It may use all other methods and attributes.
            self.names.update(*_Owner(owner, "").tables)
        self.add(owner, "self")
        self.add(function, name)

    def _visit_function(self, function: types.FunctionType) -> None:
        if _is_of_package(function):
            return
        variables = function.__globals__
        used = _names(function.__code__)
        self.names |= used.attributes
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            self._refer(name, functools.partial(_content, cell), _content(cell))
        for table, names in ((variables, used.variables), (sys.modules, used.modules)):
            for name in names & table.keys():
                self._refer(name, functools.partial(table.get, name, MISSING), table[name])
        self.add_held(function.__defaults__ or (), "a default")
        self.add_held((function.__kwdefaults__ or {}).values(), "a default")

    def _visit_container(self, value: Any, name: str) -> None:
        find = functools.partial(_identities, value)
        self.found.append(Reference(name, find, find()))
        if len(value) <= MAX_ELEMENTS and not isinstance(value, set | frozenset):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in list(items):
                self._refer(f"{name}[{key!r}]", functools.partial(_entry, value, key), part)

    def _visit_module(self, module: Any, name: str) -> None:
        """Search a module of PyTorch, with all of its parts."""
        self.names.add("forward")
        for table in (module._parameters, module._buffers, module._modules):
            for key, value in table.items():
                find = functools.partial(_entry, table, key)
                self._refer(f"{name}.{key}" if name else key, find, value)

    def _visit_attributes(self, owner: _Owner, names: set[str]) -> None:
        """Search attributes of an object, of its class, and of the base classes."""
        owner.searched |= names
        for table in owner.tables:
            for key in names & table.keys():
                part, name = table[key], owner.name + key
                if isinstance(part, types.MemberDescriptorType):  # one of __slots__
                    find = functools.partial(getattr, owner.value, key, MISSING)
                    self._refer(name, find, find())
                    continue
                self._refer(name, functools.partial(_entry, table, key), part)
                for function in _functions(part):
                    self.add(function, name)


class _Owner:
    """An object whose attributes are searched.

    Attributes
    ----------
    own : dict or None
        Its own attributes, but for those in slots and those of a class.
    tables : list of mappings
        Its attributes, and those of its classes that are of no package.
    operators : set of str
        The names of special methods of these classes.
    searched : set of str
        The names that have been looked up.
    """

    def __init__(self, value: Any, name: str) -> None:
        self.value, self.name = value, name
        self.searched: set[str] = set()
        is_class = isinstance(value, type)
        classes = value.__mro__ if is_class else type(value).__mro__
        of_classes = [vars(cls) for cls in classes if not _is_installed(cls.__module__)]
        self.operators = {
            key
            for table in of_classes
            for key, part in table.items()
            if isinstance(part, types.FunctionType) and key[:2] == "__" and key not in NO_OPERATORS
        }
        self.own: dict[str, Any] | None = None if is_class else getattr(value, "__dict__", None)
        self.tables: list[Mapping[str, Any]] = (
            [*of_classes] if self.own is None else [self.own, *of_classes]
        )


class _Names(NamedTuple):
    """The names that occur in code, and in functions and classes that it defines."""

    variables: frozenset[str]
    attributes: frozenset[str]
    modules: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> _Names:
    found = [set[str](), set[str](), set[str]()]
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            found[0].add(value)
        elif name in ATTRIBUTE_INSTRUCTIONS:
            found[1].add(value)
        elif name == "IMPORT_NAME":
            found[2].add(value)
        elif isinstance(value, types.CodeType):
            for names, inner in zip(found, _names(value), strict=True):
                names |= inner
    return _Names(*map(frozenset, found))


def _attributes(value: Any) -> set[str]:
    """Return the names of the attributes of an object of a library."""
    slots = {slot for cls in type(value).__mro__ for slot in vars(cls).get("__slots__", ())}
    return slots | getattr(value, "__dict__", {}).keys()


def _functions(attribute: Any) -> list[Any]:
    """Return the functions of an attribute of a class that is a descriptor."""
    if isinstance(attribute, property):
        return [attribute.fget]
    if isinstance(attribute, functools.cached_property):
        return [attribute.func]
    return []  # static and class methods have the attribute __wrapped__


def _is_of_package(function: types.FunctionType) -> bool:
    # The attribute __module__ is that of the function that a decorator wraps.
    return _is_installed(function.__globals__.get("__name__"))


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Return whether a module is of the standard library, of mfdeq or of an installed package."""
    root = (module or "").partition(".")[0]
    if root == "mfdeq" or root in sys.stdlib_module_names:
        return True
    found = sys.modules.get(root)
    places = [getattr(found, "__file__", None) or "", *getattr(found, "__path__", ())]
    return any(place.startswith(INSTALLED) for place in places)


def _module_of(value: Any) -> str:
    return value.__name__ if isinstance(value, types.ModuleType) else value.__module__


def _same(value: Any) -> Any:
    return value


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet, or no longer
        return MISSING


def _entry(table: Any, key: Any) -> Any:
    # Not `get`: tables of TorchScript have none, nor have lists.
    try:
        return table[key]
    except LookupError:
        return MISSING


def _identities(container: Any) -> int:
    """Return a number that changes with the elements of a container."""
    if isinstance(container, dict):
        return hash(tuple((id(key), id(part)) for key, part in container.items()))
    return hash(tuple(map(id, container)))
