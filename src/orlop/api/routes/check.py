"""``orlop system check``: the engine's own addition to Docker's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.responses import json_response

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.engine.checking import Checker


def routes(checker: Checker) -> list[Route]:
    """Return the routes: GET looks, POST repairs."""

    async def look(_call: Call) -> web.Response:
        return json_response(await _document(checker, repair=False))

    async def repair(_call: Call) -> web.Response:
        return json_response(await _document(checker, repair=True))

    return [Route("GET", "/system/check", look), Route("POST", "/system/check", repair)]


async def _document(checker: Checker, *, repair: bool) -> dict[str, object]:
    findings = await checker.run(repair=repair)
    return {
        "Findings": [
            {
                "Kind": finding.kind,
                "Name": finding.name,
                "Size": finding.size,
                "Repairable": finding.repairable,
                "Repaired": finding.repaired,
            }
            for finding in findings
        ],
        "SpaceReclaimed": sum(finding.size for finding in findings if finding.repaired),
    }
