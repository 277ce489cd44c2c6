"""``--security-opt``: Docker's list of strings as one value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.security.lsm import UNCONFINED, check_apparmor, check_selinux
from orlop.spec.record import dataclass
from orlop.spec.truth import find_bool

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class SecurityOptions:
    """What a container's security options mean.

    Attributes:
        seccomp: empty for Docker's default profile, "unconfined", or a profile's JSON text.
        no_new_privileges: asked for; when nothing was said the daemon's default counts.
        system_paths_unconfined: no masked and no read-only paths.
        apparmor: profile, "unconfined", or empty for the engine's own.
    """

    seccomp: str = ""
    no_new_privileges: bool = False
    system_paths_unconfined: bool = False
    apparmor: str = ""


def parse_security_options(given: Sequence[str], *, privileged: bool = False) -> SecurityOptions:
    """Read the options in order; of one that is named twice the last counts, as in Docker.

    Args:
        given: as the API has them: ``no-new-privileges``, ``seccomp=<json>``, ``systempaths=unconfined``. The
            separator ``:`` is Docker's old one.
        privileged: no filter unless one is asked for, and no hidden paths.

    Raises:
        InvalidParameterError: an unknown option or value: 'invalid --security-opt 2: "x"'; a profile without AppArmor.
        UnsupportedError: a label of SELinux.
    """
    seccomp = UNCONFINED if privileged else ""
    no_new_privileges: bool = False
    unconfined_paths = privileged
    apparmor = UNCONFINED if privileged else ""
    for option in given:
        key, value = _split(option)
        if key == "no-new-privileges":
            no_new_privileges = _boolean(value, option)
        elif key == "seccomp":
            seccomp = _seccomp(value, option)
        elif key == "systempaths" and value == UNCONFINED:
            unconfined_paths = True
        elif key == "apparmor" and value:
            check_apparmor(value)
            apparmor = value
        elif key == "label" and value:
            _refuse_label(value)
        elif key != "disable":
            raise _invalid(option)
    return SecurityOptions(seccomp, no_new_privileges, unconfined_paths, apparmor)


def _refuse_label(value: str) -> None:
    """Labels of the engine's containers would need those of their layers and volumes as well."""
    if value == "disable":
        return
    check_selinux(value)
    raise UnsupportedError(f"SELinux labels are not supported by the engine: {value}")


def _split(option: str) -> tuple[str, str]:
    if option in {"no-new-privileges", "disable"}:
        return option, "true"
    separator = "=" if "=" in option else ":"
    key, found, value = option.partition(separator)
    if not found:
        raise InvalidParameterError(f'invalid --security-opt 1: "{option[:200]}"')
    return key, value


def _boolean(value: str, option: str) -> bool:
    truth = find_bool(value)
    if truth is None:
        raise _invalid(option)
    return truth


def _seccomp(value: str, option: str) -> str:
    if value == "builtin":
        return ""
    if value == UNCONFINED or value.lstrip().startswith("{"):
        return value
    raise _invalid(option)


def _invalid(option: str) -> InvalidParameterError:
    return InvalidParameterError(f'invalid --security-opt 2: "{option[:200]}"')
