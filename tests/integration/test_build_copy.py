"""COPY and ADD beyond the classic builder: links, parents, patterns of what stays out, here-documents, URLs, archives."""

import hashlib
import json
import subprocess

import pytest
from build_lab import DockerBuild, good

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
SHOW = "RUN find /t | sort\n"


@pytest.fixture
def build(engine, images, tmp_path):
    return DockerBuild(engine, tmp_path / "context")


def found(out):
    """Return what the last find has printed."""
    return [line for line in out.split(" ---> Running in ")[-1].splitlines() if line.startswith("/t")]


def test_parents(build):
    files = {"x__a_txt": "1", "x__y__b_txt": "2", "x__z__c_md": "3"}
    text = "FROM busybox\nCOPY --parents x/a.txt x/*/*.txt /t/\n"
    assert found(good(build(text + SHOW, **files))) == ["/t", "/t/x", "/t/x/a.txt", "/t/x/y", "/t/x/y/b.txt"]
    (build.context / "x/y").chmod(0o750)
    text = "FROM busybox\nCOPY --parents ./x/./y ./x/./z/c.md /t\n"
    out = good(build(text + "RUN find /t | sort; stat -c /t%a /t/y\n"))
    assert found(out) == ["/t", "/t/y", "/t/y/b.txt", "/t/z", "/t/z/c.md", "/t750"]
    text = "FROM busybox AS s\nRUN mkdir -p -m 700 /p/q && chown 7:8 /p/q && echo x >/p/q/f\nFROM busybox\n"
    out = good(
        build(f"{text}COPY --from=s --parents /p/q/f /t/\nRUN find /t -type d -exec stat -c '%n %a %u:%g' {{}} +\n")
    )
    assert "/t/p/q 700 7:8" in found(out)


def test_exclude(build):
    files = {"d__a_txt": "1", "d__s__b_txt": "2", "d__s__c_md": "3", "a_txt": "4", "b_md": "5"}
    text = "FROM busybox\nCOPY --exclude=*.txt d /t/\n"
    assert found(good(build(text + SHOW, **files))) == ["/t", "/t/s", "/t/s/b.txt", "/t/s/c.md"]
    text = "FROM busybox\nCOPY --exclude=**/*.txt --exclude=!**/b.txt d /t/\n"
    assert found(good(build(text + SHOW))) == ["/t", "/t/s", "/t/s/b.txt", "/t/s/c.md"]
    text = "FROM busybox\nADD --exclude=*.md a.* b.* /t/\n"
    assert found(good(build(text + SHOW))) == ["/t", "/t/a.txt"]
    # what stays out is no part of what the cache knows
    first = good(build("FROM busybox\nCOPY --exclude=*.txt d /u/\n"))
    (build.context / "d/a.txt").write_text("changed")
    assert good(build("FROM busybox\nCOPY --exclude=*.txt d /u/\n")).splitlines()[-1] == first.splitlines()[-1]


def test_permissions(build):
    for name, mode in (("d", 0o755), ("d/s", 0o750), ("d/x.sh", 0o711), ("d/y.txt", 0o600)):
        path = build.context / name
        path.touch() if "." in name else path.mkdir()
        path.chmod(mode)
    text = "FROM busybox\nCOPY --chmod={} d /t/d\nRUN stat -c '/t %a %n' /t/d/*\n"
    for chmod, wanted in (
        ("640", ("640", "640", "640")),
        ("u=rwX,go=rX", ("755", "755", "644")),
        ("go-rwx", ("700", "700", "600")),
        ("g=u,o+t", ("1770", "1771", "1660")),
    ):
        lines = found(good(build(text.format(chmod))))
        assert [line.split()[1] for line in lines] == list(wanted), chmod
    code, _, err = build(text.format("u=rwz"))
    assert code == 1
    assert "dockerfile parse error on line 2: invalid chmod parameter: 'u=rwz'" in err


def test_link_looks_at_nothing_below(build):
    text = "FROM busybox\nRUN mkdir /real && ln -s /real /t\nCOPY --link a.txt /t/\nRUN find /t/ | sort; ls /real\n"
    assert found(good(build(text, a_txt="1"))) == ["/t/", "/t/a.txt"]
    code, _, err = build("FROM busybox\nCOPY --link --chown=alice a.txt /\n")
    assert (code, "unable to convert uid/gid chown string to host mapping: the stage is empty" in err) == (1, True)


def test_link_gives_the_same_layer_on_another_base(build, engine):
    """What is below is in no layer of --link: on a changed base it comes from the cache, with its digest."""

    def built(base, line, *options):
        out = good(
            build(
                f"FROM busybox\nRUN echo {base} >/base\n{line}\nRUN cat /base /t/sub/a.txt\n", "-t", "link:t", *options
            )
        )
        return out, json.loads(engine.docker("image", "inspect", "link:t").stdout)[0]["RootFS"]["Layers"]

    (build.context / "a.txt").write_text("1")
    first, layers = built("one", "COPY --link a.txt /t/sub/", "--no-cache")
    assert "Using cache" not in first
    for number, base in enumerate(("two", "three")):
        out, again = built(base, "COPY --link a.txt /t/sub/")
        assert (out.count("Using cache"), f"{base}\n1" in out) == (1, True), out
        assert (again[1] != layers[1], again[2]) == (True, layers[2]), number
    out, again = built("four", "WORKDIR /t\nCOPY --link a.txt sub/")
    assert ("Using cache" in out, "four\n1" in out) == (False, True)  # written otherwise, it is another step
    (build.context / "a.txt").write_text("2")
    out, again = built("two", "COPY --link a.txt /t/sub/")
    assert ("two\n2" in out, again[2] != layers[2]) == (True, True)
    assert "Using cache" in built("five", "COPY --link a.txt /t/sub/")[0]
    engine.docker("rmi", "-f", "link:t")
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    assert "Using cache" not in built("six", "COPY --link a.txt /t/sub/")[0]


def test_documents_beside_files(build):
    text = "FROM busybox\nENV W=you\nCOPY a.txt <<one <<'two' /t/\nhello $W\none\n$W\ntwo\n"
    out = good(build(f"{text}RUN find /t | sort; cat /t/*\n", a_txt="file\n"))
    assert found(out) == ["/t", "/t/a.txt", "/t/one", "/t/two"]
    assert "file\nhello you\n$W\n" in out
    assert "/t\n" in good(
        build("FROM busybox\nADD --chmod=700 <<x /t\ny\nx\nRUN ls -l /t | grep -o '^-rwx------' && find /t\n")
    )


def test_archives_beside_files(build):
    for name in ("one", "two"):
        (build.context / name).mkdir()
        (build.context / name / f"in-{name}").write_text(name)
        subprocess.run(["tar", "-C", build.context / name, "-czf", build.context / f"{name}.tgz", "."], check=True)
    text = "FROM busybox\nADD one.tgz a.txt two.tgz one /t/\n"
    assert found(good(build(text + SHOW, a_txt="1"))) == ["/t", "/t/a.txt", "/t/in-one", "/t/in-two"]
    text = "FROM busybox\nADD --unpack=false one.tgz /t/\n"
    assert found(good(build(text + SHOW))) == ["/t", "/t/one.tgz"]


@pytest.fixture
def server(engine, tmp_path):
    root = tmp_path / "served"
    root.mkdir()
    ready = f"import http.server, os; os.chdir({str(root)!r}); s = http.server.HTTPServer(('127.0.0.1', 8097), http.server.SimpleHTTPRequestHandler); print('on', flush=True); s.serve_forever()"
    command = ["nsenter", f"--net=/proc/{engine.netns_holder.pid}/ns/net", "--", "python3", "-c", ready]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"on\n"
        yield root
        process.kill()


def test_urls(build, server):
    url = "http://127.0.0.1:8097"
    (server / "f.bin").write_bytes(b"content")
    subprocess.run(["tar", "-C", server, "-czf", server / "f.tgz", "f.bin"], check=True)
    text = f"FROM busybox\nADD {url}/f.bin {url}/f.tgz /t/\nADD {url}/f.bin /t/named\n"
    out = good(build(f"{text}RUN find /t -type f -exec stat -c '%n %a %u' {{}} + | sort; date -r /t/named +%Y\n"))
    assert found(out) == ["/t/f.bin 600 0", "/t/f.tgz 600 0", "/t/named 600 0"]
    assert found(good(build(f"FROM busybox\nADD --unpack=true {url}/f.tgz /t/\n{SHOW}"))) == ["/t", "/t/f.bin"]
    digest = hashlib.sha256(b"content").hexdigest()
    text = f"FROM busybox\nADD --checksum=sha256:{digest} {url}/f.bin /t/\n"
    first = good(build(text + SHOW))
    (server / "f.bin").write_bytes(b"changed")
    assert good(build(text + SHOW)).splitlines()[-1] == first.splitlines()[-1]  # it is not fetched again
    code, _, err = build(text, "--no-cache")
    assert (code, f"digest mismatch sha256:{hashlib.sha256(b'changed').hexdigest()}: sha256:{digest}" in err) == (
        1,
        True,
    ), err
    for words, message in (
        (f"{url}/none /t", f"failed to GET {url}/none with status 404"),
        (f"{url}/ /t/", f"cannot determine filename for source {url}/"),
        ("--checksum=sha256:0 a.txt /t", "checksum can't be specified for non-HTTP(S) sources"),
        (f"--checksum=md5:0 {url}/f.bin /t", "invalid checksum: md5:0"),
        ("ftp://127.0.0.1/x /t", "ADD knows http, https and git: ftp://127.0.0.1/x"),
    ):
        code, out, err = build(f"FROM busybox\nADD {words}\n", a_txt="1")
        assert (code, message in err) == (1, True), out + err


def test_repositories(build, server):
    work, git = (
        server.parent / "work",
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"],
    )
    subprocess.run([*git, "init", "-q", work], check=True)
    (work / "sub").mkdir()
    (work / "sub/file").write_text("one")
    subprocess.run([*git, "-C", work, "add", "."], check=True)
    subprocess.run([*git, "-C", work, "commit", "-qm", "first"], check=True)
    subprocess.run([*git, "clone", "-q", "--bare", work, server / "r.git"], check=True)
    subprocess.run(["git", "-C", server / "r.git", "update-server-info"], check=True)
    url = "http://127.0.0.1:8097/r.git"
    assert found(good(build(f"FROM busybox\nADD {url} /t\n{SHOW}"))) == ["/t", "/t/sub", "/t/sub/file"]
    assert found(good(build(f"FROM busybox\nADD {url}#main:sub /t/\n{SHOW}"))) == ["/t", "/t/file"]
    text = f"FROM busybox\nADD --keep-git-dir=true {url} /t\nRUN ls -A /t; cat /t/.git/HEAD\n"
    head = subprocess.run(["git", "-C", work, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert f"\n.git\nsub\n{head}" in good(build(text))
