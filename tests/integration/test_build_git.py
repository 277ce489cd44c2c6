"""Contexts from git: commits, directories, submodules, and what hostile ones reach (threat F6)."""

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def ssh(engine, images, tmp_path):
    """Two repositories behind SSH on port 9422; ``key`` may fetch them; ``known`` is a home that knows the server."""
    for name in ("key", "stranger", "server"):
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", tmp_path / name, "-t", "ed25519"], check=True)
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        git = repository_tool(tmp_path / name)
        (tmp_path / name / f"of-{name}").write_text(name)
        git("init", "-q", "-b", "main")
        if name == "a":
            write(tmp_path / "a", "FROM busybox\nCOPY . /c\nRUN echo $(cd /c && find . -type f | sort)\n")
            git("submodule", "add", "-q", tmp_path / "b.git", "lib/b")
            git("config", "-f", ".gitmodules", "submodule.lib/b.url", "../b.git")
        git("add", ".")
        git("commit", "-q", "-m", "x")
        git("clone", "-q", "--bare", tmp_path / name, tmp_path / f"{name}.git")
    (tmp_path / "known/.ssh").mkdir(parents=True)
    line = f"[127.0.0.1]:9422 {(tmp_path / 'server.pub').read_text()}"
    (tmp_path / "known/.ssh/known_hosts").write_text(line)
    (tmp_path / "other/.ssh").mkdir(parents=True)
    (tmp_path / "other/.ssh/known_hosts").write_text(
        line.replace((tmp_path / "server.pub").read_text(), (tmp_path / "key.pub").read_text())
    )
    (tmp_path / "unknown").mkdir()
    script = Path(__file__).with_name("ssh_lab.py")
    with served(engine, sys.executable, script, 9422, tmp_path / "server", tmp_path / "key.pub", tmp_path):
        wait_for(lambda: listens(engine, 9422))
        yield tmp_path
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])


URL = "ssh://git@127.0.0.1:9422"


def test_context_by_ssh(engine, ssh):
    """With a key that only the client has; OpenSSH is the client, its submodule comes the same way."""
    whole = " ./.gitmodules ./Dockerfile ./lib/b/of-b ./of-a\n"
    for home in ("known", "unknown"):
        done = build(engine, "--no-cache", "--ssh", f"default={ssh}/key", f"{URL}/a.git", env={"HOME": str(ssh / home)})
        assert whole in done.stderr, home
    added = write(ssh / "c", f"FROM busybox\nADD {URL}/b.git /t/\nRUN echo $(ls -A /t)\n")
    assert " of-b\n" in build(engine, "--ssh", f"default={ssh}/key", added).stderr
    named = write(ssh / "d", "FROM busybox\nCOPY --from=other . /t/\nRUN echo $(ls -A /t)\n")
    options = ["--ssh", f"default={ssh}/key", "--build-context", f"other={URL}/b.git#main"]
    assert " of-b\n" in build(engine, *options, named).stderr
    # the user's agent is taken for such a context without being asked for, as by buildx
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", ssh / "agent"], stdout=subprocess.DEVNULL)
    try:
        environment = {"SSH_AUTH_SOCK": str(ssh / "agent")}
        # the agent's socket is there before anybody listens
        add = lambda: subprocess.run(["ssh-add", "-q", ssh / "key"], env={**os.environ, **environment}, check=False)  # noqa: E731
        wait_for(lambda: add().returncode == 0, what="the agent")
        assert whole in build(engine, "--no-cache", f"{URL}/a.git", env=environment).stderr
    finally:
        agent.terminate()
        agent.wait()


def test_what_ssh_does_not_fetch(engine, ssh):
    """Threat F6: servers that are not who they were, keys that may not, hostile names, keys that a stranger would use."""
    key = ["--ssh", f"default={ssh}/key"]
    for home, options, url, words in (
        ("other", key, f"{URL}/a.git", "Host key verification failed"),
        ("known", ["--ssh", f"default={ssh}/stranger"], f"{URL}/a.git", "Permission denied (publickey)"),
        ("known", key, f"{URL}/none.git", "git fetch: "),
        ("known", key, "ssh://-oProxyCommand=touch%20pwned/x.git", "invalid git repository"),
        ("known", key, f"git@127.0.0.1:x';touch {ssh}/pwned;'", "invalid git repository"),
        ("known", ["--ssh", f"other={ssh}/key"], f"{URL}/a.git", 'no SSH key "default" forwarded from the client'),
        ("known", [], f"{URL}/a.git", "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
    ):
        done = build(engine, *options, url, check=False, env={"HOME": str(ssh / home), "SSH_AUTH_SOCK": ""})
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    status, body = engine.http("POST", f"/build?remote={URL}/a.git")
    assert (status, b"use --ssh default (orlop build" in body) == (400, True), body
    (ssh / "a/.gitmodules").write_text(f'[submodule "lib/b"]\n\tpath = lib/b\n\turl = {URL}/b.git\n')
    git = repository_tool(ssh / "a")
    git("commit", "-aqm", "y")
    git("push", "-q", ssh / "a.git", "HEAD:refs/heads/keys")
    daemon = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={ssh}", "--export-all", "--reuseaddr"]
    with served(engine, *daemon, "--listen=127.0.0.1", "--port=9423", "--user-path="):
        wait_for(lambda: listens(engine, 9423))
        done = build(engine, *key, "git://127.0.0.1:9423/a.git#keys", check=False)
    assert "git over SSH is not supported below what is fetched otherwise" in done.stderr
    assert not (ssh / "pwned").exists()
