"""Git repositories over SSH, served by asyncssh: ``python ssh_lab.py PORT HOST_KEY AUTHORIZED_KEYS DIRECTORY``."""

import asyncio
import shlex
import sys
from asyncio.subprocess import PIPE

import asyncssh


async def serve(port: int, host_key: str, authorized: str, root: str) -> None:
    """Let whoever has one of the keys fetch what is below a directory, and nothing else."""

    async def upload(process: asyncssh.SSHServerProcess) -> None:
        program, path = shlex.split(process.command or "")
        if program != "git-upload-pack" or ".." in path:
            process.exit(1)
            return
        command = ["git", "-c", "safe.directory=*", "upload-pack", f"{root}/{path}"]
        child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        process.exit(await child.wait())

    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        process_factory=upload,
        encoding=None,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
