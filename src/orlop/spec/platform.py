"""Platforms of images: ``os[/architecture[/variant]]``, and which one suits which machine (containerd's platforms)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from orlop.errors import InvalidParameterError

_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "armel": "arm",
    "i386": "386",
    "i686": "386",
    "mips64el": "mips64le",
    "loongarch64": "loong64",
}
_IMPLIED = {"armhf": "v7", "armv7l": "v7", "armv6l": "v6", "armel": "v6"}
_ARCHITECTURES = frozenset(
    {"amd64", "arm64", "arm", "386", "ppc64", "ppc64le", "s390x", "riscv64", "mips64le", "loong64", "wasm"}
)
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "wasi"})
_ARM = ("v8", "v7", "v6", "v5")


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, architecture and variant, normalised: arm64 is v8 by itself, arm is v7, amd64 is v1."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        shown = self.variant or ("v8" if self.architecture == "arm64" else "")
        return "/".join(part for part in (self.os, self.architecture, shown) if part)

    @classmethod
    def of(cls, system: str, architecture: str, variant: str = "") -> Platform:
        """Make one of what a document says."""
        name = architecture.lower()
        variant = (variant or _IMPLIED.get(name, "")).lower()
        name = _ALIASES.get(name, name)
        if (name, variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
            variant = ""
        elif name == "arm":
            variant = f"v{variant}" if variant.isascii() and variant.isdigit() else variant or "v7"
        return cls(system.lower(), name, variant)

    @classmethod
    def host(cls) -> Platform:
        """Return this machine's."""
        return cls.of("linux", os.uname().machine)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read what a user wrote; what is missing is this machine's.

        Raises:
            InvalidParameterError: in containerd's words.
        """
        host = cls.host()
        parts = text.lower().split("/")
        match parts:
            case [only] if only in _SYSTEMS:
                return cls(only, host.architecture, host.variant)
            case [only] if _ALIASES.get(only, only) in _ARCHITECTURES:
                return cls.of(host.os, only)
            case [system, architecture, *rest] if (
                system in _SYSTEMS and _ALIASES.get(architecture, architecture) in _ARCHITECTURES and len(rest) <= 1
            ):
                return cls.of(system, architecture, *rest)
            case _:
                raise InvalidParameterError(f'"{text}": unknown operating system or architecture: invalid argument')

    def candidates(self) -> tuple[Platform, ...]:
        """Return what a machine of this platform runs, best first."""
        if self.architecture == "amd64":
            level = int(self.variant[1:3]) if self.variant.isascii() and self.variant[1:].isdigit() else 1
            lower = (Platform(self.os, "amd64", f"v{number}" if number > 1 else "") for number in range(level, 0, -1))
            return (*lower, Platform(self.os, "386"))
        if self.architecture == "arm64" and not self.variant:
            return (self, *(Platform(self.os, "arm", variant) for variant in _ARM))
        if self.architecture == "arm" and self.variant in _ARM:
            return tuple(Platform(self.os, "arm", variant) for variant in _ARM[_ARM.index(self.variant) :])
        return (self,)
