"""Private keys of files, for builds that sign with them (``build --ssh default=PATH``).

Reading and signing is the work of ``cryptography``, which only this needs: it is loaded when a key is named, and comes
with ``orlop[ssh]``. A file is read once, on the user's machine; nothing of a private key ever goes to the engine.
"""

from __future__ import annotations

from orlop.cli.invocation import CommandError
from orlop.cli.ssh_agent import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    Key = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

_LIMIT = 100 << 10  # bytes of a file, as in BuildKit
_SHA256, _SHA512 = 2, 4  # flags of a request (RFC 8332, and the agent's protocol)
_CURVES = {"secp256r1": ("nistp256", 256), "secp384r1": ("nistp384", 384), "secp521r1": ("nistp521", 512)}


class FileKey:
    """Fulfils ``ssh_agent.SigningKey``."""

    def __init__(self, key: Key, public: bytes) -> None:
        self._key = key
        self.public = public

    def sign(self, data: bytes, flags: int) -> bytes:
        """Return the algorithm's name and the signature, as strings of SSH."""
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        if isinstance(self._key, RSAPrivateKey):
            return _sign_rsa(self._key, data, flags)
        if isinstance(self._key, EllipticCurvePrivateKey):
            return _sign_ecdsa(self._key, data)
        return text(b"ssh-ed25519") + text(self._key.sign(data))


def read_key(path: str) -> FileKey:
    """Read an Ed25519, ECDSA or RSA key, as OpenSSH or PEM have it. Raises CommandError, in BuildKit's words."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT)
    except OSError as error:
        raise CommandError(f"--ssh {path}: {(error.strerror or '').lower()}") from None
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
    except ImportError:
        raise CommandError(
            f"--ssh with a key needs the Python package cryptography (orlop[ssh]): {path}: install it, or add the key "
            "to an agent and name its socket"
        ) from None
    if b"PRIVATE KEY-----" not in data:
        raise CommandError(f"failed to parse {path}: ssh: no key found")
    load = load_ssh_private_key if b"-----BEGIN OPENSSH PRIVATE KEY-----" in data else load_pem_private_key
    try:
        return _file_key(load(data, None), path)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        # Which of them says that a password is missing has changed from one version to another.
        if isinstance(error, TypeError) or "password" in str(error).lower():
            raise CommandError(
                f"failed to parse {path}: ssh: this private key is passphrase protected: add it to an agent and name "
                "its socket"
            ) from None
        raise CommandError(f"failed to parse {path}: ssh: {str(error)[:200]}") from None


def _file_key(key: object, path: str) -> FileKey:
    import base64

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not isinstance(key, (Ed25519PrivateKey, RSAPrivateKey, EllipticCurvePrivateKey)) or (
        isinstance(key, EllipticCurvePrivateKey) and key.curve.name not in _CURVES
    ):
        raise CommandError(f"failed to parse {path}: ssh: unsupported key type: use Ed25519, ECDSA or RSA")
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return FileKey(key, base64.b64decode(line.split(b" ")[1]))


def _sign_ecdsa(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    """RFC 5656, 3.1.2."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    name, bits = _CURVES[key.curve.name]
    digest = hashes.SHA256() if bits == 256 else hashes.SHA384() if bits == 384 else hashes.SHA512()
    r, s = decode_dss_signature(key.sign(data, ECDSA(digest)))
    return text(b"ecdsa-sha2-" + name.encode("ascii")) + text(text(_mpint(r)) + text(_mpint(s)))


def _sign_rsa(key: RSAPrivateKey, data: bytes, flags: int) -> bytes:
    """RFC 8332; without flags with SHA-1 (RFC 4253, 6.6), which servers have to be told to accept by now."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    if flags & _SHA512:
        return text(b"rsa-sha2-512") + text(key.sign(data, PKCS1v15(), hashes.SHA512()))
    if flags & _SHA256:
        return text(b"rsa-sha2-256") + text(key.sign(data, PKCS1v15(), hashes.SHA256()))
    return text(b"ssh-rsa") + text(key.sign(data, PKCS1v15(), hashes.SHA1()))  # noqa: S303 - the client asks for it


def _mpint(number: int) -> bytes:
    """RFC 4251, 5: no leading zero but one that keeps a positive number from looking negative."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")
