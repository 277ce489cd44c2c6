"""Image references: the grammar of github.com/distribution/reference, and Docker's short ("familiar") names.

::

    reference  = name [ ":" tag ] [ "@" digest ]
    name       = [ domain "/" ] component *( "/" component )
    domain     = host [ ":" port ]          only if it holds "." or ":", is "localhost", or has an upper-case letter
    component  = alnum *( ( "." | "_" | "__" | 1*"-" ) alnum )
    tag        = word *127( word | "." | "-" )

Every pattern here consumes its input once, without nested ambiguity, so that parsing takes time linear in the length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from orlop.errors import InvalidParameterError
from orlop.spec.digest import Digest

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
DEFAULT_TAG = "latest"
NAME_LIMIT = 255

_COMPONENT = re.compile("[a-z0-9]+(?:(?:[.]|__?|-+)[a-z0-9]+)*")
_DOMAIN_LABEL = re.compile("[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_IPV6 = re.compile(r"\[[a-fA-F0-9:]+\]")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX64 = re.compile("[a-f0-9]{64}")
_INPUT_LIMIT = 4096
_BAD = "invalid reference format"


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A normalised image reference.

    Attributes:
        domain: the registry's host and port; ``docker.io`` when none was written.
        path: the repository's path in it; ``library/busybox`` for ``busybox``.
        tag: the tag, or None.
        digest: the digest, or None.
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The repository's full name, ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository's name as Docker shows it, ``busybox``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        if "/" not in rest:
            return rest
        # "docker.io/a.b/c" cannot be shortened: "a.b/c" is another registry's (Docker shortens it all the same).
        return self.name if _is_host(self.path.partition("/")[0]) else self.path

    @property
    def familiar(self) -> str:
        """The whole reference as Docker shows it, ``busybox:latest``."""
        return self._with_suffix(self.familiar_name)

    def __str__(self) -> str:
        return self._with_suffix(self.name)

    def _with_suffix(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{name}{tag}{digest}"

    def with_default_tag(self) -> Reference:
        """Return this reference, with ``latest`` when it has neither tag nor digest."""
        return self if self.tag is not None or self.digest is not None else replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """Return this repository with another tag and no digest.

        Raises:
            InvalidParameterError: "invalid tag format".
        """
        if not _TAG.fullmatch(tag):
            raise InvalidParameterError("invalid tag format")
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        """Return this repository with a digest and no tag."""
        return replace(self, tag=None, digest=digest)


def parse_reference(text: str) -> Reference:
    """Read a reference as a user writes it, and normalise its name; no default tag is added.

    Raises:
        InvalidParameterError: with Docker's words.
    """
    if _HEX64.fullmatch(text):
        raise InvalidParameterError(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings",
        )
    if not text or len(text) > _INPUT_LIMIT:
        raise InvalidParameterError(_BAD)
    name, at, digest_text = text.partition("@")
    name, tag = _split_tag(name)
    domain, path = _split_domain(name)
    if path.lower() != path:
        raise InvalidParameterError(f"{_BAD}: repository name ({path}) must be lowercase")
    if tag is not None and not _TAG.fullmatch(tag):
        raise InvalidParameterError(_BAD)
    if not _is_domain(domain) or not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        raise InvalidParameterError(_BAD)
    if len(path) > NAME_LIMIT:
        raise InvalidParameterError(f"repository name must not be more than {NAME_LIMIT} characters")
    return Reference(domain, path, tag, _parse_digest(digest_text) if at else None)


def is_valid_tag(tag: str) -> bool:
    """Tell whether ``tag`` is a well-formed tag."""
    return _TAG.fullmatch(tag) is not None


def _split_tag(name: str) -> tuple[str, str | None]:
    head, colon, tail = name.rpartition(":")
    if not colon or "/" in tail:
        return name, None
    return head, tail


def _split_domain(name: str) -> tuple[str, str]:
    domain, slash, path = name.partition("/")
    if not slash or not _is_host(domain):
        domain, path = DEFAULT_DOMAIN, name
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _is_host(first: str) -> bool:
    """Tell whether the first part of a name with slashes is a registry's host."""
    return "." in first or ":" in first or first == "localhost" or first.lower() != first


def _is_domain(domain: str) -> bool:
    host, port = domain, None
    if domain.startswith("["):
        end = domain.rfind("]")
        host, rest = domain[: end + 1], domain[end + 1 :]
        if rest:
            if not rest.startswith(":"):
                return False
            port = rest[1:]
        valid = _IPV6.fullmatch(host) is not None
    else:
        host, colon, tail = domain.partition(":")
        port = tail if colon else None
        valid = all(_DOMAIN_LABEL.fullmatch(label) for label in host.split("."))
    return valid and (port is None or (port.isascii() and port.isdigit()))


def _parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidParameterError:
        raise InvalidParameterError(_BAD) from None
