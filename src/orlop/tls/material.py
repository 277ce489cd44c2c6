"""Certificates and keys of files, as contexts; what is wrong with a file is told as Go's crypto/tls tells it.

TLS 1.2 is the least, nothing is renegotiated, and a passphrase is never asked for (docker/go-connections, tlsconfig).
"""

from __future__ import annotations

import ssl

from orlop.errors import InvalidParameterError

_LIMIT = 4 << 20
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class MaterialError(InvalidParameterError):
    """A file cannot be read, or is not what it should be.

    Attributes:
        missing: it is not there.
    """

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


def server_context(certificate: str, key: str, authority: str | None) -> ssl.SSLContext:
    """Return the context of an engine.

    Args:
        certificate: path of its certificate, followed by what leads to its authority.
        key: path of the private key.
        authority: path of the certificates that sign those of clients, who must then show one; None: nobody must.

    Raises:
        InvalidParameterError: in dockerd's words.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    try:
        load_pair(context, certificate, key)
    except MaterialError as error:
        pair = f'X509 key pair (cert: "{certificate}", key: "{key}"): {error}'
        words = (
            f"Could not load {pair}" if error.missing else f"Error reading {pair}. Make sure the key is not encrypted."
        )
        raise InvalidParameterError(words) from None
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            data = read(authority)
        except MaterialError as error:
            raise InvalidParameterError(f'could not read CA certificate "{authority}": {error}') from None
        if not load_authority(context, data):
            raise InvalidParameterError(f'failed to append certificates from PEM file: "{authority}"')
    return context


def client_context(*, authority: str = "", certificate: str = "", key: str = "", verify: bool = True) -> ssl.SSLContext:
    """Return the context of a client.

    Args:
        authority: path of the certificates that sign the engine's; empty: those of the system.
        certificate: path of the client's own; empty for none.
        key: path of its private key.
        verify: whether the engine's certificate must be of the authority and name the host; if not, the connection is
            private and may be anybody's.

    Raises:
        InvalidParameterError: in the docker client's words.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if authority and not load_authority(context, read(authority)):
        raise InvalidParameterError("failed to retrieve context tls info: ca.pem seems invalid")
    if not authority:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certificate or key:
        try:
            load_pair(context, certificate, key)
        except MaterialError as error:
            if error.missing:
                raise
            raise InvalidParameterError(f"failed to retrieve context tls info: {error}") from None
    return context


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load a certificate and its key.

    Raises:
        MaterialError: says which of the two is wrong.
    """
    if _CERTIFICATE not in read(certificate):
        raise MaterialError("tls: failed to find any PEM data in certificate input")
    if b"PRIVATE KEY-----" not in read(key):
        raise MaterialError("tls: failed to find any PEM data in key input")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise MaterialError("tls: private key does not match public key") from None
        if error.reason in ("KEY_TYPE_MISMATCH", "UNKNOWN_KEY_TYPE"):
            raise MaterialError("tls: private key type does not match public key type") from None
        if error.reason and error.reason.endswith(("KEY_TOO_SMALL", "MD_TOO_WEAK")):
            raise MaterialError(f"tls: {error.reason.lower().replace('_', ' ')}") from None
        raise MaterialError("tls: failed to parse certificate or private key") from None
    except _EncryptedError:
        raise MaterialError("tls: failed to parse private key") from None
    except OSError as error:
        raise MaterialError(f"{error.filename or certificate}: {(error.strerror or str(error)).lower()}") from None


def load_authority(context: ssl.SSLContext, data: bytes) -> bool:
    """Trust the certificates of a PEM file; whether there was one."""
    if _CERTIFICATE not in data:
        return False
    try:
        context.load_verify_locations(cadata=data.decode("ascii", "replace"))
    except ssl.SSLError:
        return False
    return True


def read(path: str) -> bytes:
    """Return what is in a file of certificates or keys.

    Raises:
        MaterialError: "open PATH: no such file or directory" and the like.
    """
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT)
    except IsADirectoryError:
        raise MaterialError(f"read {path}: is a directory") from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise MaterialError(f"open {path}: {reason}", missing=isinstance(error, FileNotFoundError)) from None


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    """Take OpenSSL's question for a passphrase, which it would ask at the terminal."""
    raise _EncryptedError


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context
