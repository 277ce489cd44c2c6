"""What goes through a shim: output, the log, input, terminals, clients that come and go (docs/concepts/processes.md)."""

import json
import os
import socket
import stat
import threading
import time

import pytest

from harness import wait_for
from orlop.spec.launch import AttachTarget, LogTarget
from orlop.spec.record import replace
from spawned import (
    read_all,
    read_until,
    unframed,
)

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "busybox")]


def test_output_log_and_exit_record(spawned, tmp_path):
    log = tmp_path / "log"
    config = spawned.config("sh", "-c", "echo out; echo err >&2; printf tail; exit 7")
    process, (client,) = spawned.launch(config, (AttachTarget(),), log=LogTarget(str(log)))
    data = read_all(client)
    assert process.wait() == 7
    assert (unframed(data, 1), unframed(data, 2)) == (b"out\ntail", b"err\n")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted((line["stream"], line["log"]) for line in lines) == [
        ("stderr", "err\n"),
        ("stdout", "out\n"),
        ("stdout", "tail"),
    ]
    assert json.loads((process.state / "exit").read_text())["exit_code"] == 7
    assert stat.S_IMODE((process.state / "exit").stat().st_mode) == 0o600
    assert not (process.state / "attach.sock").exists()


def test_terminal_has_its_size_and_is_resized(spawned):
    config = spawned.config("sh", "-c", "tty; stty size; read x; stty size", terminal=True)
    target = AttachTarget(stdin=True, multiplexed=False)
    process, (client,) = spawned.launch(config, (target,), open_stdin=True, console_size=(30, 100))
    assert b"30 100" in read_until(client, b"30 100")
    assert process.ask(op="resize", height=40, width=90)["ok"] is True
    client.sendall(b"\n")
    assert b"40 90" in read_all(client)
    assert process.wait() == 0


def test_detach_keys_end_the_client_and_not_the_container(spawned):
    config = spawned.config("cat", terminal=True)
    target = AttachTarget(stdin=True, multiplexed=False, detach_keys="1011")
    process, (client,) = spawned.launch(config, (target,), open_stdin=True)
    client.sendall(b"a\n")
    read_until(client, b"a\r\na\r\n")
    client.sendall(b"\x10\x11")
    assert read_all(client) == b""
    again = process.attach(replace(target, detach_keys=""))
    again.sendall(b"\x10\x11b\n\x04")
    assert b"b\r\n" in read_all(again)
    assert process.wait() == 0


def test_closed_input_is_end_of_file(spawned):
    target = AttachTarget(stdin=True, multiplexed=False)
    process, (client,) = spawned.launch(spawned.config("cat"), (target,), open_stdin=True, stdin_once=True)
    data = os.urandom(300_000)
    client.settimeout(10)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert read_all(client) == data
    sender.join()
    assert process.wait() == 0


def test_a_client_that_reads_late_loses_nothing(spawned, tmp_path):
    log = tmp_path / "log"
    config = spawned.config("sh", "-c", "seq 1 400000")
    process, (client,) = spawned.launch(config, (AttachTarget(multiplexed=False),), log=LogTarget(str(log), 0, 1))
    process.event("started")
    time.sleep(1)  # the program has to wait for us now
    assert read_all(client).split()[-1] == b"400000"
    assert process.wait() == 0
    assert log.read_bytes().count(b"\n") == 400_000


def test_the_log_is_whole_though_a_client_never_reads(spawned, tmp_path):
    log = tmp_path / "log"
    # first fills the client's buffer, so that what follows stays in the pipe until the end
    config = spawned.config("sh", "-c", "head -c 1060000 /dev/zero; sleep 1; echo; echo end")
    process, _ = spawned.launch(config, (AttachTarget(multiplexed=False),), narrow=True, log=LogTarget(str(log), 0, 1))
    assert process.wait(seconds=15) == 0
    assert json.loads(log.read_text().splitlines()[-1])["log"] == "end\n"


def test_a_client_that_is_gone_is_let_go(spawned):
    process = spawned.run("sleep", "100")
    process.ask(op="status")  # it serves
    before = len(os.listdir(f"/proc/{process.shim}/fd"))
    client = process.attach(AttachTarget())
    client.shutdown(socket.SHUT_WR)  # as docker does without stdin: it is there still
    process.ask(op="status")  # it has seen that
    assert len(os.listdir(f"/proc/{process.shim}/fd")) == before + 1
    client.close()
    wait_for(lambda: len(os.listdir(f"/proc/{process.shim}/fd")) == before, seconds=3)


def test_input_nobody_reads_does_not_hide_the_detach_keys(spawned):
    target = AttachTarget(stdin=True, multiplexed=False, detach_keys="1011")
    config = spawned.config("sh", "-c", "exec <&-; sleep 100")
    process, (client,) = spawned.launch(config, (target,), open_stdin=True)
    process.event("started")
    time.sleep(0.2)
    client.sendall(b"x" * 100_000)
    client.sendall(b"\x10\x11")
    try:
        assert read_all(client, seconds=5) == b""
    except ConnectionResetError:
        pass


def test_exec_with_a_terminal(spawned):
    process = spawned.run("sleep", "100")
    made, (client,) = spawned.execute(
        process,
        "sh",
        "-c",
        "stty size; tty",
        clients=(AttachTarget(multiplexed=False),),
        terminal=True,
        console_size=(20, 70),
    )
    assert b"20 70\r\n/dev/pts/" in read_all(client)
    assert made.wait() == 0


def test_reaping_init_with_a_terminal(spawned):
    config = spawned.config("sh", "-c", "sleep 0 & tty; echo $$; exit 6", terminal=True)
    process, (client,) = spawned.launch(config, (AttachTarget(multiplexed=False),), init=True)
    text = read_all(client).decode().split()
    assert text[0].startswith("/dev/")
    assert int(text[1]) > 1
    assert process.wait() == 6
