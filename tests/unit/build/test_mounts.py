"""RUN --mount: options, defaults, and what is refused, in BuildKit's words."""

import pytest

from orlop.build.instructions import read_instructions
from orlop.build.mounts import Mount, mount_origins, parse_mount
from orlop.build.parser import DockerfileError, parse
from orlop.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/a", Mount("bind", "/a")),
        ("type=bind,from=b,src=/s,dst=a,rw", Mount("bind", "a", "/s", "b", readonly=False)),
        ("type=cache,target=/c", Mount("cache", "/c", readonly=False)),
        ("type=cache,id=i,target=/c,sharing=LOCKED,mode=0700,uid=1,gid=2,ro",
         Mount("cache", "/c", name="i", sharing="locked", mode=0o700, uid=1, gid=2)),
        ("type=secret,id=d/x", Mount("secret", "/run/secrets/x", name="d/x")),
        ("type=secret,target=/t/y,required=true,mode=0444", Mount("secret", "/t/y", name="y", required=True, mode=0o444)),
        ("type=secret,id=x,env=TOKEN", Mount("secret", name="x", env="TOKEN")),
        ("type=secret,id=x,env=TOKEN,target=/x", Mount("secret", "/x", name="x", env="TOKEN")),
        ("type=ssh,required", Mount("ssh", name="default", required=True)),
        ("type=tmpfs,destination=/t,size=2m", Mount("tmpfs", "/t", size=2 << 20, readonly=False)),
        ('"target=/a,b"', Mount("bind", "/a,b")),
    ],
)  # fmt: skip
def test_options_and_defaults(text, mount):
    assert parse_mount(text) == mount


def test_variables_wait_for_their_values():
    assert parse_mount("type=cache,target=$T") is None
    assert parse_mount("type=cache,target=$T", lambda text: text.replace("$T", "/t")).target == "/t"
    assert mount_origins(("from=a,target=/x", "type=cache,target=/y")) == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=bnd,target=/x", 'unsupported mount type "bnd" (did you mean bind?)'),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("targ=/x", "unexpected key 'targ' in 'targ=/x' (did you mean target?)"),
        ("type=tmpfs,target=/x,mode=1", "unexpected key 'mode' for mount type 'tmpfs'"),
        ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
        ("type=cache,target=/x,sharing=al", 'unsupported sharing value "al"'),
        ("type=cache,target=/x,mode=8", "invalid value 8 for mode"),
        ("type=cache,target=/x,uid=4294967295", "invalid value 4294967295 for uid"),
        ("type=tmpfs,target=/x,size=many", "invalid value for size: many"),
        ("type=bind,source=/x", "invalid bind mount: target is required"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("from=$X,target=/x", "'from' doesn't support variable expansion, define alias stage instead"),
        ("target=/x,ro=perhaps", "invalid value for readonly: perhaps"),
        ('"target=/x', "failed to parse csv mounts: "),
    ],
)
def test_refusals(text, message):
    with pytest.raises(InvalidParameterError) as caught:
        parse_mount(text)
    assert message in str(caught.value)
    with pytest.raises(DockerfileError, match="line 2: "):
        read_instructions(parse(f"FROM a\nRUN --mount={text} x".encode()))


def test_modes_are_known_or_refused():
    for text, message in (
        ("RUN --network=wide x", 'line 2: invalid network mode "wide", expected one of default, none, host'),
        ("RUN --security=insecur x", 'line 2: invalid security mode "insecur", expected one of sandbox, insecure'),
        ("COPY --link=perhaps a b", "line 2: expecting boolean value for flag link, not: perhaps"),
        ("COPY --from=$X a b", "line 2: variable expansion is not supported for --from"),
    ):
        with pytest.raises(DockerfileError, match=message):
            read_instructions(parse(f"FROM a\n{text}".encode()))
