"""Value classes with the standard library's ``dataclass`` syntax and a fraction of its import cost.

``dataclasses`` imports ``inspect`` and compiles six methods for each class when it is defined: 8 ms and then 0.5 ms a
class, which is most of what a command that runs for every container spends. Here the methods are shared, the only
one that is compiled, ``__init__``, is compiled when a few instances were made, and fields are looked for when there is
the first one: most classes of a start never have any. The class itself is changed, not made again, as ``slots`` would
need. Type checkers see a dataclass (PEP 681).

Supported is what orlop's runtime uses: ``frozen``, defaults, ``field(default_factory=...)``, ``replace``,
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
def dataclass(cls: type | None = None, /, *, frozen: bool = False) -> Any:
    """Make a value class out of annotated attributes; see :func:`dataclasses.dataclass`."""

    def decorate(plain: Any) -> type:
        return _adapt(plain, frozen=frozen)

    return decorate if cls is None else decorate(cls)


def _adapt(cls: Any, *, frozen: bool) -> type:
    given = cls.__dict__
    cls.__record_fields__ = None
    if "__init__" not in given:
        cls.__init__ = _first_init
    if "__repr__" not in given:
        cls.__repr__ = _repr
    if "__eq__" not in given:
        cls.__eq__ = _eq
        cls.__hash__ = _hash if frozen else None
    if frozen:
        cls.__setattr__ = _refuse_set
        cls.__delattr__ = _refuse_delete
    _made.append(cls)
    return cls  # type: ignore[no-any-return]


def is_record(cls: type) -> bool:
    """Whether it is a value class of this module's, or one beneath."""
    return hasattr(cls, "__record_fields__")


def fields(cls: Any) -> Mapping[str, Field]:
    """Return the fields of a value class by name, those of its bases first."""
    while "__record_fields__" not in cls.__dict__:  # a class beneath one
        cls = cls.__mro__[1]
    found: dict[str, Field] | None = cls.__dict__["__record_fields__"]
    if found is not None:
        return found
    found = {}
    for base in reversed(cls.__mro__[1:]):
        if "__record_fields__" in base.__dict__:
            found.update(fields(base))
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if annotation.startswith("ClassVar"):
            continue
        default = cls.__dict__.get(name, _MISSING)
        if isinstance(default, Field):
            found[name] = default
            delattr(cls, name)
        else:
            found[name] = Field(default, None)
    cls.__record_fields__ = found
    return found


def _first_init(self: object, *args: object, **kwargs: object) -> None:
    """Set the fields; of a class that is used again and again compile an ``__init__`` and put it in its place."""
    cls = type(self)
    while cls.__dict__.get("__init__") is not _first_init:
        cls = cls.__mro__[1]
    count = _uses[cls] = _uses.get(cls, 0) + 1
    if count > _FEW:
        _compile(cls)(self, *args, **kwargs)
        return
    own = fields(cls)
    given = dict(zip(own, args, strict=False))
    if len(args) > len(own) or not given.keys().isdisjoint(kwargs) or not kwargs.keys() <= own.keys():
        _compile(cls)(self, *args, **kwargs)  # which raises in Python's own words
        return
    given.update(kwargs)
    for name, one in own.items():
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
    scope: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": _MISSING}
    parameters, lines = [], []
    for name, one in fields(cls).items():
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
    return tuple([getattr(self, name) for name in fields(type(self))])


def _repr(self: object) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields(type(self)))
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
    for name in fields(type(value)):
        changes.setdefault(name, getattr(value, name))
    return type(value)(**changes)
