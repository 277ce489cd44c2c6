"""Certificates for these tests."""

import pytest
from tls_lab import Material


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Material:
    return Material(tmp_path_factory.mktemp("tls") / "material")
