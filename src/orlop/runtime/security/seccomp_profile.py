"""Docker's seccomp profiles: which of their rules hold for a container, as OCI ``linux.seccomp``.

The format is moby's ``profiles/seccomp``: rules may include or exclude capabilities, architectures (Go's names) and
kernel versions. Selection happens in the engine, once per container; see docs of ``--security-opt seccomp=``.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel.syscall import MACHINE
from orlop.primitives.json_text import loads
from orlop.runtime.security.data.default_profile import DOCUMENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.spec.json import JsonObject, JsonValue

MAX_PROFILE_BYTES = 1 << 20

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

_PROFILE_KEYS = frozenset(
    {
        *("defaultAction", "defaultErrnoRet", "architectures", "archMap", "syscalls", "flags", "comment"),
        *("listenerPath", "listenerMetadata"),
    }
)
_RULE_KEYS = frozenset({"name", "names", "action", "errnoRet", "args", "comment", "includes", "excludes"})
_FILTER_KEYS = frozenset({"caps", "arches", "minKernel"})

_default: JsonObject = {}
_selected: dict[tuple[frozenset[str], str], JsonObject] = {}


def default_seccomp(capabilities: Iterable[str], *, machine: str = MACHINE) -> JsonObject:
    """Return OCI ``linux.seccomp`` of Docker's default profile for a bounding set of ``CAP_`` names.

    The value is shared by all containers that lead to the same rules: do not change it.
    """
    if not _default:
        _default.update(loads(DOCUMENT))
    key = (_mentioned(_default).intersection(capabilities), machine)
    found = _selected.get(key)
    if found is None:
        found = _selected[key] = select(_default, key[0], machine=machine)
    return found


def custom_seccomp(document: str, capabilities: Iterable[str], *, machine: str = MACHINE) -> JsonObject:
    """Return OCI ``linux.seccomp`` of the profile that a client sent.

    Raises:
        InvalidParameterError: not a profile; "Decoding seccomp profile failed: ..." as Docker says.
    """
    if len(document) > MAX_PROFILE_BYTES:
        raise InvalidParameterError(f"seccomp profile is larger than {MAX_PROFILE_BYTES} bytes")
    try:
        profile = loads(document, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidParameterError(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidParameterError("Decoding seccomp profile failed: not an object")
    return select(profile, frozenset(capabilities), machine=machine)


def select(profile: JsonObject, capabilities: frozenset[str], *, machine: str = MACHINE) -> JsonObject:
    """Return the rules of a profile that hold, in OCI's form.

    Raises:
        InvalidParameterError: a key is unknown, has another type, or contradicts another.
    """
    _known(profile, _PROFILE_KEYS, "seccomp profile")
    native = _NATIVE.get(machine)
    if native is None:
        raise UnsupportedError(f"seccomp filters are not supported on this machine: {machine}")
    architectures = list(_list(profile, "architectures"))
    mapped = _list(profile, "archMap")
    if architectures and mapped:
        raise InvalidParameterError(_BOTH.format("architectures", "archMap", "architectures", "archMap"))
    for entry in mapped:
        item = _object(entry, "archMap")
        if item.get("architecture") == native:
            architectures = [native, *_list(item, "subArchitectures")]
    selected: JsonObject = {"defaultAction": profile.get("defaultAction", "")}
    if profile.get("defaultErrnoRet") is not None:
        selected["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if architectures:
        selected["architectures"] = architectures
    if profile.get("flags"):
        selected["flags"] = _list(profile, "flags")
    for key in ("listenerPath", "listenerMetadata"):
        if profile.get(key):
            selected[key] = profile[key]
    rules: list[JsonValue] = []
    for entry in _list(profile, "syscalls"):
        rule = _object(entry, "syscalls")
        if _holds(rule, capabilities, machine):
            rules.append(_oci_rule(rule))
    if rules:
        selected["syscalls"] = rules
    return selected


_BOTH = "both '{}' and '{}' are specified in the seccomp profile, use either '{}' or '{}'"


def _oci_rule(rule: JsonObject) -> JsonObject:
    names = _list(rule, "names")
    if rule.get("name"):
        if names:
            raise InvalidParameterError(_BOTH.format("name", "names", "name", "names"))
        names = [rule["name"]]
    selected: JsonObject = {"names": names, "action": rule.get("action", "")}
    if rule.get("errnoRet") is not None:
        selected["errnoRet"] = rule["errnoRet"]
    arguments = _list(rule, "args")
    if arguments:
        selected["args"] = arguments
    return selected


def _holds(rule: JsonObject, capabilities: frozenset[str], machine: str) -> bool:
    _known(rule, _RULE_KEYS, "seccomp rule")
    includes = _object(rule.get("includes") or {}, "includes")
    excludes = _object(rule.get("excludes") or {}, "excludes")
    _known(includes, _FILTER_KEYS, "includes")
    _known(excludes, _FILTER_KEYS, "excludes")
    architecture = _GO_ARCHITECTURES[machine]
    if architecture in _list(excludes, "arches") or capabilities.intersection(_strings(excludes, "caps")):
        return False
    if excludes.get("minKernel") and _kernel_at_least(excludes["minKernel"]):
        return False
    wanted = _list(includes, "arches")
    if wanted and architecture not in wanted:
        return False
    if not capabilities.issuperset(_strings(includes, "caps")):
        return False
    return not includes.get("minKernel") or _kernel_at_least(includes["minKernel"])


def _kernel_at_least(version: JsonValue) -> bool:
    wanted = _version(version) if isinstance(version, str) else None
    if wanted is None:
        raise InvalidParameterError(f"invalid kernel version in seccomp profile: {version!r:.40}")
    running = _version(os.uname().release)
    return running is not None and running >= wanted


def _version(text: str) -> tuple[int, int] | None:
    """Return major and minor of ``6.1``, ``6.1.0-13-amd64`` and the like."""
    parts = text.split(".", 2)
    if len(parts) < 2:
        return None
    minor = parts[1].split("-", 1)[0].split("+", 1)[0]
    if not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in (parts[0], minor)):
        return None
    return int(parts[0]), int(minor)


def _mentioned(profile: JsonObject) -> frozenset[str]:
    """Return the capabilities that any rule depends on."""
    found: set[str] = set()
    for entry in _list(profile, "syscalls"):
        for side in ("includes", "excludes"):
            found.update(_strings(_object(_object(entry, "syscalls").get(side) or {}, side), "caps"))
    return frozenset(found)


def _known(value: JsonObject, keys: frozenset[str], what: str) -> None:
    unknown = value.keys() - keys
    if unknown:
        # a misspelt key would silently weaken the filter (threats.md C10)
        raise InvalidParameterError(f"{what}: unknown key: {min(unknown)!r:.80}")


def _list(value: JsonObject, key: str) -> list[JsonValue]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise InvalidParameterError(f"seccomp profile: not a list: {key}")
    return found


def _strings(value: JsonObject, key: str) -> list[str]:
    found = _list(value, key)
    texts = [item for item in found if isinstance(item, str)]
    if len(texts) != len(found):
        raise InvalidParameterError(f"seccomp profile: not a list of strings: {key}")
    return texts


def _object(value: JsonValue, key: str) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidParameterError(f"seccomp profile: not an object: {key}")
    return value


def _without_duplicates(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> JsonValue:
    raise ValueError(f"not a JSON number: {name}")
