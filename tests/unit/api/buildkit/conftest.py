"""What the tests of a client's session have in common."""

import pytest

from orlop.engine.builds.context_files import ContextFiles


@pytest.fixture
def files(tmp_path):
    return ContextFiles(str(tmp_path / "build-files"))
