"""Value classes with the standard library's ``dataclass`` syntax and a fraction of its import cost.

``dataclasses`` imports ``inspect`` and compiles six methods for each class when it is defined: 8 ms and then 0.5 ms a
class, which is most of what a command that runs for every container spends. Here the methods are shared, and the only
one that is compiled, ``__init__``, is compiled when a few instances were made. Type checkers see a dataclass
(PEP 681).

Supported is what orlop's runtime uses: ``frozen``, ``slots``, defaults, ``field(default_factory=...)``, ``replace``,
``__post_init__``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object) -> object:
        """Change nothing, as the one of ``typing``, whose import would cost a started process 9 ms."""
        return lambda function: function


_MISSING: Any = object()
_made: list[type] = []
# instances that are cheaper to make without a compiled __init__, which costs as much as thirty of them
_FEW = 20
_uses: dict[type, int] = {}


class FrozenInstanceError(AttributeError):
    """An attribute of a frozen value was assigned."""


class Field:
    """The default of one field."""

    __slots__ = ("default", "default_factory")

    def __init__(self, default: object, default_factory: Callable[[], object] | None) -> None:
        self.default = default
        self.default_factory = default_factory


def field(*, default: Any = _MISSING, default_factory: Any = None) -> Any:
    """Give a field a default, or what makes one for each instance."""
    return Field(default, default_factory)


@dataclass_transform(field_specifiers=(field,))
def dataclass(cls: type | None = None, /, *, frozen: bool = False, slots: bool = False) -> Any:
    """Make a value class out of annotated attributes; see :func:`dataclasses.dataclass`."""

    def decorate(plain: type) -> type:
        return _make(plain, frozen=frozen, slots=slots)

    return decorate if cls is None else decorate(cls)


def _make(cls: type, *, frozen: bool, slots: bool) -> type:
    fields: dict[str, Field] = {}
    for base in reversed(cls.__mro__[1:]):
        fields.update(base.__dict__.get("__record_fields__", {}))
    own = {}
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if str(annotation).startswith(("ClassVar", "typing.ClassVar")):
            continue
        default = cls.__dict__.get(name, _MISSING)
        own[name] = default if isinstance(default, Field) else Field(default, None)
    fields.update(own)
    namespace = dict(cls.__dict__)
    for name, one in own.items():
        if slots or one.default is _MISSING:
            namespace.pop(name, None)
        else:
            namespace[name] = one.default
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    if slots:
        namespace["__slots__"] = tuple(own)
    namespace["__record_fields__"] = fields
    namespace.setdefault("__init__", _first_init)
    namespace.setdefault("__repr__", _repr)
    if "__eq__" not in namespace:
        namespace["__eq__"] = _eq
        namespace["__hash__"] = _hash if frozen else None
    if frozen:
        namespace["__setattr__"] = _refuse_set
        namespace["__delattr__"] = _refuse_delete
    made = type(cls)(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    _made.append(made)
    return made


def _first_init(self: object, *args: object, **kwargs: object) -> None:
    """Set the fields; of a class that is used again and again compile an ``__init__`` and put it in its place."""
    cls = type(self)
    while cls.__dict__.get("__init__") is not _first_init:
        cls = cls.__mro__[1]
    count = _uses[cls] = _uses.get(cls, 0) + 1
    if count > _FEW:
        _compile(cls)(self, *args, **kwargs)
        return
    fields: Mapping[str, Field] = cls.__record_fields__  # type: ignore[attr-defined]
    given = dict(zip(fields, args, strict=False))
    if len(args) > len(fields) or not given.keys().isdisjoint(kwargs) or not kwargs.keys() <= fields.keys():
        _compile(cls)(self, *args, **kwargs)  # which raises in Python's own words
        return
    given.update(kwargs)
    for name, one in fields.items():
        if name in given:
            value = given[name]
        elif one.default_factory is not None:
            value = one.default_factory()
        elif one.default is not _MISSING:
            value = one.default
        else:
            _compile(cls)(self, *args, **kwargs)
            return
        object.__setattr__(self, name, value)
    if hasattr(cls, "__post_init__"):
        self.__post_init__()  # type: ignore[attr-defined]


def compile_all() -> None:
    """Compile every ``__init__`` that was not used yet.

    For a process that forks: what a child compiles is lost with it, and each child would do it again.
    """
    for cls in _made:
        if cls.__dict__.get("__init__") is _first_init:
            _compile(cls)


def _compile(cls: type) -> Callable[..., None]:
    fields: Mapping[str, Field] = cls.__record_fields__  # type: ignore[attr-defined]
    scope: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": _MISSING}
    parameters, lines = [], []
    for name, one in fields.items():
        if one.default_factory is not None:
            scope[f"_f_{name}"] = one.default_factory
            parameters.append(f"{name}=_MISSING")
            value = f"_f_{name}() if {name} is _MISSING else {name}"
        elif one.default is not _MISSING:
            scope[f"_d_{name}"] = one.default
            parameters.append(f"{name}=_d_{name}")
            value = name
        else:
            parameters.append(name)
            value = name
        lines.append(f" _set(self, {name!r}, {value})\n")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()\n")
    source = f"def __init__(self, {', '.join(parameters)}):\n{''.join(lines) or ' pass'}"
    exec(source, scope)  # noqa: S102 - names of our own annotations, as in the standard library
    compiled: Callable[..., None] = scope["__init__"]
    compiled.__qualname__ = f"{cls.__qualname__}.__init__"
    type.__setattr__(cls, "__init__", compiled)
    return compiled


def _values(self: object) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name in self.__record_fields__])  # type: ignore[attr-defined]


def _repr(self: object) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__record_fields__)  # type: ignore[attr-defined]
    return f"{type(self).__qualname__}({shown})"


def _eq(self: object, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: object) -> int:
    return hash(_values(self))


def _refuse_set(_self: object, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(_self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def replace(value: T, /, **changes: object) -> T:
    """Return a copy of a value with some fields changed."""
    for name in value.__record_fields__:  # type: ignore[attr-defined]
        changes.setdefault(name, getattr(value, name))
    return type(value)(**changes)
