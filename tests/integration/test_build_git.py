"""Contexts from git: commits, directories, submodules, and what hostile ones reach (threat F6)."""

import os

import pytest
from build_lab import build, listens, repository_tool, served, steps, write

from harness import wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_context_from_git(engine, images, tmp_path):
    """Threat F6: names, directories and links of a repository lead nowhere; git changes nothing of the machine."""
    source = write(tmp_path / "s", "FROM busybox\nCOPY . /c\nRUN echo $(ls -A /c)\n", x="1")
    write(source / "sub", "FROM busybox\nCOPY y /\nRUN cat /y\n", y="in a directory\n")
    (source / "link").symlink_to("/etc")
    (source / ".gitattributes").write_text("x export-ignore\n")
    git = repository_tool(source)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "HEAD")
    git("clone", "-q", "--bare", source, tmp_path / "r.git")
    daemon = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={tmp_path}", "--export-all", "--reuseaddr"]
    with served(engine, *daemon, "--listen=127.0.0.1", "--port=9419", "--user-path="):
        wait_for(lambda: listens(engine, 9419))
        url = "git://127.0.0.1:9419/r.git"
        assert " .gitattributes Dockerfile link sub x\n" in build(engine, url).stderr
        assert " in a directory\n" in build(engine, f"{url}#main:sub").stderr
        assert set(list(steps(build(engine, f"{url}#{commit}:sub")).values())[1:]) == {"CACHED"}
        for place, words in (
            ("main:link", "no such directory in the git repository: link"),
            ("main:../..", "invalid directory in a git repository"),
            ("nope", "couldn't find remote ref nope"),
            ("--upload-pack=touch /tmp/pwned", "invalid name in a git repository"),
            ("main:sub/y", "no such directory in the git repository: sub/y"),
        ):
            assert words in build(engine, f"{url}#{place}", check=False).stderr
    for bad in ("git@example.org:x.git", "ssh://example.org/x.git"):
        assert "git over SSH is not supported" in build(engine, bad, check=False).stderr
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])


def test_submodules_of_a_git_context(engine, images, tmp_path):
    """As deep as they go, by relative and whole URLs; what they say is read and never acted on (threat F6)."""
    url = "git://127.0.0.1:9420"
    for name, module, address in (("c", "", ""), ("b", "deep", "../c.git"), ("a", "lib/b", f"{url}/b.git")):
        (tmp_path / name).mkdir()
        git = repository_tool(tmp_path / name)
        (tmp_path / name / f"of-{name}").write_text(name)
        git("init", "-q", "-b", "main")
        if module:
            git("submodule", "add", "-q", tmp_path / f"{address.rpartition('/')[2]}", module)
            git("config", "-f", ".gitmodules", f"submodule.{module}.url", address)
        git("add", ".")
        git("commit", "-q", "-m", "x")
        git("clone", "-q", "--bare", tmp_path / name, tmp_path / f"{name}.git")
    write(tmp_path / "a", "FROM busybox\nCOPY . /c\nRUN echo $(cd /c && find . -type f | sort)\n")
    write(tmp_path / "a/lib", "FROM busybox\nCOPY . /c\nRUN echo $(cd /c && find . -type f | sort)\n")

    def push(branch, **modules):
        """Commit with this ``.gitmodules`` under a name."""
        lines = [f'[submodule "m"]\n\tpath = lib/b\n\t{key} = "{value}"\n' for key, value in modules.items()]
        (tmp_path / "a/.gitmodules").write_text("".join(lines))
        git("add", ".")
        git("commit", "-q", "-m", branch)
        git("push", "-q", tmp_path / "a.git", f"HEAD:refs/heads/{branch}")

    push("good", url=f"{url}/b.git")
    push("none", url=f"{url}/b.git", update="none")
    push("wild", update=f"!touch {tmp_path}/pwned", url=f"{url}/b.git")
    for branch, bad in (("ssh", "git@example.org:x.git"), ("file", f"file://{tmp_path}/b.git"), ("up", "../../b.git"),
                        ("word", "--upload-pack=x"), ("ref", f"{url}/b.git#main")):  # fmt: skip
        push(branch, url=bad)
    push("lost")
    daemon = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={tmp_path}", "--export-all", "--reuseaddr"]
    with served(engine, *daemon, "--listen=127.0.0.1", "--port=9420", "--user-path="):
        wait_for(lambda: listens(engine, 9420))
        whole = (
            " ./.gitmodules ./Dockerfile ./lib/Dockerfile ./lib/b/.gitmodules ./lib/b/deep/of-c ./lib/b/of-b ./of-a\n"
        )
        assert whole in build(engine, f"{url}/a.git#good").stderr
        below = " ./Dockerfile ./b/.gitmodules ./b/deep/of-c ./b/of-b\n"
        assert below in build(engine, f"{url}/a.git#good:lib").stderr
        without = " ./.gitmodules ./Dockerfile ./lib/Dockerfile ./of-a\n"
        assert without in build(engine, f"{url}/a.git#none").stderr
        for branch, words in (
            ("ssh", "git over SSH is not supported"),
            ("file", "invalid git repository"),
            ("up", "invalid url of a submodule"),
            ("wild", "disallowed submodule update setting"),
            ("word", "disallowed submodule url"),
            ("ref", "invalid url of a submodule"),
            ("lost", "no url found for submodule path 'lib/b' in .gitmodules"),
        ):
            assert words in build(engine, f"{url}/a.git#{branch}", check=False).stderr
    assert not (tmp_path / "pwned").exists()
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])
