"""``config.json`` of the OCI runtime-spec 1.3, for Linux, as typed values."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import ALPHANUMERIC, consists_of, is_bare, is_number
from orlop.spec.oci.fields import Fields
from orlop.spec.oci.linux import IdMapping, Linux, parse_linux, parse_mappings
from orlop.spec.oci.process import Process, parse_process
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue
    from orlop.spec.oci.hooks import Hooks

SPEC_VERSION = "1.3.0"
_VERSION_SUFFIX = ALPHANUMERIC | frozenset(".+-")


@dataclass(frozen=True)
class Root:
    """The root file system: ``path`` relative to the bundle or absolute."""

    path: str
    readonly: bool = False


@dataclass(frozen=True)
class Mount:
    """One mount, in order; ``options`` as in mount(8) and the specification's table."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


@dataclass(frozen=True)
class Config:
    """One container's configuration."""

    version: str
    root: Root | None = None
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)
    linux: Linux = field(default_factory=Linux)
    hooks: Hooks | None = None


_CONFIG = frozenset(
    {"ociVersion", "root", "process", "hostname", "domainname", "mounts", "annotations", "hooks", "linux"},
)
_OTHER_SYSTEMS = frozenset({"solaris", "windows", "vm", "zos", "freebsd"})
_MOUNT = frozenset({"destination", "type", "source", "options", "uidMappings", "gidMappings"})


def parse_config(document: JsonValue) -> Config:
    """Read a whole configuration.

    Unknown properties and annotations are ignored as the specification wants; in security objects they are refused,
    and so is every property of the specification that this version does not carry out.

    Raises:
        InvalidParameterError: malformed or contradictory; the message names the property.
        UnsupportedError: asks for something that would have to be ignored.
    """
    fields = Fields(document, "", known=_CONFIG, refused=_OTHER_SYSTEMS)
    version = fields.string("ociVersion")
    if not _is_version(version):
        raise InvalidParameterError(f"unsupported ociVersion: {version!r:.40}")
    process = fields.value("process")
    config = Config(
        version=version,
        root=_root(fields.value("root")),
        process=None if process is None else parse_process(process),
        hostname=_host_name(fields, "hostname"),
        domainname=_host_name(fields, "domainname"),
        mounts=tuple(_mount(item, fields.at("mounts")) for item in fields.items("mounts")),
        annotations=fields.texts("annotations"),
        linux=parse_linux(fields.value("linux")),
        hooks=_hooks(fields),
    )
    if config.linux.namespace("uts") is None:
        for name, value in (("hostname", config.hostname), ("domainname", config.domainname)):
            if value:
                raise InvalidParameterError(f"unable to set {name} without a private UTS namespace")
    return config


def _hooks(fields: Fields) -> Hooks | None:
    if fields.value("hooks") is None:
        return None
    from orlop.spec.oci.hooks import parse_hooks

    return parse_hooks(fields.value("hooks"), fields.at("hooks"))


def _root(value: JsonValue) -> Root | None:
    if value is None:
        return None
    fields = Fields(value, "root", known=frozenset({"path", "readonly"}))
    return Root(fields.required("path"), fields.boolean("readonly"))


def _host_name(fields: Fields, name: str) -> str:
    """Linux takes any bytes up to 64; white space and slashes would only mislead whoever writes them to a file."""
    value = fields.string(name)
    if not is_bare(value, "/", 64) or len(value.encode()) > 64:
        raise InvalidParameterError(f"{name}: invalid name: {value!r:.80}")
    return value


def _mount(value: JsonValue, path: str) -> Mount:
    fields = Fields(value, path, known=_MOUNT)
    destination = fields.required("destination")
    if not destination.startswith("/"):
        # the specification: a relative destination is interpreted as relative to "/"
        destination = "/" + destination
    mount = Mount(
        destination,
        fields.string("type"),
        fields.string("source"),
        fields.strings("options"),
        parse_mappings(fields, "uidMappings"),
        parse_mappings(fields, "gidMappings"),
    )
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise InvalidParameterError(f"{path}: uidMappings and gidMappings go together: {destination!r:.200}")
    return mount


def require_runnable(config: Config) -> tuple[Root, Process]:
    """Return what a container cannot be started without. Raises InvalidParameterError naming it."""
    if config.root is None:
        raise InvalidParameterError("root must be specified")
    if config.process is None:
        raise InvalidParameterError("process property must not be empty")
    return config.root, config.process


def config_object(document: JsonValue) -> JsonObject:
    """Return ``document`` as an object. Raises InvalidParameterError."""
    if not isinstance(document, dict):
        raise InvalidParameterError("config: expected an object")
    return document


def _is_version(text: str) -> bool:
    """1.minor.patch, with a suffix after ``+`` or ``-`` as in Semantic Versioning."""
    major, _, rest = text.partition(".")
    minor, _, patch = rest.partition(".")
    number = patch[: len(patch) - len(patch.lstrip("0123456789"))]
    suffix = patch[len(number) :]
    return (
        major == "1"
        and is_number(minor, 3)
        and is_number(number, 3)
        and (not suffix or (suffix[0] in "+-" and consists_of(suffix[1:], _VERSION_SUFFIX, 1, 40)))
    )
