"""What is on the machine: taken before and after, it is the leak oracle of faults.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Engine

# of NetworkOptions: network namespaces that an engine keeps ready, each with several of its descriptors
READY = 4


def entries_below(top: Path, depth: int) -> Iterator[Path]:
    """Yield all entries to a depth; without what is being removed at the moment."""
    names = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(top)
    for path in (top / name for name in names):
        yield path
        if depth > 1:
            yield from entries_below(path, depth - 1)


@dataclasses.dataclass(frozen=True)
class HostState:
    """What a container could leave behind on the machine, as far as ``engine`` can be the cause."""

    mounts: frozenset[str]
    links: frozenset[str]
    rules: tuple[str, ...]
    addresses: frozenset[str]
    cgroups: frozenset[str]
    shims: frozenset[str]
    layers: frozenset[str]
    containers: frozenset[str]
    processes: int
    descriptors: int
    ready: int

    @classmethod
    def before(cls, engine: Engine) -> HostState:
        """Return the state to compare with: as it is when the engine has made what it makes in advance."""
        return wait_for(lambda: (state := cls.of(engine)).ready >= READY and state, what="all ready namespaces")

    @classmethod
    def of(cls, engine: Engine) -> HostState:
        assert engine.process is not None
        pid = engine.process.pid
        rules = engine.in_network("iptables-save").stdout.splitlines()
        links = json.loads(engine.in_network("ip", "-j", "link").stdout or "[]")
        addresses = json.loads(engine.in_network("ip", "-j", "addr").stdout or "[]")
        cgroups = {
            str(path.relative_to("/sys/fs/cgroup"))
            for top in [*Path("/sys/fs/cgroup").glob(f"*/{engine.name}"), Path("/sys/fs/cgroup") / engine.name]
            for directory, names, _ in os.walk(top)
            for path in (Path(directory, name) for name in names)
        }
        listing = lambda path: frozenset(os.listdir(path)) if path.is_dir() else frozenset()  # noqa: E731
        mounts = set()
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines():
                    if str(engine.home) in line:
                        mounts.add(line.split(" ", 4)[4])
        return cls(
            mounts=frozenset(mounts),
            # a few ready sandboxes are kept; their number is the pool's business, so only bound ones would differ
            links=frozenset(link["ifname"] for link in links if not link["ifname"].startswith("veth")),
            rules=tuple(line for line in rules if not line.startswith(("#", ":"))),
            addresses=frozenset(
                info["local"] for link in addresses for info in link.get("addr_info", []) if info.get("local")
            ),
            cgroups=frozenset(cgroups),
            shims=listing(engine.exec_root / "shims"),
            layers=frozenset(
                str(path.relative_to(engine.data_root)) for path in entries_below(engine.data_root / "layers", depth=3)
            ),
            containers=listing(engine.data_root / "containers"),
            processes=len(engine.processes()),
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            # the outer end of one that a container has is on a bridge
            ready=sum(link["ifname"].startswith("veth") and "master" not in link for link in links),
        )

    @property
    def is_settled(self) -> bool:
        """Whether no container of the past is being removed, and all is ready for the next."""
        return (
            self.ready >= READY
            and not self.cgroups
            and not self.shims
            and not any(".removed" in name for name in (*self.layers, *self.containers))
        )

    def differences(self, after: HostState, *, descriptors: int = 4) -> dict[str, Any]:
        """Return what changed, field by field; the engine's descriptors may vary by ``descriptors``."""
        changed: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            old, new = getattr(self, field.name), getattr(after, field.name)
            if field.name == "ready":
                continue
            if field.name == "descriptors":
                if new > old + descriptors:
                    changed[field.name] = (old, new)
            elif old != new:
                both = isinstance(old, frozenset)
                changed[field.name] = {"gone": sorted(old - new), "new": sorted(new - old)} if both else (old, new)
        return changed
