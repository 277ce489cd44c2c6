"""``orlop build --check``, and what a build says of it."""

import json

import pytest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]


def test_check_runs_nothing_and_shows_the_lines(engine, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN false\n\nCMD sh $X\nLABEL a=$UNKNOWN\nCOPY out /\n")
    (tmp_path / ".dockerignore").write_text("out\n")
    done = engine.orlop("build", "--check", str(tmp_path), check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(
        "Check complete, 3 warnings have been found!\n\nWARNING: JSONArgsRecommended - https://"
    )
    assert (
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\nDockerfile:4\n"
        "--------------------\n   2 |     RUN false\n   3 |\n   4 | >>> CMD sh $X\n   5 |     LABEL a=$UNKNOWN\n"
        "   6 |     COPY out /\n--------------------\n"
    ) in done.stdout
    assert "Usage of undefined variable '$UNKNOWN'\nDockerfile:5\n" in done.stdout
    assert 'Attempting to COPY file "out" that is excluded by .dockerignore\nDockerfile:6\n' in done.stdout
    (tmp_path / "Dockerfile").write_text('FROM busybox\nCMD ["sh"]\n')
    done = engine.orlop("build", "--check", str(tmp_path))
    assert done.stdout == "Check complete, no warnings found.\n"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUNX x\n")
    done = engine.orlop("build", "--check", str(tmp_path), check=False)
    assert (done.returncode, "line 2: unknown instruction: RUNX (did you mean RUN?)" in done.stderr) == (1, True)


def test_builds_tell_findings_and_fail_when_the_file_wants_that(engine, tmp_path):
    text = "FROM busybox\nMAINTAINER me\n"
    (tmp_path / "Dockerfile").write_text(text)
    done = engine.orlop("build", "-t", "checked:1", "--progress=plain", str(tmp_path))
    assert "1 warning found (see --check):" in done.stderr
    assert (
        " - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)" in done.stderr
    )
    (tmp_path / "Dockerfile").write_text(f"# check=error=true\n{text}")
    wanted = "lint violation found for rules: MaintainerDeprecated"
    assert wanted in engine.orlop("build", str(tmp_path), check=False).stderr
    done = engine.docker("build", str(tmp_path), check=False)
    assert (done.returncode, wanted in done.stderr) == (1, True)
    assert json.loads(engine.docker("image", "inspect", "checked:1").stdout)[0]["Author"] == "me"
    engine.docker("rmi", "-f", "checked:1")
