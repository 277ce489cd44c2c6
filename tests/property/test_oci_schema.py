"""config.json against the specification's own JSON schema: what it rejects, we reject."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft4Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from oci_bundles import FULL, RARE, Json, mutated
from orlop.errors import OrlopError, UnsupportedError
from orlop.spec.oci import parse_config

SCHEMA = Path(__file__).parents[1] / "golden/oci-runtime"
# what is not in the samples: every property is in one of them, or refused
OTHERS: dict[str, Json] = {
    "hooks.prestart": [{"path": "/a"}],
    "hooks.createContainer": [{"path": "/a"}],
    "hooks.poststart": [{"path": "/a"}],
    "linux.cgroupsPath": "/a",
    "linux.mountLabel": "a",
    "linux.resources.blockIO.leafWeight": 20,
    "linux.resources.blockIO.throttleReadIOPSDevice": [{"major": 8, "minor": 1, "rate": 5}],
    "linux.resources.blockIO.throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 5}],
    "linux.resources.blockIO.throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 5}],
    "linux.resources.blockIO.weightDevice": [{"major": 8, "minor": 1, "leafWeight": 20}],
    "linux.resources.memory.checkBeforeUpdate": True,
    "linux.resources.memory.disableOOMKiller": True,
    "linux.resources.memory.kernelTCP": 5,
    "linux.resources.memory.useHierarchy": True,
    "linux.timeOffsets.monotonic.nanosecs": 5,
    "linux.seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": ["acct"],
                "action": "SCMP_ACT_LOG",
                "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
            }
        ],
    },
    "process.apparmorProfile": "a",
    "process.scheduler": {"policy": "SCHED_DEADLINE", "runtime": 3, "deadline": 4, "period": 5},
    "process.selinuxLabel": "a",
    "process.terminal": True,
    "process.user.gid": 1,
    "process.user.uid": 1,
    "process.user.username": "a",
}
# another sample of what is there once only
REAL_TIME = {"policy": "SCHED_FIFO", "priority": 5}
REFUSED: dict[str, Json] = {
    **{name: {"a": 1} for name in ("freebsd", "solaris", "vm", "windows", "zos")},
    "linux.intelRdt": {},
    "linux.personality.flags": ["a"],
    "linux.resources.memory.kernel": 5,
    "process.commandLine": "a",
}


def validator() -> Draft4Validator:
    files = {path.name: json.loads(path.read_text()) for path in SCHEMA.glob("*.json")}
    # of the systems that are not Linux only that they are objects is known here
    systems = {
        f"config-{name}.json": {name: {"type": "object"}} for name in ("solaris", "windows", "vm", "zos", "freebsd")
    }
    resources = [(name, DRAFT4.create_resource(content)) for name, content in {**files, **systems}.items()]
    return Draft4Validator(files["config-schema.json"], registry=Registry().with_resources(resources))


def without_nulls(value: Json) -> Json:
    """Go's encoder writes null for what is not there, and its decoder takes it so; the schema does not know it."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("base", [FULL, RARE])
def test_what_is_changed_is_valid_for_both(base):
    validator().validate(base)
    parse_config(copy.deepcopy(base))


@pytest.mark.parametrize("base", [FULL, RARE])
@pytest.mark.parametrize("block", range(4))
def test_what_the_schema_rejects_is_rejected(base, block):
    oracle = validator()
    refused = 0
    for seed in range(block * 100, block * 100 + 100):
        document = mutated(seed, base)
        errors = list(oracle.iter_errors(without_nulls(document)))
        try:
            parse_config(document)
        except OrlopError as error:
            assert str(error), seed
            assert "\n" not in str(error), seed
            refused += 1
        else:
            assert not errors, (seed, errors[0].json_path, errors[0].message[:200])
    assert 40 < refused < 100  # neither everything nor nothing


def properties(node: Json, file: str, above: str = "") -> Iterator[str]:
    """Every property that the schema names, by its path; what a hook or a throttle has is named once."""
    if "$ref" in node:
        name, _, inside = node["$ref"].partition("#")
        path = SCHEMA / (name or file)
        if not path.exists():  # of another system
            return
        node, file = json.loads(path.read_text()), path.name
        for part in inside.strip("/").split("/"):
            node = node[part] if part else node
    for inner in [part for kind in ("allOf", "anyOf", "oneOf") for part in node.get(kind, [])]:
        yield from properties(inner, file, above)
    for name, inner in node.get("properties", {}).items():
        yield f"{above}.{name}".strip(".")
        yield from properties(inner, file, f"{above}.{name}")
    for inner in (*node.get("patternProperties", {}).values(), node.get("additionalProperties"), node.get("items")):
        if isinstance(inner, dict):
            yield from properties(inner, file, f"{above}.*")


def named(document: Json, path: str) -> list[tuple[Json, str]]:
    """Where ``path`` is in a document: what holds it, and its name."""
    found = [document]
    *above, last = path.split(".")
    for name in above:
        inner = [item.get(name) if isinstance(item, dict) else None for item in found]
        if name == "*":
            inner = [one for item in found for one in (item.values() if isinstance(item, dict) else item)]
        found = [item for item in inner if isinstance(item, (dict, list))]
    return [(item, last) for item in found if isinstance(item, dict) and last in item]


def is_heeded(document: Json, path: str) -> bool:
    """Whether one property of that name makes a difference where it is taken away."""
    for place in range(len(named(document, path))):
        without = copy.deepcopy(document)
        holder, name = named(without, path)[place]
        del holder[name]
        try:
            if parse_config(without) != parse_config(copy.deepcopy(document)):
                return True
        except OrlopError:  # it has to be there
            return True
    return False


def with_property(path: str, value: Json) -> Json:
    document = copy.deepcopy(FULL)
    *above, last = path.split(".")
    holder = document
    for name in above:
        holder = holder.setdefault(name, {})
    holder[last] = value
    return document


def test_every_property_of_the_schema_is_heeded_or_refused():
    samples = [FULL, RARE, *(with_property(path, value) for path, value in OTHERS.items())]
    samples.append(with_property("process.scheduler", REAL_TIME))
    known = set(properties({"$ref": "config-schema.json"}, ""))
    assert len(known) > 200
    assert known.issuperset(REFUSED.keys() - {"freebsd", "solaris", "vm", "windows", "zos"})
    hooks = re.compile(r"hooks\.\w+\.\*\.(args|env|path|timeout)|.*\.throttle\w+\.\*\.(major|minor|rate)")
    for path in sorted(known):
        if any(path == name or path.startswith(f"{name}.") for name in REFUSED) or hooks.fullmatch(path):
            continue
        assert any(is_heeded(sample, path) for sample in samples), path


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_not_carried_out_is_refused_by_its_name(path):
    with pytest.raises(UnsupportedError, match=re.escape(f"{path} is not supported")):
        parse_config(with_property(path, REFUSED[path]))
