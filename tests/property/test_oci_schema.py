"""config.json against the specification's own JSON schema: what it rejects, we reject."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from jsonschema import Draft4Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from oci_bundles import FULL, RARE, Json, mutated
from orlop.errors import OrlopError
from orlop.spec.oci import parse_config

SCHEMA = Path(__file__).parents[1] / "golden/oci-runtime"


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
