"""What a client asks of a Dockerfile beside an image (``docker build --check``, ``--call``): documents in a result.

Source: github.com/moby/buildkit, ``frontend/subrequests``: names, versions, and the documents' fields.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from orlop.api.grpc.status import Any, CallError, Code
from orlop.build.outline import outline, targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.api.buildkit.telling import BuildTelling
    from orlop.build.outline import Need

LINT, OUTLINE, TARGETS = "frontend.lint", "frontend.outline", "frontend.targets"
DESCRIBE = "frontend.subrequests.describe"
_DESCRIPTIONS = {
    DESCRIBE: "List available subrequest types",
    LINT: "Lint a Dockerfile",
    OUTLINE: "List all parameters current build target supports",
    TARGETS: "List all targets current build supports",
}
_VERSION = "1.0.0"
_UNKNOWN = "github.com/moby/buildkit/errdefs.Subrequest+json"


def require_known(name: str) -> None:
    """Raise CallError if nothing here answers to the name; clients know by its detail that they may ask elsewhere."""
    if name and name not in _DESCRIPTIONS:
        detail = Any(type_url=_UNKNOWN, value=json.dumps({"name": name}).encode())
        raise CallError(Code.UNKNOWN, f"unsupported request {name[:80]}", [detail])


def answer(name: str, telling: BuildTelling) -> Mapping[str, bytes]:
    """Return the documents for one name, after the Dockerfile was looked at."""
    if name == DESCRIBE:
        rows = [(key, _VERSION, description) for key, description in _DESCRIPTIONS.items()]
        return _documents(_describe(), _table(("NAME", "VERSION", "DESCRIPTION"), rows))
    if name == LINT:
        return _lint(telling)
    return _targets(telling) if name == TARGETS else _outline(telling)


def _describe() -> list[dict[str, object]]:
    metadata = [{"name": "result.json"}, {"name": "result.txt"}]
    return [
        {"name": name, "version": _VERSION, "type": "rpc", "description": text, "opts": None, "metadata": metadata}
        for name, text in _DESCRIPTIONS.items()
    ]


def _targets(telling: BuildTelling) -> Mapping[str, bytes]:
    found = targets(telling.plan, telling.source.data) if telling.plan is not None else []
    document = [
        _without_empty(
            name=one.name, default=one.default, description=one.description, base=one.base, location=_place(one.line)
        )
        for one in found
    ]
    rows = [(f"{one.name} (default)".strip() if one.default else one.name, one.description) for one in found]
    return _documents({"targets": document, "sources": _sources(telling)}, _table(("TARGET", "DESCRIPTION"), rows))


def _outline(telling: BuildTelling) -> Mapping[str, bytes]:
    if telling.plan is None:
        return {}
    made = outline(telling.plan, telling.source.data)
    document = _without_empty(
        name=made.name,
        description=made.description,
        args=[
            _without_empty(name=one.name, description=one.description, value=one.value, location=_place(one.line))
            for one in made.arguments
        ],
        secrets=_needs(made.secrets),
        ssh=_needs(made.agents),
        cache=[{"ID": one.name, "location": _place(one.line)} for one in made.caches],
        sources=_sources(telling),
    )
    rows = [(one.name, one.value, one.description) for one in made.arguments]
    return _documents(document, _table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows))


def _lint(telling: BuildTelling) -> Mapping[str, bytes]:
    warnings = [
        {
            "ruleName": found.rule.name,
            "description": found.rule.description,
            "url": found.rule.url,
            "detail": found.text,
            "location": _place(found.line),
        }
        for found in (telling.findings.warnings if telling.findings is not None else ())
    ]
    source = {"filename": telling.source.filename, "data": base64.b64encode(telling.source.data).decode()}
    text = "".join(f"{one['ruleName']}: {one['detail']}\n" for one in warnings)
    documents = _documents({"warnings": warnings, "sources": [source]}, text)
    return {**documents, "result.statuscode": b"1" if warnings else b"0"}


def _documents(document: object, text: str) -> dict[str, bytes]:
    return {
        "result.json": json.dumps(document, indent=2).encode(),
        "result.txt": text.encode(),
        "version": _VERSION.encode(),
    }


def _sources(telling: BuildTelling) -> list[str]:
    return [base64.b64encode(telling.source.data).decode()]


def _place(line: int) -> dict[str, object]:
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}}]}


def _without_empty(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value}


def _needs(needs: Sequence[Need]) -> list[dict[str, object]]:
    return [_without_empty(name=one.name, required=one.required, location=_place(one.line)) for one in needs]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) + 3 for column in range(len(head))]
    lines = ("".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "".join(f"{line}\n" for line in lines)
