"""Whether an image is for the platform that was asked for: ``linux/arm64/v8``, ``linux``, ``arm64``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from orlop.spec.image import ImageConfig

_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "i386": "386"}
_ARCHITECTURES = frozenset({"amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "mips64le", "loong64"})
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})


def require_platform(wanted: str, reference: str, image: ImageConfig) -> None:
    """Refuse an image of another platform.

    Raises:
        InvalidParameterError: ``wanted`` is not a platform.
        NotFoundError: the image is of another one; clients pull upon it, as with dockerd.
    """
    if not wanted:
        return
    system, architecture = _parse(wanted)
    if (not system or system == image.os) and (not architecture or architecture == image.architecture):
        return
    raise NotFoundError(
        f"image with reference {reference} was found but does not match the specified platform:"
        f" wanted {wanted}, actual: {image.os}/{image.architecture}"
    )


def _parse(text: str) -> tuple[str, str]:
    parts = [_ALIASES.get(part, part) for part in text.lower().split("/")]
    match parts:
        case [only] if only in _SYSTEMS:
            return only, ""
        case [only] if only in _ARCHITECTURES:
            return "", only
        case [system, architecture, *rest] if system in _SYSTEMS and len(rest) <= 1:
            return system, architecture
        case _:
            raise InvalidParameterError(f'"{text}": unknown operating system or architecture: invalid argument')
