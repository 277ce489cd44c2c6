"""Each way in which a file of certificates or keys can be wrong, and what is said of it: dockerd's own words."""

import ssl
import subprocess

import pytest

from orlop.errors import InvalidParameterError
from orlop.tls.material import client_context, server_context


@pytest.fixture
def files(material, tmp_path):
    (tmp_path / "junk").write_text("junk\n")
    (tmp_path / "damaged").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    encrypted = tmp_path / "encrypted"
    command = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-in",
        material.server / "key.pem",
        "-passout",
        "pass:x",
        "-out",
        encrypted,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path


def test_good_files(material) -> None:
    good = [str(material.server / name) for name in ("cert.pem", "key.pem", "ca.pem")]
    context = server_context(*good)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert server_context(*good[:2], None).verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("certificate", "key", "authority", "message"),
    [
        ("{none}", "{key}", "{ca}", 'Could not load X509 key pair (cert: "{none}", key: "{key}"): open {none}: no such file or directory'),
        ("{cert}", "{none}", "{ca}", 'Could not load X509 key pair (cert: "{cert}", key: "{none}"): open {none}: no such file or directory'),
        ("{cert}", "{other}", "{ca}", "tls: private key does not match public key. Make sure the key is not encrypted."),
        ("{cert}", "{junk}", "{ca}", "tls: failed to find any PEM data in key input. Make sure"),
        ("{junk}", "{key}", "{ca}", "tls: failed to find any PEM data in certificate input. Make sure"),
        ("{damaged}", "{key}", "{ca}", "tls: failed to parse certificate or private key. Make sure"),
        ("{cert}", "{encrypted}", "{ca}", "tls: failed to parse private key. Make sure the key is not encrypted."),
        ("{directory}", "{key}", "{ca}", "read {directory}: is a directory"),
        ("{cert}", "{loop}", "{ca}", "open {loop}: too many levels of symbolic links. Make sure"),
        ("{cert}", "{key}", "{none}", 'could not read CA certificate "{none}": open {none}: no such file or directory'),
        ("{cert}", "{key}", "{junk}", 'failed to append certificates from PEM file: "{junk}"'),
        ("{cert}", "{key}", "{damaged}", 'failed to append certificates from PEM file: "{damaged}"'),
    ],
)  # fmt: skip
def test_bad_files_of_an_engine(material, files, certificate, key, authority, message) -> None:
    names = {
        **{name: str(files / name) for name in ("junk", "damaged", "directory", "encrypted", "none", "loop")},
        "cert": str(material.server / "cert.pem"),
        "key": str(material.server / "key.pem"),
        "ca": str(material.server / "ca.pem"),
        "other": str(material.client / "key.pem"),
    }
    with pytest.raises(InvalidParameterError) as caught:
        server_context(*(text.format(**names) for text in (certificate, key, authority)))
    assert message.format(**names) in str(caught.value)


def test_bad_files_of_a_client(material, files) -> None:
    with pytest.raises(InvalidParameterError, match=f"^open {files}/none: no such file or directory$"):
        client_context(authority=str(files / "none"))
    with pytest.raises(InvalidParameterError, match=r"context tls info: ca\.pem seems invalid"):
        client_context(authority=str(files / "junk"))
    with pytest.raises(InvalidParameterError, match="context tls info: tls: private key does not match public key"):
        client_context(certificate=str(material.client / "cert.pem"), key=str(material.server / "key.pem"))
    assert client_context(verify=False).verify_mode is ssl.CERT_NONE
    assert client_context(authority=str(material.client / "ca.pem")).check_hostname
