"""Replaces functions, methods and the methods of a class by name, per backend, within a context.

A place (a module or class, and an attribute of it) that some open context rewrites holds a
dispatcher, which asks what the calling thread or task has entered. When the last context that needs
the place is left, the very object that was there before is put back.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from itertools import count
from threading import RLock
from typing import Any, TypeVar, cast

from halfsafe.errors import BadInput, first_line

T = TypeVar("T")
Function = Callable[..., Any]
Key = tuple[int, str]

_ABSENT: Any = object()
_PLAIN = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_IN_MODULES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_KEPT = {"__init__", "__new__", "__annotate__", "__annotate_func__"}

_lock = RLock()
_registry: dict[str, dict[str, Any]] = {}
"""Name -> backend -> the object that was decorated."""
_places: dict[Key, _Place] = {}
_numbers = count(1)
_open: set[int] = set()
"""The numbers of the contexts that have not been left, in all threads."""
_entered: ContextVar[tuple[int, ...]] = ContextVar("halfsafe.rewriting", default=())
"""The contexts that this thread or task is in, innermost first."""


def rewrites(name: str, *, backend: str = "default") -> Callable[[T], T]:
    """Registers the decorated function or class as what replaces `name`, and returns it unchanged.

    `name` is the qualified name of a function, a method or a class; nothing is imported yet. A
    function gets `original` first, which calls what was replaced. The methods of a class replace
    those of the same name, and get what these would get. A later registration for the same name
    and backend takes the place of an earlier one.
    """
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"{name!r} is no qualified name; write 'package.module.Class.method'")
    if not all(backend.split(".")):
        raise BadInput(f"{backend!r} is no backend; write 'tensorrt' or 'tensorrt.int8'")

    def register(rewrite: T) -> T:
        if not callable(rewrite):
            raise BadInput(f"the rewrite of {name!r} is {rewrite!r}; decorate a function or class")
        with _lock:
            _registry.setdefault(name, {})[backend] = rewrite
        return rewrite

    return register


@contextmanager
def rewriting(
    backend: str = "default", *, names: Iterable[str] | None = None
) -> Generator[dict[str, str]]:
    """Applies what is registered for the backend, in this thread or task, until the context ends.

    "tensorrt.int8" stands for itself, then "tensorrt", then "default"; each name takes the first
    that it has. Yields the names in force, each with the backend it was registered for. Names in
    packages that are not installed are left out. `names` restricts the context to some names,
    which must then exist. The innermost context alone decides. Raises BadInput for what does not
    exist or cannot be replaced, and has then changed nothing.
    """
    targets = _targets(backend, names)
    with ExitStack() as acquired:
        number = next(_numbers)
        for target in targets:
            _acquire(target, number)
            acquired.callback(_release, target.key, number)
        acquired.callback(_leave, number)
        _open.add(number)
        _entered.set((number, *_entered.get()))
        yield {target.name: target.backend for target in targets}


def _leave(number: int) -> None:
    _open.discard(number)
    _entered.set(tuple(other for other in _entered.get() if other in _open))


def _innermost() -> int:
    """The context that decides here; tasks may remember contexts that have ended since."""
    for number in _entered.get():
        if number in _open:
            return number
    return 0


def _innermost_at_export() -> int:
    """The same, as a constant: `torch.export` in strict mode cannot follow a context variable."""
    return _innermost()


@dataclass(frozen=True)
class _Target:
    """One function that goes to one place."""

    name: str
    backend: str
    owner: Any
    attribute: str
    function: Function
    gets_original: bool

    @property
    def key(self) -> Key:
        return id(self.owner), self.attribute


@dataclass(frozen=True)
class _Place:
    """What a place with a dispatcher held itself, what that meant, and what each context calls."""

    owner: Any
    attribute: str
    raw: Any
    meaning: Any
    calls: dict[int, Function]


def _acquire(target: _Target, number: int) -> None:
    call = target.function
    with _lock:
        place = _places.get(target.key) or _install(target)
        if target.gets_original:
            call = functools.partial(call, _function(place.meaning))
        place.calls[number] = call


def _release(key: Key, number: int) -> None:
    with _lock:
        place = _places[key]
        del place.calls[number]
        if place.calls:
            return
        if place.raw is not _ABSENT:
            setattr(place.owner, place.attribute, place.raw)
        elif place.attribute in vars(place.owner):
            delattr(place.owner, place.attribute)
        del _places[key]


def _install(target: _Target) -> _Place:
    owner, attribute = target.owner, target.attribute
    meaning = _meaning(owner, attribute)
    place = _Place(owner, attribute, owner.__dict__.get(attribute, _ABSENT), meaning, {})
    kind, dispatcher = _kind(owner, meaning), _dispatcher(place)
    if kind is property:
        dispatcher = meaning.getter(dispatcher)
    elif kind is not types.FunctionType:
        dispatcher = kind(dispatcher)
    try:
        setattr(owner, attribute, dispatcher)
    except (AttributeError, TypeError) as error:
        raise BadInput(f"{target.name!r} cannot be replaced: {first_line(error)}") from error
    _places[target.key] = place
    return place


def _dispatcher(place: _Place) -> Function:
    """Looks like the original, and calls what the innermost context says, or else the original."""
    calls, otherwise = place.calls, _otherwise(place)
    compiler = sys.modules.get("torch.compiler")
    exporting: Callable[[], bool] = getattr(compiler, "is_exporting", bool)
    if compiler is not None:
        from halfsafe.frontends.torch.private import seen_as_constant

        seen_as_constant(_innermost_at_export)

    @functools.wraps(_function(place.meaning))
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        number = _innermost_at_export() if exporting() else _innermost()
        return calls.get(number, otherwise)(*args, **kwargs)

    return dispatch


def _otherwise(place: _Place) -> Function:
    """The original; if inherited, what an object of a subclass finds next in its own order."""
    owner, attribute, original = place.owner, place.attribute, _function(place.meaning)
    kind = _kind(owner, place.meaning)
    if place.raw is not _ABSENT or not isinstance(owner, type) or kind is staticmethod:
        return original
    after: Any = functools.partial(super, owner)

    def following(*args: Any, **kwargs: Any) -> Any:
        if not args or not (kind is classmethod or isinstance(args[0], owner)):
            return original(*args, **kwargs)
        found = getattr(after(args[0]), attribute)
        return found if kind is property else found(*args[1:], **kwargs)

    return following


def _meaning(owner: Any, attribute: str) -> Any:
    """What an attribute is, dispatchers aside, before it is bound; _ABSENT if there is none."""
    for holder in owner.__mro__ if isinstance(owner, type) else (owner,):
        place = _places.get((id(cast(Any, holder)), attribute))
        raw: Any = place.raw if place else vars(holder).get(attribute, _ABSENT)
        if raw is not _ABSENT:
            return raw
    return _ABSENT if isinstance(owner, type) else getattr(owner, attribute, _ABSENT)


def _kind(owner: Any, found: Any) -> Any:
    """Function, static method, class method or property; None for all else."""
    if not isinstance(owner, type):
        return types.FunctionType if isinstance(found, _IN_MODULES) else None
    if isinstance(found, types.BuiltinFunctionType):
        return staticmethod
    if isinstance(found, _PLAIN):
        return types.FunctionType
    kind = next((k for k in (staticmethod, classmethod, property) if type(found) is k), None)
    return kind if callable(_function(found)) else None


def _function(found: Any) -> Any:
    """The function within what an attribute is."""
    if isinstance(found, staticmethod | classmethod):
        return cast(Any, found).__func__
    return found.fget if type(found) is property else found


def _targets(backend: str, names: Iterable[str] | None) -> list[_Target]:
    """One target a place: the more specific backend wins, then the longer name (a method's own)."""
    parts = backend.split(".")
    chain = [".".join(parts[:n]) for n in range(len(parts), 0, -1)] + ["default"]
    asked = {names} if isinstance(names, str) else set(names or ())
    with _lock:
        known = {
            name: (rank, key, backends[key])
            for rank, key in reversed([*enumerate(chain)])
            for name, backends in _registry.items()
            if key in backends
        }
    for name in sorted(asked - known.keys()):
        near = _hint(name, known) or "; register one with halfsafe.rewrites"
        raise BadInput(f"{name!r} has no rewrite for backend {backend!r}{near}")
    found: dict[Key, _Target] = {}
    for name in sorted(known, key=lambda name: (-known[name][0], name.count("."), name)):
        if names is None or name in asked:
            try:
                found |= {target.key: target for target in _expand(name, *known[name][1:])}
            except ModuleNotFoundError as error:
                if names is not None:
                    raise BadInput(f"{name!r} cannot be rewritten: {error}; install it") from error
    return sorted(found.values(), key=lambda target: target.name)


def _expand(name: str, backend: str, rewrite: Any) -> list[_Target]:
    """The targets of one rewrite: one for a function, one for each method of a class."""
    owner, attribute, found = _find(name)
    if isinstance(found, type) and isinstance(rewrite, type):
        methods = {a: m for a, m in vars(rewrite).items() if a not in _KEPT and _kind(rewrite, m)}
        for method in methods:
            _check_method(name, found, rewrite, method)
        return [_Target(name, backend, found, a, _function(m), False) for a, m in methods.items()]
    if isinstance(found, type):
        raise BadInput(f"{name!r} is a class, and its rewrite is none; name one of its methods")
    if isinstance(rewrite, type):
        raise BadInput(f"{name!r} is no class, and its rewrite is one; decorate a function")
    if _kind(owner, found) is None:
        what = f"{name!r} is a {type(found).__name__}"
        raise BadInput(f"{what}, not a function, a method or a plain property; name what calls it")
    return [_Target(name, backend, owner, attribute, rewrite, True)]


def _check_method(name: str, found: type, rewrite: type, attribute: str) -> None:
    replaced, method = _member(found, name, attribute), vars(rewrite)[attribute]
    if _kind(found, replaced) is not _kind(rewrite, method):
        what = f"'{name}.{attribute}' is a {type(replaced).__name__}"
        raise BadInput(f"{what}, and its rewrite a {type(method).__name__}; decorate it alike")
    code = getattr(_function(method), "__code__", None)
    if "__class__" in getattr(code, "co_freevars", ()):
        what = f"the rewrite of '{name}.{attribute}' uses super(), which is that of another class"
        raise BadInput(f"{what}; rewrite the method by its own name, which gives it the original")


def _find(name: str) -> tuple[Any, str, Any]:
    """Owner, attribute and meaning; a module goes before an attribute of the same name, unless only
    that has what is named. Raises ModuleNotFoundError for what is not installed."""
    *path, last = name.split(".")
    failure: Exception = ModuleNotFoundError(f"no module named {path[0]!r}")
    for depth, module in reversed([*enumerate(_modules(path), 1)]):
        try:
            owner: Any = module
            for n in range(depth, len(path)):
                owner = _member(owner, ".".join(path[:n]), path[n])
            return owner, last, _member(owner, ".".join(path), last)
        except (BadInput, ModuleNotFoundError) as error:
            failure = error
    raise failure


def _modules(path: list[str]) -> list[types.ModuleType]:
    """The modules along a path, as far as there are any."""
    found: list[types.ModuleType] = []
    for n in range(1, len(path) + 1):
        name = ".".join(path[:n])
        try:
            found.append(import_module(name))
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                break
            raise BadInput(f"{name!r} cannot be imported: {first_line(error)}") from error
    return found


def _member(owner: Any, where: str, attribute: str) -> Any:
    if not isinstance(owner, type | types.ModuleType):
        raise BadInput(f"{where!r} is a {type(owner).__name__}; name a place in a module or class")
    try:
        meaning = _meaning(owner, attribute)
    except Exception as error:
        raise BadInput(f"'{where}.{attribute}' cannot be read: {first_line(error)}") from error
    if meaning is not _ABSENT:
        return meaning
    if hasattr(owner, "__path__") and getattr(owner, "__file__", None) is None:
        # A namespace package: its parts are installed one by one.
        raise ModuleNotFoundError(f"no module named '{where}.{attribute}'")
    near = _hint(attribute, dir(owner)) or f"; see dir({where})"
    raise BadInput(f"{where!r} has no attribute {attribute!r}{near}")


def _hint(name: str, known: Iterable[str]) -> str:
    return "".join(f" (did you mean {near!r}?)" for near in get_close_matches(name, known, 1))
