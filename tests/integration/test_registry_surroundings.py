"""What lies between the engine and registries: proxies, the index that is searched, files behind URLs."""

import json
import subprocess
import sys

import pytest
from registry_lab import Registry

from conftest import make_engine
from harness import ROOT, busybox_tar, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client", "busybox", "docker-registry"),
]
PORT = 8600
WEB = f"127.0.0.1:{PORT}"
PROXIES = {"http-proxy": f"http://user:secret@{WEB}", "https-proxy": WEB, "no-proxy": "direct.example,192.0.2.0/24"}


class Lab:
    def __init__(self):
        self.engine = make_engine("--insecure-registry", "plain.example", "--insecure-registry", "127.0.0.0/8")
        self.directory = self.engine.home / "web"
        self.directory.mkdir()
        self.certificates()
        self.engine.stop()
        configuration = {"proxies": PROXIES, "certs-dir": str(self.engine.home / "certs.d")}
        (self.engine.home / "daemon.json").write_text(json.dumps(configuration))
        self.engine.start()
        self.engine.import_busybox()
        self.engine.in_network("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
        net = f"--net=/proc/{self.engine.netns_holder.pid}/ns/net"
        program = (sys.executable, ROOT / "tests/fake_web.py", PORT, self.directory)
        hosts = ("plain.example=5000", "tls.example=5443")
        self.process = subprocess.Popen(["nsenter", net, "--", *map(str, (*program, *hosts))])
        wait_for(lambda: self.curl("/log") is not None, what="web server")

    def certificates(self):
        trusted = self.engine.home / "certs.d/tls.example"
        trusted.mkdir(parents=True)
        self.tls = self.engine.home / "tls"
        self.tls.mkdir()
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=orlop-test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:tls.example"),
                *("-keyout", str(self.tls / "key.pem"), "-out", str(self.tls / "cert.pem")),
            ],
            check=True,
            capture_output=True,
        )
        (trusted / "ca.crt").write_bytes((self.tls / "cert.pem").read_bytes())

    def curl(self, path):
        done = self.engine.in_network("curl", "-s", "--noproxy", "*", f"http://{WEB}{path}", check=False)
        return done.stdout if done.returncode == 0 else None

    def log(self):
        return json.loads(self.curl("/log"))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.engine.destroy()


@pytest.fixture(scope="module")
def lab():
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


def test_registries_through_proxies(lab):
    engine = lab.engine
    shown = engine.docker("info", "-f", "{{.HTTPProxy}} {{.HTTPSProxy}} {{.NoProxy}}").stdout.split()
    assert shown == [f"http://xxxxx:xxxxx@{WEB}", WEB, PROXIES["no-proxy"]]
    with Registry(engine, port=5000), Registry(engine, port=5443, tls=lab.tls):
        for name in ("plain.example/box:1", "tls.example/box:1"):
            engine.docker("tag", "busybox", name)
            engine.docker("push", name)
            engine.docker("rmi", name)
            engine.docker("pull", name)
        # on loopback, and what is an exception, nothing goes through a proxy
        before = len(lab.log())
        engine.docker("tag", "busybox", "127.0.0.1:5000/box:1")
        engine.docker("push", "127.0.0.1:5000/box:1")
        refused = engine.docker("pull", "direct.example/box:1", check=False)
        assert "dial tcp: lookup direct.example" in refused.stderr
        assert len(lab.log()) == before
    asked = lab.log()
    plain = [entry for entry in asked if entry[1].startswith("http://plain.example/v2/box/")]
    assert {"HEAD", "PUT"} <= {entry[0] for entry in plain}
    assert {entry[2] for entry in plain} == {"Basic dXNlcjpzZWNyZXQ="}
    assert ["CONNECT", "tls.example:443", "", ""] in asked
    assert not [entry for entry in asked if entry[0] != "CONNECT" and "tls.example" in entry[1]]
    refused = engine.docker("pull", "unknown.example/box", check=False)
    assert 'Get "https://unknown.example/v2/": Bad Gateway' in refused.stderr


def test_hosts_toml(lab):
    """Mirrors of any registry, in the file's order, with trust of their own; pushes go to the registry itself."""
    engine = lab.engine
    directory = engine.home / "certs.d/mirrored.example"
    directory.mkdir()
    (directory / "mirror.crt").write_bytes((lab.tls / "cert.pem").read_bytes())
    (directory / "hosts.toml").write_text(f"""
server = "https://nowhere.example"
[host."http://{WEB}/other/path"]
  override_path = true
  [host."http://{WEB}/other/path".header]
    Authorization = "custom"
[host."https://127.0.0.1:5444"]
  capabilities = ["pull", "resolve"]
  ca = "mirror.crt"
""")
    with Registry(engine, port=5444, tls=lab.tls):
        engine.docker("tag", "busybox", "127.0.0.1:5444/box:1")
        engine.docker("push", "127.0.0.1:5444/box:1")
        engine.docker("pull", "mirrored.example/box:1")
        asked = [entry for entry in lab.log() if entry[1].startswith("/other/path/")]
        assert ["GET", "/other/path/box/manifests/1", "", "custom"] in asked
        refused = engine.docker("pull", "mirrored.example/none:1", check=False)
        assert 'Get "https://nowhere.example/v2/": Bad Gateway' in refused.stderr
        refused = engine.docker("push", "mirrored.example/box:1", check=False)
        assert 'Get "https://nowhere.example/v2/": Bad Gateway' in refused.stdout + refused.stderr
        (directory / "mirror.crt").unlink()
        assert "mirror.crt: no such file" in engine.docker("pull", "mirrored.example/box:1", check=False).stderr
        (directory / "hosts.toml").write_text("dial_timeout = '1s'")
        refused = engine.docker("pull", "mirrored.example/box:1", check=False)
        assert f"{directory}/hosts.toml: unknown key: dial_timeout" in refused.stderr


def search(lab, *arguments):
    form = ("--format", "{{.Name}}|{{.Description}}|{{.StarCount}}|{{.IsOfficial}}")
    return lab.engine.docker("search", *form, *arguments, check=False)


def test_search(lab):
    both = "library/box|the box|9|[OK]\nsomebody/box||2|\n"
    assert search(lab, f"{WEB}/box").stdout == both
    assert search(lab, "--limit", "1", f"{WEB}/box").stdout == both.splitlines(keepends=True)[0]
    assert search(lab, "-f", "stars=3", f"{WEB}/box").stdout == both.splitlines(keepends=True)[0]
    assert search(lab, "-f", "is-official=false", f"{WEB}/box").stdout == both.splitlines(keepends=True)[1]
    assert search(lab, "-f", "is-automated=true", f"{WEB}/box").stdout == ""
    lab.engine.docker("search", f"{WEB}/box", env={"DOCKER_CONFIG": str(logged_in(lab))})
    assert [entry[3] for entry in lab.log() if entry[1].startswith("/v1/search")][-1] == "Basic bWU6d29yZA=="
    for arguments, message in (
        (("--limit", "101", "box"), "limit 101 is outside the range of [1, 100]"),
        (("-f", "stars=x", "box"), "invalid filter 'stars=[x]'"),
        (("-f", "is-official=x", "box"), "invalid filter 'is-official=[x]'"),
        (("-f", "size=1", "box"), "invalid filter 'size'"),
        (("https://box",), "repository name (https://box) should not have a scheme"),
        ((f"{WEB}/broken",), "error decoding search results"),
        ((f"{WEB}/down",), "Unexpected status code 503"),
        (("127.0.0.1:9/box",), 'invalid registry endpoint "https://127.0.0.1:9/v1/": HTTPS attempt: '),
    ):
        refused = search(lab, *arguments)
        assert (refused.returncode, message in refused.stderr) == (1, True), refused


def logged_in(lab):
    directory = lab.engine.home / "logged-in"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"auths": {WEB: {"auth": "bWU6d29yZA=="}}}))
    return directory


def test_import_from_a_url(lab):
    engine = lab.engine
    busybox_tar(lab.directory / "box.tar")
    here, outside = f"http://{WEB}", f"http://192.0.2.1:{PORT}"
    for url in (
        f"{here}/box.tar",
        f"{WEB}/box.tar",
        f"{here}/redirect?to=/box.tar",
        f"{outside}/redirect?to={outside}/box.tar",
    ):
        source = url if "://" in url else None
        if source is None:  # the client would open a file of that name
            status, body = engine.http("POST", f"/images/create?fromSrc={url}&repo=fetched")
            assert (status, b'"error"' in body) == (200, False)
        else:
            engine.docker("import", "--change", "CMD echo hey", source, "fetched")
        assert engine.inspect("fetched")["Comment"] == f"Imported from {url}"
    assert engine.docker("run", "--rm", "fetched").stdout == "hey\n"
    engine.docker("rmi", "-f", "fetched")
    before = set((engine.data_root / "layers/overlay2").iterdir())
    for url, message in (
        (f"{here}/missing", f"failed to GET {here}/missing with status 404 Not Found"),
        (f"{here}/huge", f"file is larger than {16 << 30} bytes: {1 << 50}"),
        (f"{here}/cut", "unexpected end of download"),
        (f"{here}/loop", "stopped after 10 redirects"),
        (f"{here}/redirect?to=file:///etc/passwd", "bad Location: 'file:///etc/passwd'"),
        (f"{here}/redirect?to=http://u:p@{WEB}/box.tar", "bad Location"),
        (f"{outside}/redirect?to={here}/box.tar", f'refusing to be redirected to this machine: "{here}/box.tar"'),
        (f"{outside}/redirect?to=http://169.254.169.254/", "refusing to be redirected to this machine"),
        (f"{outside}/redirect?to=http://[::ffff:127.0.0.1]:{PORT}/", "refusing to be redirected to this machine"),
        (f"http://u:p@{WEB}/box.tar", "not a URL of http or https, without a user"),
    ):
        refused = engine.docker("import", url, "bad", check=False)
        assert (refused.returncode, message in refused.stderr + refused.stdout) == (1, True), (url, refused)
    status, body = engine.http("POST", "/images/create?fromSrc=ftp://example.org/box.tar")
    assert (status, b"not a URL of http or https" in body) == (400, True)
    assert engine.docker("images", "-q", "bad").stdout == ""
    wait_for(lambda: set((engine.data_root / "layers/overlay2").iterdir()) <= before, what="end of unpacking")
