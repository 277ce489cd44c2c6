"""``orlopd``: from the command line to a serving engine and back.

The order matters. Flags are read first, because ``--help`` needs nothing else. Then the spawner is started: before the
configuration file is read (it may hold secrets), before any thread, event loop or socket exists (threats.md J3, J6).
Only then is the rest imported and built.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from orlop.daemon.options import CommandLine, Options, load_options, parse_arguments
from orlop.errors import OrlopError

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl
    from collections.abc import Sequence

    from orlop.daemon.compose import Engine
    from orlop.engine.spawner import Spawner

    Listening = Sequence[tuple[socket.socket, ssl.SSLContext | None]]

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}
_FORCED_EXIT_SIGNALS = 3


def entry(arguments: Sequence[str] | None = None) -> int:
    """Run the engine until SIGTERM or SIGINT; returns the exit status."""
    try:
        line = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        if line.validate:
            _check(load_options(line))
            print("configuration OK")  # noqa: T201 - Docker's answer to --validate
            return 0
    except OrlopError as error:
        return _fail(str(error))
    if os.geteuid() != 0:
        return _fail("orlopd needs root: run it with sudo")
    os.umask(0o022)
    try:
        return _run(line)
    except OrlopError as error:
        return _fail(f"failed to start daemon: {error}")


def _check(options: Options) -> None:
    from orlop.daemon.compose import check

    check(options)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - the log is not open yet
    return 1


def _run(line: CommandLine) -> int:
    from orlop.daemon.installation import executed_paths, require_trusted
    from orlop.daemon.spawner_process import SpawnerStarter
    from orlop.engine.spawner import Spawner

    owned = require_trusted(executed_paths())
    spawner = Spawner(SpawnerStarter())
    try:
        options = load_options(line)
        _check(options)
    except OrlopError as error:
        return _fail(str(error))
    _open_log(options)
    if owned:
        import logging

        message = "%d files that are executed as root can be written by another user, for example %s"
        logging.getLogger(__name__).warning(message, len(owned), owned[0])

    import asyncio

    from orlop.daemon.compose import make_directories
    from orlop.daemon.exposure import contexts_of
    from orlop.daemon.paths import lock_directory, write_pidfile

    make_directories(options)
    # An engine clears away what it finds in its exec-root: with another's it would take that one's shims for lost.
    with lock_directory(options.data_root, "data-root"), lock_directory(options.exec_root, "exec-root"):
        write_pidfile(options.pidfile)
        bound: list[str] = []
        try:
            sockets = contexts_of(options, _bind(options, bound))
            asyncio.run(_serve(line, options, spawner=spawner, sockets=sockets))
        finally:
            for path in (*bound, options.pidfile):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    return 0


def _bind(options: Options, bound: list[str]) -> list[socket.socket]:
    """Open the sockets; ``bound`` gets the paths of those that are to be removed at the end."""
    from orlop.daemon.paths import bind_tcp, bind_unix, group_id, passed_sockets
    from orlop.errors import InvalidParameterError

    passed = passed_sockets()
    group = group_id(options.group)
    if group is None and options.group != "docker":
        raise InvalidParameterError(f"group {options.group} not found")
    sockets = []
    for host in options.hosts:
        protocol, _, address = host.partition("://")
        if protocol == "fd":
            if not passed:
                raise InvalidParameterError("no sockets found via socket activation: make sure the service was started")
            sockets.extend(passed)
        elif protocol == "unix":
            sockets.append(bind_unix(address, group))
            bound.append(address)
        else:
            sockets.append(bind_tcp(address))
    return sockets


def _open_log(options: Options) -> None:
    import logging

    logging.basicConfig(
        stream=sys.stderr,
        level=_LEVELS["debug" if options.debug else options.log_level],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # aiohttp's and asyncio's debug lines are about themselves.
    logging.getLogger("asyncio").setLevel(logging.INFO)


async def _serve(line: CommandLine, options: Options, *, spawner: Spawner, sockets: Listening) -> None:
    import asyncio
    import logging

    import orlop
    from orlop.daemon.compose import Engine
    from orlop.daemon.exposure import exposure_warnings
    from orlop.daemon.paths import notify
    from orlop.daemon.preloading import preload

    log = logging.getLogger(__name__)
    stop = asyncio.Event()
    engine = Engine(options, spawner)
    if engine.database.quarantined:
        log.error("the state database was damaged and put aside: %s", engine.database.quarantined)
    _handle_signals(stop, line, engine=engine, patience=options.shutdown_timeout)
    preload()
    await engine.start(sockets)
    gc.collect()
    gc.freeze()
    for warning in exposure_warnings(options):
        log.warning("%s", warning.partition("\n")[0])
    log.info("orlop %s listens on %s", orlop.__version__, ", ".join(options.hosts))
    notify("READY=1")
    watchdog = asyncio.create_task(_feed_watchdog())
    try:
        await stop.wait()
    finally:
        notify("STOPPING=1")
        watchdog.cancel()
        log.info("stopping; containers keep running")
        try:
            await asyncio.wait_for(engine.close(), max(1, options.shutdown_timeout - 1))
        except TimeoutError:
            log.warning("did not finish in %d s", options.shutdown_timeout)


def _handle_signals(stop: asyncio.Event, line: CommandLine, *, engine: Engine, patience: int) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    received = 0

    def end() -> None:
        nonlocal received
        received += 1
        stop.set()
        # A worker thread in a slow system call cannot be cancelled, and nothing is lost by not waiting for it.
        loop.call_later(max(1, patience), os._exit, 1)
        if received >= _FORCED_EXIT_SIGNALS:
            os._exit(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, _reload, line, engine)
    # SIGUSR1 writes every thread's stack to standard error; container data is not shown, local variables neither.
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _reload(line: CommandLine, engine: Engine) -> None:
    import logging

    log = logging.getLogger(__name__)
    try:
        options = load_options(line)
    except OrlopError as error:
        log.error("configuration is not reloaded: %s", error)  # noqa: TRY400 - the message says it all
        return
    logging.getLogger().setLevel(_LEVELS["debug" if options.debug else options.log_level])
    engine.reload(options)
    log.info("configuration reloaded")


async def _feed_watchdog() -> None:
    """Tell systemd's watchdog that the event loop is alive, twice in its period (sd_watchdog_enabled(3))."""
    import asyncio

    from orlop.daemon.paths import notify

    period = os.environ.get("WATCHDOG_USEC", "")
    if not period.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(period) / 2_000_000)
