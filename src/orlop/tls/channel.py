"""One side of a TLS connection without input or output: ciphertext in, plaintext out, and the other way round.

::

    handshaking --handshake() is True--> open --close_notify of the peer--> ended   (what we write still goes out)
                                          |
                                          +--close()--> closing                  (what the peer writes still comes in)

Either side may end what it sends and go on to receive (RFC 8446, 6.1): ``docker run -i`` tells so that its standard
input ended. Python's SSLSocket cannot say "I am done" without waiting for the peer to be done, asyncio's transport
answers the peer's end with its own; OpenSSL underneath can do both.
"""

from __future__ import annotations

import ssl

_RECORD = 1 << 16
_ALERTS = {  # what Go calls them
    "CERTIFICATE_REQUIRED": "certificate required",
    "BAD_CERTIFICATE": "bad certificate",
    "UNKNOWN_CA": "unknown certificate authority",
    "CERTIFICATE_EXPIRED": "expired certificate",
    "CERTIFICATE_REVOKED": "revoked certificate",
    "CERTIFICATE_UNKNOWN": "unknown certificate",
    "UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "HANDSHAKE_FAILURE": "handshake failure",
    "PROTOCOL_VERSION": "protocol version not supported",
}
_UNTRUSTED = {18, 19, 20, 21}  # X509_V_ERR_*: self-signed, or signed by nobody known
_OUT_OF_DATE = {9, 10}
_OTHER_HOST = {62, 64}


class Channel:
    """One side of a connection.

    Args:
        context: certificates and what is demanded of the peer's.
        server: which side this is.
        host: whom a client means to speak to.

    Attributes:
        ended: the peer sent close_notify: nothing more comes.
        broken: what :meth:`read` would raise, were there not what came before it.
    """

    def __init__(self, context: ssl.SSLContext, *, server: bool, host: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=host)
        self._closing = False
        self.broken: ssl.SSLError | None = None
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take ciphertext that the peer sent."""
        self._incoming.write(data)

    def take(self) -> bytes:
        """Return the ciphertext that is to be sent; also after an error, which the peer is told."""
        return self._outgoing.read()

    def handshake(self) -> bool:
        """Go on as far as possible; True when it is done.

        Raises:
            ssl.SSLError: the peer speaks no TLS, or its certificate is not good enough.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self) -> bytes:
        """Return the plaintext of all whole records that were fed; sets ``ended``.

        Raises:
            ssl.SSLError: an alert, or records that the peer did not send, and nothing before it.
        """
        found: list[bytes] = []
        while not self.ended:
            try:
                data = self._object.read(_RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                if not found:
                    raise
                self.broken = error
                break
            if data:
                found.append(data)
            else:
                self.ended = True
        return b"".join(found)

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt, for :meth:`take`.

        Raises:
            ssl.SSLError: the connection is broken.
        """
        self._object.write(data)

    def close(self) -> None:
        """End what this side sends; the peer's bytes still come. All that was fed must have been read."""
        if self._closing:
            return
        self._closing = True
        try:
            self._object.unwrap()
        except ssl.SSLError:
            return  # the alert is on its way; that the peer's has not come is no error here


def describe(error: ssl.SSLError, host: str = "") -> str:
    """Tell what went wrong in a handshake, in the words of Go's clients and servers."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_verification(error, host)}"
    if "_ALERT_" in reason:
        name = reason.partition("_ALERT_")[2]
        return f"remote error: tls: {_ALERTS.get(name, name.lower().replace('_', ' '))}"
    if reason == "HTTP_REQUEST":
        return "client sent an HTTP request to an HTTPS server"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "tls: client didn't provide a certificate"
    if reason in ("UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "VERSION_TOO_LOW"):
        return "tls: client offered only unsupported versions"
    if reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"):
        return "tls: first record does not look like a TLS handshake"
    return f"tls: {reason.lower().replace('_', ' ') or error}"


def _verification(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in _UNTRUSTED:
        return "certificate signed by unknown authority"
    if error.verify_code in _OUT_OF_DATE:
        return f"certificate has expired or is not yet valid: {error.verify_message}"
    if error.verify_code in _OTHER_HOST:
        return f"certificate is not valid for {host}"
    return error.verify_message
