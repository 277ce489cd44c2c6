"""``push``, ``login``, ``logout``."""

from __future__ import annotations

import os
import sys

from orlop.cli.credentials import HUB, erase, look_up, server_key, store
from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, write_error, write_out
from orlop.cli.transfers import push_image
from orlop.errors import OrlopError


def _push(invocation: Invocation) -> int:
    options = invocation.options
    quiet = options.on("quiet")
    reference = push_image(invocation, invocation.arguments[0], quiet=quiet, all_tags=options.on("all-tags"))
    if quiet:
        write_out(str(reference))
    return 0


def _login(invocation: Invocation) -> int:
    from orlop.client.address import config_directory

    options = invocation.options
    key = server_key(invocation.arguments[0] if invocation.arguments else "")
    configuration = invocation.configuration()
    user, password = options.text("username"), options.text("password")
    if options.on("password-stdin"):
        if not user:
            raise CommandError("the --password-stdin option requires --username to be set")
        if password:
            raise CommandError("--password and --password-stdin are mutually exclusive")
        password = sys.stdin.read().rstrip("\n").rstrip("\r")
    elif password:
        write_error("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    known = look_up(configuration, key)
    if not user and not password and known:
        write_out("Authenticating with existing credentials...")
        found = known
    else:
        found = _ask(user, password, known.get("username", ""))
    found["serveraddress"] = key
    answer = invocation.client.system.log_in(found)
    token = answer.get("IdentityToken")
    if isinstance(token, str) and token:
        found = {"username": found.get("username", ""), "identitytoken": token, "serveraddress": key}
    if found is not known:
        path = store(config_directory(os.environ), configuration, found)
        if path:
            write_error(
                f"\nWARNING! Your credentials are stored unencrypted in '{path}'.\n"
                "Configure a credential helper to remove this warning. See\n"
                "https://docs.docker.com/go/credential-store/\n"
            )
    status = answer.get("Status")
    write_out(status if isinstance(status, str) and status else "Login Succeeded")
    return 0


def _ask(user: str, password: str, before: str) -> dict[str, str]:
    if not (user and password) and not sys.stdin.isatty():
        raise CommandError("cannot perform an interactive login from a non-TTY device")
    if not user:
        sys.stdout.write(f"Username ({before}): " if before else "Username: ")
        sys.stdout.flush()
        user = sys.stdin.readline().strip() or before
    if not user:
        raise CommandError("username is required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
    if not password:
        raise CommandError("password is required")
    return {"username": user, "password": password}


def _logout(invocation: Invocation) -> int:
    from orlop.client.address import config_directory

    key = server_key(invocation.arguments[0] if invocation.arguments else "")
    shown = HUB if key == HUB else key
    configuration = invocation.configuration()
    try:
        known = erase(config_directory(os.environ), configuration, key)
    except (CommandError, OrlopError) as error:
        raise CommandError(f"WARNING: could not erase credentials:\n{error}") from None
    write_out(f"Removing login credentials for {shown}" if known else f"Not logged in to {shown}")
    return 0


PUSH = Command(
    "[OPTIONS] NAME[:TAG]",
    "Send an image to a registry",
    _push,
    flags=(
        Flag("all-tags", "Send all tags of the repository", short="a"),
        Flag("disable-content-trust", "Accepted for Docker's sake", default=True),
        Flag("quiet", "Show no progress", short="q"),
    ),
    arguments=(1, 1),
)
LOGIN = Command(
    "[OPTIONS] [SERVER]",
    "Log in to a registry",
    _login,
    flags=(
        Flag("password", "Password", short="p", kind="string"),
        Flag("password-stdin", "Read the password from standard input"),
        Flag("username", "User", short="u", kind="string"),
    ),
    arguments=(0, 1),
)
LOGOUT = Command("[SERVER]", "Forget the credentials for a registry", _logout, arguments=(0, 1))
