"""RUN --mount, --network and --security: what a step sees, what stays of it, and what hostile Dockerfiles reach."""

import os

import pytest
from build_lab import DockerBuild, good

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.fixture
def build(engine, images, tmp_path):
    return DockerBuild(engine, tmp_path / "context")


def test_binds(build):
    text = """FROM busybox AS made
RUN mkdir -p /out/sub && echo stage > /out/sub/file && ln -s /out/sub/file /link && echo top > /top
FROM busybox
RUN --mount=target=/ctx cat /ctx/a && ! touch /ctx/x
RUN --mount=type=bind,source=d/f,target=/only/file cat /only/file
RUN --mount=type=bind,from=made,target=/m cat /m/out/sub/file /m/top
RUN --mount=type=bind,from=made,source=/out/sub,dst=/part cat /part/file && ! touch /part/x
RUN --mount=type=bind,from=made,source=link,target=/linked cat /linked
RUN --mount=type=bind,from=busybox,source=bin,target=/b test -x /b/busybox
RUN --mount=type=bind,rw,target=/w cat /w/d/f && echo changed > /w/a && cat /w/a
RUN --mount=type=bind,rw,from=made,source=out,target=/w rm -r /w/sub && ls -A /w | wc -l
RUN ls -A / > /tmp/all; grep -c . /tmp/all; ! grep -E "ctx|only|part|linked|^m$|^w$" /tmp/all
"""
    out = good(build(text, "--no-cache", a="one\n", d__f="two\n"))
    for words in ("one\n", "two\n", "stage\ntop\n", "stage\n", "changed\n"):
        assert words in out


def test_what_a_step_puts_beside_a_mount_stays(build):
    """F2: what is left out of a layer is empty places of mounts, not what a step made there."""
    text = """FROM busybox
RUN --mount=type=tmpfs,target=/made/deep/t echo kept >/made/file && echo too >/made/deep/file
RUN --mount=type=tmpfs,target=/gone/deep/t true
RUN cat /made/file /made/deep/file && test ! -e /made/deep/t && test ! -e /gone
"""
    assert "kept\ntoo\n" in good(build(text, "--no-cache"))


def test_cache_mounts_stay_and_are_in_no_layer(build, engine):
    step = "RUN --mount=type=cache,id=kept,target=/cache,mode=0700,uid=5,gid=6 "
    text = f"FROM busybox\n{step}echo x >> /cache/n; wc -l < /cache/n; stat -c %a:%u:%g /cache\nRUN test ! -e /cache\n"
    assert "\n1\n700:5:6\n" in good(build(text, "--no-cache"))
    assert "\n2\n" in good(build(text, "--no-cache"))
    other = "FROM busybox AS seed\nRUN echo seed > /s\nFROM busybox\nRUN --mount=type=cache,target=/c,from=seed ls /c/s && echo x >/c/s\n"
    assert "/c/s\n" in good(build(other))
    assert (
        "read only"
        in build("FROM busybox\nRUN --mount=type=cache,id=kept,target=/c,ro touch /c/x 2>&1 | sed s/-/\\ /\n")[
            1
        ].lower()
    )


def test_locked_caches_exclude_each_other_and_private_ones_do_not(build):
    def stage(name, sharing):
        mount = f"RUN --mount=type=cache,id=l-{sharing},target=/c,sharing={sharing}"
        return f"FROM busybox AS {name}\n{mount} test ! -e /c/held; touch /c/held; sleep 0.3; rm /c/held; ls -A /c; touch /done\n"

    copies = "".join(f"COPY --from={name} /done /{name}\n" for name in "xyz")
    for sharing in ("locked", "private"):
        stages = "".join(
            stage(name, sharing).replace("test ! -e /c/held;", f"test ! -e /c/held || exit 9; : {name};")
            for name in "xyz"
        )
        good(build(f"{stages}FROM busybox\n{copies}", "--no-cache"))


def test_tmpfs_network_and_security(build):
    text = """FROM busybox
RUN --mount=type=tmpfs,target=/t,size=1m df /t | tail -1 && printf '#!/bin/sh\\necho ran\\n' > /t/run && chmod +x /t/run && /t/run
RUN --network=none ! ip -o link | grep -q eth0
RUN --network=default ip -o link | grep -q eth0
"""
    out = good(build(text, "--no-cache"))
    assert " 1024 " in out
    assert "\nran\n" in out
    for flag, name in (("--network=host", "network.host"), ("--security=insecure", "security.insecure")):
        code, _, err = build(f"FROM busybox\nRUN {flag} true\n")
        assert code == 1
        assert f"{name} is not allowed: line 2: RUN {flag} true (allow it with --allow {name})" in err


def test_absent_secrets_and_agents(build):
    good(
        build(
            'FROM busybox\nRUN --mount=type=secret,id=s test ! -e /run/secrets/s\nRUN --mount=type=ssh test -z "$SSH_AUTH_SOCK"\n'
        )
    )
    assert "secret s: not found" in build("FROM busybox\nRUN --mount=type=secret,id=s,required true\n")[2]
    assert "unset ssh forward key default" in build("FROM busybox\nRUN --mount=type=ssh,required true\n")[2]


def test_scripts(build):
    text = 'FROM busybox\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print "awk says" 6 * 7 }\nEOF\nRUN ls -A /dev/pipes 2>&1 | wc -l\n'
    assert "awk says42\n" in good(build(text))


def test_hostile_mounts_reach_nothing_of_the_host(build, engine, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret").write_text("host")
    (build.context / "out").symlink_to(outside)
    for mount in ("source=out/secret", "source=../../../../../../../../etc/shadow", f"source={outside}/secret"):
        code, out, err = build(f"FROM busybox\nRUN --mount={mount},target=/x cat /x\n")
        assert (code, "file does not exist" in err) == (1, True), out + err
    text = f"""FROM busybox AS evil
RUN ln -s {outside} /trap && ln -s ../../../../../../../..{outside} /up
FROM evil
RUN --mount=type=bind,from=evil,source=/trap/secret,target=/x cat /x
"""
    code, out, err = build(text)
    assert (code, "no such file or directory" in err) == (1, True), out + err
    good(
        build(
            f"FROM busybox\nRUN ln -s {outside} /trap\nRUN --mount=type=cache,id=../../{outside},target=/trap/deep echo x > /trap/deep/y\n"
        )
    )
    assert os.listdir(outside) == ["secret"]


def test_working_directories_lead_to_nothing_of_the_host(build):
    """Threat A2 (CVE-2024-21626): a WORKDIR that is a descriptor of whoever starts the step, or a link to one."""
    for number in (5, 7, 8, 9):
        text = (
            f"FROM busybox\nWORKDIR /proc/self/fd/{number}\nRUN cat ../../../../etc/shadow ../../../../../etc/shadow\n"
        )
        code, out, err = build(text)
        assert code != 0, out
        assert "root:" not in out + err
    text = "FROM busybox\nRUN ln -s /proc/self/fd/7 /w\nWORKDIR /w\nRUN pwd && cat ../../../etc/shadow\n"
    code, out, err = build(text)
    assert code != 0, out
    assert "root:" not in out + err
