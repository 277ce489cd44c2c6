"""What Go's decoder makes of JSON: ``null`` is a member's zero value, and a name is known in upper and lower case.

Clients rely on it: docker-py sends ``"Interval": null`` for every time of a health check that was not chosen, and
``detachKeys`` for an exec. msgspec is strict, and fast; a body that it refuses, or with names that are not known, is
put right here and decoded again, so that no other body pays for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import inspect

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    import msgspec

    from orlop.spec.json import JsonValue


@lru_cache(maxsize=64)
def _type_of(model: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(model)


@lru_cache(maxsize=64)
def _members(model: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(model.__struct_encode_fields__)


def spelled(value: dict[str, JsonValue], model: type[msgspec.Struct], *more: str) -> dict[str, JsonValue]:
    """Return an object with the struct's own spelling of its names (and of ``more``); other names stay."""
    known = _members(model).union(more)
    if value.keys() <= known:
        return value
    folded = {name.lower(): name for name in known}
    strange = {folded.get(name.lower(), name): item for name, item in value.items() if name not in known}
    return {**strange, **{name: item for name, item in value.items() if name in known}}


def require_int64(value: object) -> None:
    """Refuse numbers that Go's int64 does not hold; the body's size bounds the walk, its decoder the depth."""
    if isinstance(value, dict):
        for item in value.values():
            require_int64(item)
    elif isinstance(value, list):
        for item in value:
            require_int64(item)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidParameterError("invalid JSON: number out of range of int64")


def go_values(value: object, model: type[msgspec.Struct]) -> object:
    """Return plain JSON with zero values where ``model`` has no place for ``null``, and for what it requires."""
    return _put_right(value, _type_of(model))


def _put_right(value: object, kind: inspect.Type) -> object:
    match kind:
        case inspect.UnionType():
            if value is None and any(isinstance(one, inspect.NoneType) for one in kind.types):
                return None
            others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            return _put_right(value, others[0]) if len(others) == 1 else value
        case inspect.StructType():
            return _put_struct_right(value, kind)
        case inspect.DictType() if isinstance(value, dict):
            return {key: _put_right(item, kind.value_type) for key, item in value.items()}
        case inspect.ListType() if isinstance(value, list):
            return [_put_right(item, kind.item_type) for item in value]
        case _:
            return _zero(kind) if value is None else value


def _put_struct_right(value: object, kind: inspect.StructType) -> object:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        return value
    fields = {field.encode_name: field for field in kind.fields}
    folded = {name.lower(): name for name in fields}
    result = {}
    for given, item in sorted(value.items(), key=lambda pair: pair[0] in fields):  # what is spelled right counts
        name = folded.get(str(given).lower(), str(given))
        field = fields.get(name)
        if field is not None and not (item is None and not field.required and not _may_be_null(field.type)):
            result[name] = _put_right(item, field.type)
    for name, field in fields.items():
        if field.required and name not in result:
            result[name] = _put_right(None, field.type)
    return result


def _may_be_null(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.UnionType) and any(isinstance(one, inspect.NoneType) for one in kind.types)


def _zero(kind: inspect.Type) -> object:
    match kind:
        case inspect.StrType():
            return ""
        case inspect.BoolType():
            return False
        case inspect.IntType() | inspect.FloatType():
            return 0
        case inspect.DictType():
            return {}
        case inspect.ListType():
            return []
        case _:
            return None
