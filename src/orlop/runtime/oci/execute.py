"""``exec``: one more process in a container."""

from __future__ import annotations

import os

from orlop.errors import ConflictError, InvalidParameterError, OrlopError, UnsupportedError
from orlop.kernel.prctl import set_child_subreaper
from orlop.kernel.process import pidfd_open
from orlop.primitives.atomic import write_atomic
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup
from orlop.runtime import exec as execution
from orlop.runtime.cgroups import normalise_path, open_cgroup
from orlop.runtime.container import kill_and_reap
from orlop.runtime.importing import Blocker
from orlop.runtime.loading import load_for
from orlop.runtime.oci.bundle import as_others_mean_it, by_number, check_console, preserved_fds
from orlop.runtime.oci.document import read_document
from orlop.runtime.oci.foreground import Signals, wait_in_foreground
from orlop.runtime.oci.main import complete_code
from orlop.runtime.oci.state import is_alive
from orlop.spec.oci import Capabilities, User, parse_config, parse_process, require_runnable
from orlop.spec.oci.fields import ID_MAX
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.container import RunningProcess
    from orlop.runtime.exec import Execution
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.options import Parsed
    from orlop.runtime.oci.state import State
    from orlop.spec.oci import Process


def execute(invocation: Invocation) -> int:
    """Run a process in a container; return its status, or 0 when detached."""
    options = invocation.options
    identity, *command = invocation.arguments
    store = invocation.store
    state = store.load(identity)
    status = store.status(state, invocation.hierarchies)
    if status in ("stopped", "creating"):
        raise ConflictError("cannot exec in a stopped container")
    if status == "paused" and not options.switch("ignore-paused"):
        raise ConflictError("cannot exec in a paused container (use --ignore-paused to override)")
    config = as_others_mean_it(parse_config(read_document(f"{store.directory(identity)}/config.json")))
    _, initial = require_runnable(config)
    process = _process(options, command, initial)
    detached = options.switch("detach")
    console = os.path.abspath(options.text("console-socket")) if options.given("console-socket") else ""
    check_console(console, terminal=process.terminal, detached=detached)
    preserved = preserved_fds(options)
    cgroup, sub_cgroups = _cgroup(invocation, state)
    with Cleanup() as stack:
        pidfd = stack.enter_context(_open_init(state))
        plan = execution.Execution(
            container_id=identity,
            config=replace(config, linux=replace(config.linux, cgroups_path=cgroup)),
            process=process,
            pidfd=pidfd.fileno(),
            stdio=None if process.terminal else (0, 1, 2),
            preserve=len(preserved),
            die_with_parent=not detached,
            bundle=state.bundle,
            caller=invocation.caller,
            without_cgroup=not state.cgroup,
            sub_cgroups=sub_cgroups,
        )
        if detached:
            _run(invocation, plan, console, detached=True)
            return 0
        set_child_subreaper(True)
        with Signals() as signals:
            running = _run(invocation, plan, console, detached=False)
            master = None if running.master is None else running.master.fileno()
            return wait_in_foreground(running.pid, running.pidfd.fileno(), master, signals)


def _run(invocation: Invocation, plan: Execution, console: str, *, detached: bool) -> RunningProcess:
    try:
        hierarchies = invocation.hierarchies
        load_for(
            plan.config,
            plan.process,
            cgroup_version=hierarchies.version,
            without_cgroup=plan.without_cgroup,
            confined=plan.caller.confined,
        )
        complete_code()
        Blocker().install()
        running = execution.execute(plan, hierarchies)
    except OrlopError as error:
        raise type(error)(f"unable to start container process: {error}") from error
    with Cleanup() as failed:
        # who is told that it failed must not find it running
        failed.callback(kill_and_reap, running.pidfd)
        if running.master is not None and detached:
            from orlop.runtime.oci.console import send_console

            send_console(console, running.master.fileno(), "/dev/ptmx")
            running.master.close()
        pid_file = invocation.options.text("pid-file")
        if pid_file:
            write_atomic(os.path.abspath(pid_file), str(running.pid).encode(), 0o644)
        failed.dismiss()
    return running


def _open_init(state: State) -> OwnedFd:
    """Open init by a pidfd whose identity was verified after it was opened (threats.md A11)."""
    try:
        pidfd = OwnedFd(pidfd_open(state.pid))
    except ProcessLookupError:
        raise ConflictError("cannot exec in a stopped container") from None
    if not is_alive(state):
        pidfd.close()
        raise ConflictError("cannot exec in a stopped container")
    return pidfd


def _cgroup(invocation: Invocation, state: State) -> tuple[str, dict[str, str]]:
    """Return the cgroup to join: the container's own, or one below it that must exist, and those of single controllers.

    Raises:
        InvalidParameterError: it is not below, or a controller twice, in runc's words.
        UnsupportedError: the container has no cgroup.
    """
    below = _sub_cgroups(invocation.options.texts("cgroup"))
    if not below:
        return state.cgroup, {}
    if not state.cgroup:
        raise UnsupportedError("container without a cgroup has none below it")
    own = open_cgroup(invocation.hierarchies, state.cgroup).path
    paths = {name: normalise_path(f"{own}/{path}", container_id=state.id) for name, path in below.items()}
    if "" in paths:
        return paths[""], {}
    if invocation.hierarchies.version != 1:
        raise InvalidParameterError(f"unknown controller {min(below)} in SubCgroupPaths")
    return state.cgroup, {name: path.removeprefix(own) for name, path in paths.items()}


def _sub_cgroups(given: list[str]) -> dict[str, str]:
    """Read ``--cgroup``: a path for all controllers (by ""), or ``controller[,controller...]:path`` each."""
    paths: dict[str, str] = {}
    for item in given:
        controllers, colon, path = item.partition(":")
        if not colon:
            if len(given) != 1:
                raise InvalidParameterError(f"invalid --cgroup argument: {item} (missing <controller>: prefix)")
            return {"": item}
        for controller in controllers.split(","):
            if not controller:
                raise InvalidParameterError(f"invalid --cgroup argument: {item} (empty <controller> prefix)")
            if controller in paths:
                raise InvalidParameterError(
                    f"invalid --cgroup argument(s): controller {controller} specified multiple times"
                )
            paths[controller] = path
    return paths


def _process(options: Parsed, command: list[str], initial: Process) -> Process:
    """Return what is run: the document of ``--process``, else the container's own process with changes."""
    if options.given("process"):
        return _completed(by_number(parse_process(read_document(options.text("process")))), initial)
    if not command:
        raise InvalidParameterError("process args cannot be empty")
    process = replace(
        initial,
        args=tuple(command),
        cwd=options.text("cwd") or initial.cwd,
        env=(*initial.env, *options.texts("env")),
        terminal=options.switch("tty"),
        user=_user(options, initial.user),
        capabilities=_capabilities(options.texts("cap"), initial.capabilities),
        no_new_privileges=options.switch("no-new-privs") or initial.no_new_privileges,
        apparmor_profile=options.text("apparmor") or initial.apparmor_profile,
        selinux_label=options.text("process-label") or initial.selinux_label,
    )
    if not process.cwd.startswith("/"):
        raise InvalidParameterError("Cwd must be an absolute path")
    return process


def _completed(process: Process, initial: Process) -> Process:
    """Return a document's process with the container's own of what confines it, where the document says nothing.

    As with runc: who leaves the profile, the label or the score out does not mean to run without the container's.
    """
    return replace(
        process,
        capabilities=initial.capabilities if process.capabilities is None else process.capabilities,
        oom_score_adj=initial.oom_score_adj if process.oom_score_adj is None else process.oom_score_adj,
        apparmor_profile=process.apparmor_profile or initial.apparmor_profile,
        selinux_label=process.selinux_label or initial.selinux_label,
    )


def _user(options: Parsed, initial: User) -> User:
    user = initial
    if options.text("user"):
        uid, colon, gid = options.text("user").partition(":")
        user = replace(user, uid=_number(uid), gid=_number(gid) if colon else initial.gid, username="")
    extra = tuple(_number(gid) for gid in options.texts("additional-gids"))
    return replace(user, additional_gids=user.additional_gids + extra)


def _number(text: str) -> int:
    """Digits are a number and nothing else is (CVE-2026-30892: ``-u 1`` read as 0)."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > ID_MAX:
        raise InvalidParameterError(f"invalid uid or gid: {text!r:.40}")
    return int(text)


def _capabilities(names: list[str], initial: Capabilities | None) -> Capabilities | None:
    """Add to what may be held; never to the inheritable or ambient sets (CVE-2022-29162)."""
    if not names:
        return initial
    base = initial or Capabilities()
    added = frozenset(name.upper() for name in names)
    return replace(
        base, bounding=base.bounding | added, effective=base.effective | added, permitted=base.permitted | added
    )
