"""Git repositories as contexts: what a commit holds, as a tar.

``git`` is a program of the host that reads what a stranger's server says, so it gets as little as it can do with:

* what ``primitives/confined.py`` leaves a program: the network, one directory, an unprivileged user;
* an environment with nothing of the user's or the machine's configuration, no prompt, no credential, no helper;
* a bare repository that the engine wrote: no work tree is checked out, so no hook, filter, link or submodule of the
  repository is ever acted upon by git (``submodules.py`` reads what it says of its submodules);
* words that cannot be options: every URL and name is checked and stands behind ``--`` (CVE-2019-13139);
* for a repository that is reached by SSH, of the client's keys a socket, which signs (``repositories.py``).

What it gives is a tar that is unpacked as any hostile one is (threats.md F6). A subdirectory is a tree of the commit;
a link, or ``..``, is none.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.primitives.commands import find, run
from orlop.primitives.confined import NOBODY, PLACE, confined

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 600.0
_URL = re.compile(r"(?:https?|git)://[A-Za-z0-9\[][A-Za-z0-9._~%!$&'()*+,;=:@/?\[\]-]*", re.ASCII)
_SSH = re.compile(r"(?:ssh://|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:)", re.ASCII)
_SSH_PATH = r"[A-Za-z0-9._~/%+@=,][A-Za-z0-9._~/%+@=,-]*"
_SSH_USER, _SSH_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]*", r"[A-Za-z0-9][A-Za-z0-9.-]*"
_SSH_URL = re.compile(
    rf"ssh://(?:{_SSH_USER}@)?(?:{_SSH_HOST}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?/{_SSH_PATH}"
    rf"|{_SSH_USER}@{_SSH_HOST}:{_SSH_PATH}",
    re.ASCII,
)
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@=-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_ENVIRONMENT = {
    "GIT_DIR": ".",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "GIT_ALLOW_PROTOCOL": "http:https:git",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "HOME": "/nonexistent",
}
AGENT, KNOWN_HOSTS = ".agent", ".known_hosts"
_SSH_OPTIONS = (
    *("BatchMode=yes", "PreferredAuthentications=publickey", "IdentityFile=none", f"IdentityAgent={PLACE}/{AGENT}"),
    *(
        "StrictHostKeyChecking=accept-new",
        f"UserKnownHostsFile={PLACE}/{KNOWN_HOSTS}",
        "GlobalKnownHostsFile=/dev/null",
    ),
    *("UpdateHostKeys=no", "ForwardAgent=no", "ClearAllForwardings=yes", "PermitLocalCommand=no", "ProxyCommand=none"),
    *("ControlPath=none", "CanonicalizeHostname=no", "ConnectTimeout=30", "LogLevel=ERROR"),
)
_CONFIG = """[core]
\trepositoryformatversion = 0
\tbare = true
\thooksPath = /dev/null
\tfsmonitor = false
[fetch]
\tfsckObjects = true
\trecurseSubmodules = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[http]
\tfollowRedirects = initial
[credential]
\thelper =
[tar]
\tumask = 0022
"""


@dataclass(frozen=True, slots=True)
class Repository:
    """Where a context is: a repository, a name in it (empty for its HEAD), and a directory (empty for the top)."""

    url: str
    ref: str = ""
    directory: str = ""


def is_git(text: str) -> bool:
    """Tell whether a context's text names a repository, as Docker tells (urlutil.IsGitURL)."""
    if text.startswith(("http://", "https://")):
        return re.search(r"\.git(?:#.*)?$", text) is not None
    return text.startswith(("git://", "github.com/", "git@", "ssh://")) or is_ssh(text)


def is_ssh(url: str) -> bool:
    """Tell whether a repository is reached by SSH, whatever else its URL may be."""
    return _SSH.match(url) is not None


def parse_repository(text: str) -> Repository:
    """Read ``URL#REF:DIRECTORY``.

    Raises:
        InvalidParameterError: a part that could be something else than it should.
    """
    url, _, fragment = text.partition("#")
    ref, _, directory = fragment.partition(":")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    if (_SSH_URL if is_ssh(url) else _URL).fullmatch(url) is None:
        raise InvalidParameterError(f"invalid git repository: {url[:200]!r}")
    if ref and (_REF.fullmatch(ref) is None or ".." in ref or "@{" in ref):
        raise InvalidParameterError(f"invalid name in a git repository: {ref[:200]!r}")
    directory = directory.strip("/")
    if directory and (not directory.isprintable() or {"..", ".", ""} & set(directory.split("/"))):
        raise InvalidParameterError(f"invalid directory in a git repository: {directory[:200]!r}")
    return Repository(url, ref, directory)


def fetch(repository: Repository, work: str, *, prefix: str = "") -> tuple[str, str]:
    """Fetch a commit and write its files as a tar. It blocks.

    Args:
        repository: from where.
        work: a private, empty directory, whose content the caller removes.
        prefix: the directory, with its slash, that the tar's names begin with.

    Returns:
        The tar's path, which is a stranger's file, and the commit's id.

    Raises:
        SystemFailureError: git failed, with its words.
        InvalidParameterError: there is no such directory in the commit.
    """
    for name in ("objects", "refs", "info"):
        os.mkdir(f"{work}/{name}", 0o700)
    for name, text in (("HEAD", "ref: refs/heads/none\n"), ("config", _CONFIG), ("info/attributes", _ATTRIBUTES)):
        with open(f"{work}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    for name in ("objects", "refs", "info", "HEAD", "config", "info/attributes"):
        os.chown(f"{work}/{name}", NOBODY, NOBODY)
    _fetch(repository, work)
    commit, tree = _resolve(repository, work)
    run_git(work, "archive", "--format=tar", "--output=context.tar", f"--prefix={prefix}", tree)
    return f"{work}/context.tar", commit


# What a repository says of its files is not to change them.
_ATTRIBUTES = "* -export-ignore -export-subst -filter -ident\n"


def _fetch(repository: Repository, work: str) -> None:
    """Fetch one commit, or, from servers that cannot give one, all."""
    wanted = repository.ref or "HEAD"
    env = {}
    if is_ssh(repository.url):
        command = " ".join((find("ssh"), "-F", "/dev/null", "-a", "-x", "-T", *(f"-o{word}" for word in _SSH_OPTIONS)))
        env = {"GIT_ALLOW_PROTOCOL": "ssh", "GIT_SSH_COMMAND": command, "GIT_SSH_VARIANT": "ssh"}
    try:
        run_git(work, "fetch", "--quiet", "--depth=1", "--no-tags", "--", repository.url, wanted, env=env)
    except SystemFailureError as error:
        dumb, commit = "shallow" in str(error), _COMMIT.fullmatch(wanted) is not None
        if not (dumb or commit):
            raise
        names = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"] if commit else [wanted]
        run_git(work, "fetch", "--quiet", "--no-tags", "--", repository.url, *names, env=env)


def write_known_hosts(work: str, hosts: str) -> None:
    """Write what the client knows of servers where ssh looks for it, and adds what it learns."""
    path = f"{work}/{KNOWN_HOSTS}"
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(hosts)
    os.chown(path, NOBODY, NOBODY)


def share_ssh(work: str, other: str) -> None:
    """Give another repository of the same context what the first has for SSH."""
    for name in (AGENT, KNOWN_HOSTS):
        os.link(f"{work}/{name}", f"{other}/{name}", follow_symlinks=False)


def _resolve(repository: Repository, work: str) -> tuple[str, str]:
    """Return the ids of the commit and of the tree that is the context.

    Raises:
        InvalidParameterError: there is no such directory.
    """
    wanted = repository.ref if _COMMIT.fullmatch(repository.ref) else "FETCH_HEAD"
    names = f"{wanted}^{{commit}}\n{wanted}:{repository.directory}\n"
    told = run_git(work, "cat-file", "--batch-check", stdin=names.encode("utf-8", "surrogateescape"))
    found = [line.split(" ") for line in told.decode("utf-8", "replace").splitlines()]
    if [words[1:2] for words in found] != [["commit"], ["tree"]]:
        where = repository.directory or repository.ref
        raise InvalidParameterError(f"no such directory in the git repository: {where}")
    commit, tree = (words[0] for words in found)
    if _COMMIT.fullmatch(commit) is None or _COMMIT.fullmatch(tree) is None:
        raise SystemFailureError(f"git cat-file: {told[:160]!r}")
    return commit, tree


def describe_checkout(repository: Repository, work: str, target: str) -> list[str]:
    """Write what makes a fetched repository that of a checkout, and return what of ``work`` belongs to it.

    Args:
        repository: from where.
        work: the directory of :func:`fetch`, which gets an index.
        target: a private directory, for HEAD, configuration and references.
    """
    commit, _ = _resolve(replace(repository, directory=""), work)
    run_git(work, "read-tree", commit)
    os.makedirs(f"{target}/refs/heads")
    origin = f'[remote "origin"]\n\turl = {repository.url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    for name, text in (("HEAD", f"{commit}\n"), ("config", f"{_CHECKOUT}{origin}")):
        with open(f"{target}/{name}", "x", encoding="ascii") as file:
            file.write(text)
    return [name for name in ("objects", "index", "shallow") if os.path.lexists(f"{work}/{name}")]


_CHECKOUT = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"


def run_git(work: str, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
    """Run git in ``work``, shut in. Raises SystemFailureError with its words."""
    command = confined(work, [find("git"), *arguments])
    done = run(command, stdin=stdin, timeout=_SECONDS, env={**_ENVIRONMENT, **(env or {})})
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()[-1000:]
        raise SystemFailureError(f"git {arguments[0]}: {words or f'exit status {done.returncode}'}")
    return done.stdout
