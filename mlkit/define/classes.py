"""Pickling of classes that are shipped by value, so that another process has the same ones.

cloudpickle rebuilds a class from its name, bases and attributes. What that loses is added here: the
qualified name, slots, members of enums as they are, the identity of parametrized generic models,
subclasses, and the names by which annotations and pickles find a class in its module. Pickles find
functions by their names as well: ``pool.map(f, items)``.
"""

from __future__ import annotations

import enum
import functools
import operator
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cloudpickle

__all__ = [
    "enter_modules",
    "is_member",
    "parametrization",
    "reduced",
    "reduced_function",
    "reduced_member",
]

_inner: Any = cloudpickle.cloudpickle


def parametrization(value: Any) -> Any:
    """Return how to rebuild a generic model with arguments, ``Page[Item]``; None for other values.

    Its name can be looked up only if a module was being imported when it was made.
    """
    if not isinstance(value, type):
        return None
    generic = vars(value).get("__pydantic_generic_metadata__") or {}
    if not generic.get("origin"):
        return None
    return operator.getitem, (generic["origin"], generic["args"])


def reduced(
    cls: type,
    reduction: tuple[Any, ...],
    subclasses: Sequence[type],
    named: Mapping[str, Any],
) -> tuple[Any, ...]:
    """Return how to rebuild a class.

    Args:
        cls: the class.
        reduction: cloudpickle's.
        subclasses: subclasses that are shipped with it, in the order of their definition.
        named: what its annotations in quotes name.
    """
    build, arguments, (members, slots), *rest, set_state = reduction
    if issubclass(cls, enum.Enum):
        build, arguments = _enum, _definition(cls, arguments[-2])
        members = _enum_members(cls, members)
    else:
        kind, name, bases, namespace, *tracking = arguments
        namespace = {**namespace, "__qualname__": cls.__qualname__}
        if "__slots__" in members and NamedTuple not in bases:  # which has slots already
            namespace["__slots__"] = members.pop("__slots__")
        build, arguments = _class, (kind, name, bases, namespace, *tracking)
    members = {
        name: value
        for name, value in members.items()
        if not (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls)
    }
    generic = cls.__dict__.get("__pydantic_generic_metadata__") or {}
    if generic.get("origin") is not None:
        arguments = (generic["origin"], generic["args"], *arguments)
        build = _parametrized
    # The subclasses are first, to be created in their order.
    state = (list(subclasses), dict(named), (members, slots))
    assert set_state is _inner._class_setstate
    return build, arguments, state, *rest, _set_state


def reduced_function(fn: types.FunctionType, reduction: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return how to rebuild a function, by its name in its module if it has one."""
    module = sys.modules.get(fn.__module__)
    if getattr(module, fn.__qualname__, None) is not fn:  # such as one that a decorator wraps
        return reduction
    *parts, set_state = reduction
    assert set_state is _inner._function_setstate
    return *parts, _set_function_state


def _set_function_state(fn: types.FunctionType, state: tuple[Any, ...]) -> None:
    _inner._function_setstate(fn, state)
    _enter(fn.__module__, {fn.__qualname__: fn})


def _set_state(cls: type, state: tuple[list[type], dict[str, Any], Any]) -> None:
    subclasses, named, rest = state
    values = rest[0].pop(_VALUES, None)
    _inner._class_setstate(cls, rest)
    if values is not None:
        _set_values(cls, values)
    if subclasses:  # a class refers to its subclasses weakly
        type.__setattr__(cls, "__shipped_subclasses__", subclasses)
    if "." not in cls.__qualname__:
        named[cls.__name__] = cls
    _enter(cls.__module__, named)


def _known(tracker: str) -> Any:
    """Return a class of the same content that this process has already."""
    return _inner._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)


def _class(
    kind: Any,
    name: str,
    bases: tuple[Any, ...],
    namespace: Mapping[str, Any],
    tracker: str,
    extra: Any,
) -> Any:
    # A second class, even if it is not used, would count as a subclass of its bases.
    known = _known(tracker)
    if known is not None:
        return known
    with _without_hooks(bases):
        if not _is_rebuilt(kind):
            return _inner._make_skeleton_class(kind, name, bases, namespace, tracker, extra)
        resolved = types.resolve_bases(bases)
        body = {**namespace, **({} if resolved is bases else {"__orig_bases__": bases})}
        created = _maker(kind).__new__(kind, name, resolved, body)
    return _inner._lookup_class_or_track(tracker, created)


def _is_rebuilt(cls: type) -> bool:
    return cls in _inner._DYNAMIC_CLASS_TRACKER_BY_CLASS


def _maker(kind: type) -> Any:
    """Return the metaclass from which a user's own derives; the latter has done its work."""
    return next(base for base in kind.__mro__ if not _is_rebuilt(base))


_HOOKS = ("__init_subclass__", "__pydantic_init_subclass__")


@contextmanager
def _without_hooks(bases: Sequence[Any]) -> Iterator[None]:
    """Create subclasses without the code that ran when they were defined, such as a registration.

    What that code has changed is shipped with the objects that it changed.
    """
    above = {cls for base in bases for cls in getattr(base, "__mro__", ()) if _is_rebuilt(cls)}
    hooks = [(cls, hook, vars(cls)[hook]) for cls in above for hook in _HOOKS if hook in vars(cls)]
    for cls, hook, _ in hooks:
        type.__setattr__(cls, hook, _skipped(cls, hook))
    try:
        yield
    finally:
        for cls, hook, own in hooks:
            type.__setattr__(cls, hook, own)


def _skipped(owner: type, hook: str) -> Any:
    def skip(cls: type, /, **kwargs: Any) -> None:
        getattr(super(owner, cls), hook)()

    return classmethod(skip)


def _parametrized(origin: Any, args: tuple[Any, ...], *arguments: Any) -> type:
    """Rebuild a parametrized generic model as the class that ``origin[args]`` is from now on."""
    try:
        from pydantic._internal import _generics
    except ImportError:
        return origin[args]  # type: ignore[no-any-return]
    known = _generics.get_cached_generic_type_early(origin, args)
    if known is None:
        known = _class(*arguments)
        _generics.set_cached_generic_type(origin, args, known, origin, args)
    return known


_VALUES = "__shipped_values__"


def _definition(cls: Any, tracker: Any) -> tuple[Any, ...]:
    """Return the arguments of `_enum`.

    Values follow with the state, since they may refer to the class; flags are numbers.
    """
    flags = issubclass(cls, enum.Flag)
    numbers = {id(member): n for n, member in enumerate(cls.__members__.values())}
    members = [
        (name, member.value if flags else numbers[id(member)], _content(member))
        for name, member in cls.__members__.items()
    ]
    boundary = {"boundary": cls._boundary_} if flags else {}
    return (
        type(cls),
        cls.__name__,
        cls.__bases__,
        {"__module__": cls.__module__, "__qualname__": cls.__qualname__},
        members,
        boundary,
        tracker,
    )


def _content(member: enum.Enum) -> tuple[Any, ...]:
    """Arguments with which the type that is mixed into an enum makes the content of a member."""
    mixed: Any = type(member)._member_type_  # type: ignore[attr-defined]
    if hasattr(mixed, "__getnewargs__"):
        return tuple(mixed.__getnewargs__(member))
    if mixed.__reduce__ is not object.__reduce__:
        return tuple(mixed.__reduce__(member)[1])
    return ()


def _enum_members(cls: type[enum.Enum], members: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of an enum but its members, whose own attributes are under `_VALUES`."""
    own = {
        name: {k: v for k, v in vars(member).items() if k not in _OF_ENUM}
        for name, member in cls.__members__.items()
        if member.name == name
    }
    others = {name: value for name, value in members.items() if name not in cls.__members__}
    return {
        **others,
        **{name: getattr(cls, name) for name in ("_new_member_", "_use_args_")},
        _VALUES: own,
    }


_OF_ENUM = {"__objclass__", "_name_", "_sort_order_"}


def _enum(
    kind: Any,
    name: str,
    bases: tuple[type, ...],
    namespace: Mapping[str, Any],
    members: Sequence[tuple[str, int, tuple[Any, ...]]],
    options: Mapping[str, Any],
    tracker: Any,
) -> Any:
    """Create an enum and its members, without calling ``__new__`` and ``__init__`` of its author.

    Members with the same number are aliases of each other.
    """
    if known := _known(tracker):
        return known
    numbered = iter(members)

    def new(cls: Any, *args: Any) -> Any:
        _, number, content = next(numbered)
        mixed = cls._member_type_
        member = mixed.__new__(cls, *content) if mixed is not object else object.__new__(cls)
        member.__dict__["_value_"] = number
        return member

    maker = _maker(kind)
    body = maker.__prepare__(name, bases)
    for key, value in namespace.items():
        body[key] = value
    body["__new__"], body["__init__"] = new, lambda self, *args: None
    for key, number, _ in members:
        body[key] = number
    with _without_hooks(bases):
        created = maker.__new__(kind, name, bases, body, **options)
    for key in ("__init__", "__new_member__"):
        if key in vars(created):
            delattr(created, key)
    return _inner._lookup_class_or_track(tracker, created)


def _set_values(cls: Any, values: Mapping[str, Mapping[str, Any]]) -> None:
    by_value: dict[Any, Any] = {}
    for name, attributes in values.items():
        member = cls._member_map_[name]
        vars(member).update(attributes)
        try:
            by_value.setdefault(member._value_, member)
        except TypeError:  # it is not hashable
            continue
    cls._value2member_map_ = by_value  # at once: another version may use it


def is_member(value: Any) -> bool:
    """Whether it is a member of an enum that has a name and is pickled in the usual way."""
    return (
        isinstance(value, enum.Enum)
        and type(value).__reduce_ex__ is enum.Enum.__reduce_ex__
        and value.name in type(value).__members__
    )


def reduced_member(member: enum.Enum) -> tuple[Any, ...]:
    """Return how to find a member: by name, since values may compare equal to nothing."""
    return _member, (type(member), member.name)


def _member(cls: type[enum.Enum], name: str) -> enum.Enum:
    return cls.__members__[name]


_entered: dict[str, dict[str, Any]] | None = None
"""What this process has entered into modules, by module and name; None if it does not."""


def enter_modules() -> None:
    """Have classes and functions be attributes of their modules when this process unpickles them.

    Annotations in quotes and pickles find them by these names. In a replica, the modules of a
    notebook are either Python's own ``__main__`` or do not exist.
    """
    global _entered
    if _entered is None:
        _entered = {}


def _enter(module: str, values: Mapping[str, Any]) -> None:
    """Set attributes of a module, but for those that have been set by other code."""
    if _entered is None or not values:
        return
    namespace = vars(_module(module))
    own = _entered.setdefault(module, {})
    for name, value in values.items():
        if name not in namespace or (name in own and namespace[name] is own[name]):
            namespace[name] = own[name] = value


def _module(name: str) -> types.ModuleType:
    """Return a module of this process, or one for classes whose module has not been imported."""
    module = sys.modules.get(name)
    if module is None:
        module = sys.modules[name] = types.ModuleType(name)
        vars(module)["__getattr__"] = functools.partial(_imported, module)
        parent, _, own = name.rpartition(".")
        if parent:
            vars(_module(parent)).setdefault(own, module)
    return module


def _imported(module: types.ModuleType, name: str) -> Any:
    """Execute a module of which only classes were shipped: other code needs the rest of it."""
    vars(module).pop("__getattr__", None)
    parent = module.__name__.rpartition(".")[0]
    path = list(sys.modules[parent].__path__) if parent else None
    spec = next((s for f in sys.meta_path if (s := f.find_spec(module.__name__, path, None))), None)
    if spec is not None and spec.loader is not None:
        shipped = dict(vars(module))
        vars(module).update(__spec__=spec, __file__=spec.origin, __loader__=spec.loader)
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        spec.loader.exec_module(module)
        own = (_entered or {}).get(module.__name__, {})
        vars(module).update({key: shipped[key] for key in own if key in shipped})
    if name in vars(module):
        return vars(module)[name]
    raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
