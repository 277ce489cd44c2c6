"""Steps as BuildKit shows them: ``[build 2/3] RUN make``.

Only what can take time is shown: base images that are no stage of the file, and what makes layers. A stage without a
name is ``stage-2``; where there is one stage only, it is not named.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orlop.build.builder import Plan
    from orlop.build.stages import Stage

_SHOWN = frozenset(("RUN", "COPY", "ADD", "WORKDIR"))


def titles(plan: Plan, contexts: Collection[str] = ()) -> Mapping[int, str]:
    """Return the titles of the steps that are shown, by their numbers; ``contexts`` are names that are no images."""
    found: dict[int, str] = {}
    number = len(plan.meta)
    for stage in plan.needed:
        texts = {}
        if base := _base(plan, stage, contexts):
            texts[number + 1] = f"FROM {base}"
        for offset, item in enumerate(stage.instructions):
            if item.name in _SHOWN:
                texts[number + 2 + offset] = " ".join(item.original.split())
        number += 1 + len(stage.instructions)
        name = "" if len(plan.stages) == 1 else f"{stage.name or f'stage-{stage.index}'} "
        total = len(texts)
        width = len(str(total))
        for place, (step, text) in enumerate(texts.items(), 1):
            found[step] = f"[{name}{place:>{width}}/{total}] {text}"
    return found


def _base(plan: Plan, stage: Stage, contexts: Collection[str]) -> str:
    """Return the full name of the image that a stage begins with; empty for another stage and for none."""
    name = plan.base_of(stage)
    if name in ("", "scratch") or plan.names.named(name, stage.index) is not None:
        return ""
    if name in contexts:
        return name
    with contextlib.suppress(OrlopError):
        return str(parse_reference(name).with_default_tag())
    return name
