"""What files of this directory have in common."""

import pytest

from pull_lab import Lab


@pytest.fixture(scope="module")
def lab():
    """One for all tests of a file."""
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def no_images(lab):
    """The images of a test go with it."""
    yield
    ids = lab.engine.docker("images", "-aq").stdout.split()
    if ids:
        lab.engine.docker("rmi", "-f", *set(ids))
