"""What comes of orlop build: files, archives, errors, and the same image twice."""

import gzip
import json
import os
import subprocess
import tarfile

import pytest
from backports import zstd
from build_lab import build, steps, write

from harness import busybox_tar

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_outputs(engine, images, tmp_path):
    context = write(
        tmp_path / "c",
        "FROM busybox AS a\nRUN mkdir /out && echo hi >/out/f && ln -s f /out/l\nFROM scratch\nCOPY --from=a /out /\n",
    )
    places = {kind: tmp_path / kind for kind in ("local", "tar", "oci", "docker", "unpacked")}
    outputs = [f"type={kind},dest={place}" for kind, place in places.items() if kind not in ("local", "unpacked")]
    outputs += [f"type=oci,tar=false,dest={places['unpacked']}", str(places["local"])]
    options = [word for text in outputs for word in ("-o", text)]
    metadata, iid = tmp_path / "metadata", tmp_path / "iid"
    build(engine, "-t", "outer:out", "--iidfile", iid, "--metadata-file", metadata, *options, context)
    image = json.loads(engine.docker("image", "inspect", "outer:out").stdout)[0]["Id"]
    assert iid.read_text() == image
    assert json.loads(metadata.read_text()) == {
        "containerimage.config.digest": image,
        "containerimage.digest": image,
        "image.name": "outer:out",
    }
    assert sorted(os.listdir(places["local"])) == ["f", "l"]
    assert ((places["local"] / "f").read_text(), os.readlink(places["local"] / "l")) == ("hi\n", "f")
    with tarfile.open(places["tar"]) as archive:
        assert archive.getnames() == ["f", "l"]
    for kind in ("oci", "docker"):
        with tarfile.open(places[kind]) as archive:
            assert {"oci-layout", "index.json", "manifest.json"} <= set(archive.getnames())
    assert json.loads((places["unpacked"] / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    engine.docker("load", "-i", places["docker"])
    tar = engine.orlop("build", "-o", "-", "-q", context, text=False).stdout
    assert tar == places["tar"].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--squash"], "--squash is not supported"),
        (["--platform", "linux/s390x"], "building for another platform is not supported: linux/s390x"),
        (["--platform", "linux/amd64,linux/arm64"], "unknown operating system or architecture"),
        (["-o", "type=image,foo=1"], "unsupported field of --output: foo"),
        (["-o", "type=zip,dest=x"], "unsupported type of --output"),
        (["-o", "type=tar,dest=/nonexistent/x"], "invalid output path: /nonexistent/x"),
        (["-o", "type=oci"], "dest is required for oci output"),
        (["--push"], "tag is needed when pushing to registry"),
        (["--secret", "id=x,src=/nonexistent"], "failed to stat /nonexistent: no such file or directory"),
        (["--secret", "id=x,env=ORLOP_NOT_SET"], "no such environment variable: ORLOP_NOT_SET"),
        (["--ssh", "default=/etc/passwd"], "failed to parse /etc/passwd: ssh: no key found"),
        (["--progress", "fancy"], "invalid progress mode fancy"),
        (["--progress", "tty"], "failed to get console"),
        (["--build-context", "x"], "invalid context value: x, expected key=value"),
        (["--cache-from", "type=gha"], "unsupported cache source"),
    ],
)
def test_refusals(engine, images, tmp_path, options, message):
    done = engine.orlop("build", *options, write(tmp_path, "FROM busybox\n"), check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_errors_name_the_file_and_the_line(engine, images, tmp_path):
    context = write(tmp_path / "c", "FROM busybox\n")
    for text, words in (
        ("RUNX x", "dockerfile parse error on line 3: unknown instruction: RUNX (did you mean RUN?)"),
        ("RUN exit 7", "The command '/bin/sh -c exit 7' returned a non-zero code: 7"),
        ("COPY nothing /", "COPY failed: file not found in build context or excluded by .dockerignore: stat nothing: "),
        ("EXPOSE 99999", "invalid containerPort: 99999"),
        ("ENV A=${B:?say}", 'failed to process "${B:?say}": B: say'),
    ):
        (context / "other").write_text(f"FROM busybox\nENV C=1\n{text}\nRUN true\n")
        done = build(engine, "-f", context / "other", context, check=False)
        assert done.returncode
        assert f"other:3: {words}" in done.stderr
        docker = engine.docker("build", "-f", context / "other", context, env={"DOCKER_BUILDKIT": "0"}, check=False)
        assert words in docker.stderr
        assert "other:3" not in docker.stderr


def test_source_date_epoch_gives_the_same_image_twice(engine, own_engine, images, tmp_path):
    script = (
        "FROM scratch AS made\nADD base.tar /\nARG SOURCE_DATE_EPOCH\nWORKDIR /some/deep\nCOPY x /x\n"
        "RUN mkdir -p /a/b && echo $SOURCE_DATE_EPOCH >/a/b/c && rm /x && ln -s b /a/l && mkfifo /a/p\n"
        'FROM made\nCOPY --from=made /a /copied/\nCMD ["sh"]\n'
    )
    context = write(tmp_path / "c", script, x="1")
    busybox_tar(context / "base.tar")
    saved, ids = [], []
    for number, one in enumerate((engine, own_engine)):
        build(one, "-t", "outer:same", "--iidfile", tmp_path / "id", context, env={"SOURCE_DATE_EPOCH": "1700000000"})
        ids.append((tmp_path / "id").read_text())
        one.docker("save", "-o", tmp_path / f"{number}.tar", "outer:same")
        saved.append((tmp_path / f"{number}.tar").read_bytes())
    assert ids[0] == ids[1]
    assert saved[0] == saved[1]
    assert "2023-11-14T22:13:20Z" in engine.docker("inspect", "-f", "{{.Created}}", "outer:same").stdout
    engine.orlop("build", "-o", tmp_path / "tree", context, env={"SOURCE_DATE_EPOCH": "1700000000"})
    assert (tmp_path / "tree/a/b/c").stat().st_mtime == 1700000000
    plain = engine.orlop("build", "-q", context).stdout.strip()
    assert plain != ids[0]  # what bears the time as it is does not come from what does not
    bad = build(engine, "--build-arg", "SOURCE_DATE_EPOCH=tomorrow", context, check=False)
    assert "invalid SOURCE_DATE_EPOCH: 'tomorrow'" in bad.stderr


def test_flags(engine, images, tmp_path):
    """``orlop build``: names, labels, arguments, and what its steps get."""
    script = (
        "FROM busybox\nARG X=none\nARG Y\nLABEL a=file b=file\n"
        "RUN echo x=$X y=$Y; ulimit -n; cat /etc/hosts; ip link; df /dev/shm\n"
    )
    options = [
        *("-t", "outer:one", "-t", "outer:two", "--tag", "outer-three", "--label", "b=flag", "--label", "c=flag"),
        *("--build-arg", "X=1", "--build-arg", "Y", "--network", "none", "--add-host", "there:192.0.2.7"),
        *("--ulimit", "nofile=77:88", "--shm-size", "1m"),
    ]
    done = build(engine, *options, write(tmp_path, script), env={"Y": "from the environment"})
    for words in (" x=1 y=from the environment\n", " 77\n", " 192.0.2.7\tthere\n", " 1024 "):
        assert words in done.stderr
    assert "eth0" not in done.stderr
    found = [
        json.loads(engine.docker("image", "inspect", name).stdout)[0]
        for name in ("outer:one", "outer:two", "outer-three")
    ]
    assert len({image["Id"] for image in found}) == 1
    assert found[0]["Config"]["Labels"] == {"a": "file", "b": "flag", "c": "flag"}


def test_parents_of_directories_are_the_owner_s(engine, images, tmp_path):
    """As with BuildKit; the classic builder leaves them to root, if it is a directory that is copied."""
    context = write(
        tmp_path / "c",
        "FROM busybox\nCOPY --chown=7 d /n/deep\nCOPY --chown=7 d/x /m/deep\nRUN stat -c %u:%g:%n /n /m\n",
    )
    write(context / "d", "", x="1")
    assert {" 7:7:/n", " 7:7:/m"} <= {line[-7:] for line in build(engine, context).stderr.splitlines()}
    classic = engine.docker("build", context, env={"DOCKER_BUILDKIT": "0"}).stdout
    assert {"0:0:/n", "7:7:/m"} <= set(classic.splitlines())


def test_working_directories_are_the_user_s(engine, images, tmp_path):
    """As with BuildKit, which was asked; the classic builder makes them root's."""
    users = {
        "alice": "1000:1000",
        "1000": "1000:1000",
        "77": "77:77",
        "alice:50": "1000:50",
        ":50": "0:50",
        "5:6": "5:6",
    }
    lines = [f"USER {user}\nWORKDIR /w{number}/x\nWORKDIR /tmp\n" for number, user in enumerate(users)]
    context = write(tmp_path / "c", f"FROM busybox\n{''.join(lines)}RUN stat -c '%u:%g %n' /w*/x /w* /tmp\n")
    done = build(engine, context)
    for number, ids in enumerate(users.values()):
        assert f" {ids} /w{number}/x\n" in done.stderr
        assert f" {ids} /w{number}\n" in done.stderr
    assert " 0:0 /tmp\n" in done.stderr
    classic = engine.docker("build", context, env={"DOCKER_BUILDKIT": "0"}).stdout
    assert "\n0:0 /w0/x\n" in classic  # which comes from no cache of the other
    assert set(list(steps(build(engine, context)).values())[1:]) == {"CACHED"}


def test_standard_input(engine, images, tmp_path):
    """A Dockerfile without a context, and a tar, plain and compressed."""
    script = "FROM busybox\nRUN echo alone\n"
    assert " alone\n" in build(engine, "-", input=script).stderr
    context = write(tmp_path / "c", "FROM busybox\nCOPY . /c\nRUN ls -A /c\n", x="1")
    tar = subprocess.run(["tar", "-C", context, "-c", "."], capture_output=True, check=True).stdout
    for data in (tar, gzip.compress(tar), zstd.compress(tar)):
        done = build(engine, "--no-cache", "-", input=data, text=False)
        assert b" x\n" in done.stderr
    refused = build(engine, "-f", "-", "-", input="", check=False)
    assert "can't use stdin for both build context and dockerfile" in refused.stderr


def test_entitlements(engine, images, tmp_path):
    """Threat F3: what a step may ask for is what the user allows the build, and that it gets."""
    script = "FROM busybox\nRUN --network=host readlink /proc/self/ns/net\nRUN --security=sandbox grep CapBnd /proc/self/status\n"
    context = write(tmp_path, script)
    assert engine.netns_holder is not None
    ours = os.readlink(f"/proc/{engine.netns_holder.pid}/ns/net")
    done = build(engine, "--allow", "network.host", context)
    assert f" {ours}\n" in done.stderr
    assert " CapBnd:\t00000000a80425fb\n" in done.stderr
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN --security=insecure grep -E 'CapBnd|Seccomp:' /proc/self/status\n"
    )
    refused = build(engine, "--allow", "network.host", context, check=False)
    assert "security.insecure is not allowed" in refused.stderr
    done = build(engine, "--allow", "security.insecure", context)
    assert " Seccomp:\t0\n" in done.stderr
    assert " CapBnd:\t00000000a80425fb\n" not in done.stderr
