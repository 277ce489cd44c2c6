"""A git context with its submodules: other repositories, which a stranger's commit names, in directories of it.

git itself is not let act on them (``git.py``). What a commit says is read as text: the entries of its tree that are
commits, and ``.gitmodules`` (gitmodules(5)), of which only path, URL and ``update = none`` count. A URL has to be what
a user could give as a context, relative ones are resolved as git does, and a path is one of the tree, in which no
``..``, ``.git`` or link is above anything. Each is fetched and unpacked like the first (threats.md F6).
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.engine.builds.git import Repository, fetch, is_ssh, parse_repository, run_git, share_ssh
from orlop.errors import InvalidParameterError, SystemFailureError, UnavailableError, UnsupportedError
from orlop.primitives.commands import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPTH_LIMIT = 8
COUNT_LIMIT = 64  # of one context, on all levels
_ENTRY = re.compile(rb"160000 commit ([0-9a-f]{40}|[0-9a-f]{64})\t(.+)", re.DOTALL)
_KEY = re.compile(r"submodule\.(.+)\.(path|url|update)", re.DOTALL)


async def archive(repository: Repository, work: str) -> list[str]:
    """Fetch a commit and its submodules, and write their files as tars.

    Args:
        repository: from where.
        work: a private, empty directory; others are made beside it, named ``<work>.<number>``. The caller removes them.

    Returns:
        Paths of tars, which are strangers' files, in the order in which they are to be unpacked over each other.

    Raises:
        UnavailableError: git is not on this machine.
        InvalidParameterError: what the commit says of its submodules is nothing to follow, or too much.
        UnsupportedError: a submodule is reached by SSH, but the repository is not.
        SystemFailureError: git failed, with its words.
    """
    try:
        find("git")
    except UnavailableError:
        raise UnavailableError("contexts from git need git on the engine's machine: it is not there") from None
    return await asyncio.to_thread(lambda: list(_Context(work).archives(repository, "", 0)))


class _Context:
    """Counts the repositories of one context and gives each a directory."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._count = 0

    def archives(self, repository: Repository, prefix: str, depth: int) -> Iterator[str]:
        """Fetch a repository into ``prefix`` of the context, then its submodules."""
        work = self._directory()
        if work != self._work and is_ssh(repository.url):
            share_ssh(self._work, work)
        tar, commit = fetch(repository, work, prefix=prefix)
        yield tar
        entries = _entries(work, commit, repository.directory)
        if not entries:
            return
        if depth == DEPTH_LIMIT:
            raise InvalidParameterError(f"submodules of submodules are followed {DEPTH_LIMIT} deep: {prefix}")
        urls = _urls(work, commit)
        for path, identity in entries.items():
            url = urls.get(path)
            if url is None:
                raise InvalidParameterError(f"no url found for submodule path '{prefix}{path}' in .gitmodules")
            if not url:
                continue  # update = none
            there = parse_repository(resolve_url(url, repository.url))
            if is_ssh(there.url) and not is_ssh(repository.url):
                # A stranger would choose what the user's keys are for.
                raise UnsupportedError(f"git over SSH is not supported below what is fetched otherwise: {url[:200]}")
            inside = path.removeprefix(f"{repository.directory}/") if repository.directory else path
            yield from self.archives(replace(there, ref=identity, directory=""), f"{prefix}{inside}/", depth + 1)

    def _directory(self) -> str:
        number, self._count = self._count, self._count + 1
        if number == 0:
            return self._work
        if number > COUNT_LIMIT:
            raise InvalidParameterError(f"a git context has at most {COUNT_LIMIT} submodules")
        os.mkdir(f"{self._work}.{number}", 0o700)
        return f"{self._work}.{number}"


def _entries(work: str, commit: str, directory: str) -> dict[str, str]:
    """Return the commits in a directory of a commit's tree, by their paths."""
    found = {}
    for line in run_git(work, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            continue
        path = entry[2].decode("utf-8", "surrogateescape")
        if directory and not path.startswith(f"{directory}/"):
            continue
        if not path.isprintable() or {"..", ".", "", ".git"} & set(path.split("/")):
            raise InvalidParameterError(f"invalid path of a submodule: {path[:200]!r}")
        found[path] = entry[1].decode("ascii")
    return found


def _urls(work: str, commit: str) -> Mapping[str, str]:
    """Return what ``.gitmodules`` says, URLs by path; an empty one for what is not to be followed."""
    try:
        listed = run_git(work, "config", "--no-includes", "-z", f"--blob={commit}:.gitmodules", "--list")
    except SystemFailureError:
        return {}
    modules: dict[str, dict[str, str]] = {}
    for item in listed.decode("utf-8", "surrogateescape").split("\0"):
        name, _, value = item.partition("\n")
        if (key := _KEY.fullmatch(name)) is not None:
            modules.setdefault(key[1], {})[key[2]] = value
    return {
        module["path"].rstrip("/"): "" if module.get("update") == "none" else module["url"]
        for module in modules.values()
        if module.get("path") and module.get("url")
    }


def resolve_url(url: str, base: str) -> str:
    """Return a submodule's URL; ``./`` and ``../`` are from its parent's (git-submodule(1), "add").

    Raises:
        InvalidParameterError: it leads above the host, or says more than a URL.
    """
    if "#" in url:
        raise InvalidParameterError(f"invalid url of a submodule: {url[:200]!r}")
    if not url.startswith(("./", "../")):
        return url
    scheme, mark, rest = base.partition("://") if "://" in base else ("", "", base)
    host, slash, path = rest.partition("/" if mark else ":")  # user@host:path is a URL without a scheme
    parts = path.rstrip("/").split("/") if path.strip("/") else []
    for word in url.split("/"):
        if word == "..":
            if not parts:
                raise InvalidParameterError(f"invalid url of a submodule: {url[:200]!r}")
            parts.pop()
        elif word not in ("", "."):
            parts.append(word)
    return f"{scheme}{mark}{host}{slash}{'/'.join(parts)}"
