"""A bundle: a directory with ``config.json`` and a root file system (runtime-spec, bundle.md)."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.oci.document import parse_document, read_file
from orlop.spec.oci import parse_config, require_runnable
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.oci.options import Parsed
    from orlop.spec.oci import Config, Process

# descriptors beyond these are certainly a mistake
_MAX_PRESERVED = 1024
_OURS = "orlop."


@dataclass(frozen=True)
class Bundle:
    """What was read: where the bundle is, its configuration as given and as understood, and the root's path."""

    directory: str
    data: bytes
    config: Config
    process: Process
    rootfs: str


def enter_bundle(options: Parsed) -> Bundle:
    """Change into the bundle's directory and read it.

    Raises:
        InvalidParameterError: no bundle, or a bad configuration.
        UnsupportedError: it asks for what this version does not do.
    """
    if options.switch("no-pivot"):
        raise UnsupportedError("--no-pivot is not supported: chroot is no boundary")
    directory = options.text("bundle")
    if directory:
        try:
            os.chdir(directory)
        except OSError as error:
            raise InvalidParameterError(f"chdir {directory}: {(error.strerror or '').lower()}") from None
    directory = os.getcwd()
    try:
        data = read_file("config.json")
    except FileNotFoundError:
        raise InvalidParameterError("JSON specification file config.json not found") from None
    config = as_others_mean_it(parse_config(parse_document(data, "config.json")))
    root, process = require_runnable(config)
    rootfs = os.path.realpath(os.path.join(directory, root.path))
    if not os.path.isdir(rootfs):
        raise InvalidParameterError(f"invalid rootfs: stat {rootfs}: no such file or directory")
    return Bundle(directory, data, config, process, rootfs)


def as_others_mean_it(config: Config) -> Config:
    """Return a configuration without what only the engine's own may say.

    Annotations of ours come from whoever may annotate a container, a pod's author for instance (threats.md E2): one of
    them names a process whose shared memory is joined. And a name beside numeric ids is only information.
    """
    notes = config.annotations
    if any(name.startswith(_OURS) for name in notes):
        kept = {name: value for name, value in notes.items() if not name.startswith(_OURS)}
        config = replace(config, annotations=kept)
    if config.process is not None:
        config = replace(config, process=by_number(config.process))
    return config


def by_number(process: Process) -> Process:
    """Return a process without the name of its user, which the engine looks up in the root file system."""
    return process if not process.user.username else replace(process, user=replace(process.user, username=""))


def listening_fds() -> int:
    """Return how many sockets the service manager handed over to this very process (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    listening = os.environ.get("LISTEN_FDS", "")
    return int(listening) if listening.isascii() and listening.isdigit() and len(listening) <= 4 else 0


def preserved_fds(options: Parsed) -> tuple[int, ...]:
    """Return the descriptors that the container gets beside stdio: LISTEN_FDS' and ``--preserve-fds``'.

    Raises:
        InvalidParameterError: one of them is not open.
    """
    count = options.number("preserve-fds") + listening_fds()
    if not 0 <= count <= _MAX_PRESERVED:
        raise InvalidParameterError(f"invalid number of descriptors to preserve: {count}")
    fds = tuple(range(3, 3 + count))
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidParameterError(f"preserved fd {fd} is not open") from None
    return fds


def check_console(path: str, *, terminal: bool, detached: bool) -> None:
    """Refuse combinations of a console socket that cannot work; load what a terminal needs while imports may be made.

    Raises:
        InvalidParameterError: in runc's words.
    """
    if path or terminal:
        from orlop.runtime.oci.console import check_console_socket

        check_console_socket(path, terminal=terminal, detached=detached)
