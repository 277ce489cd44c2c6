"""Steps out of images that the user names (``cachefrom``): what an image's history says made each of its layers.

Only images that a build names are looked at, and only for that build: what is found is not remembered, so that no
image that was pulled or loaded ever becomes the result of a step for somebody who did not name it (threats.md F5,
CVE-2024-24557). Everything below the step, layers and history, and the platform must be the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.build.steps import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.image.records import Image
    from orlop.spec.digest import Digest
    from orlop.spec.image import History, ImageConfig


class CacheSources:
    """The images of one build; ``retain`` counts one more user of a layer."""

    def __init__(self, images: Sequence[Image], retain: Callable[[Digest], None]) -> None:
        self._images = images
        self._retain = retain

    def find(self, below: ImageConfig, told: str, author: str) -> tuple[History, Layer] | None:
        """Find the step that follows ``below``; returns its history and its layer, retained for the caller.

        Args:
            below: the configuration of what the step stands on.
            told: the step as histories have it.
            author: the image's at this step.
        """
        for image in self._images:
            config, depth, layers = image.config, len(below.history), len(below.diff_ids)
            if len(config.history) <= depth or not _begins_with(config, below):
                continue
            step = config.history[depth]
            if step.created_by != told or step.author != author or step.comment:
                continue
            if step.empty_layer:
                return step, Layer(None, None)
            if len(config.diff_ids) > layers:
                chain = config.chain_ids[layers]
                self._retain(chain)
                return step, Layer(chain, config.diff_ids[layers])
        return None


def _begins_with(config: ImageConfig, below: ImageConfig) -> bool:
    return (
        config.history[: len(below.history)] == below.history
        and config.diff_ids[: len(below.diff_ids)] == below.diff_ids
        and (config.os, config.architecture, config.variant) == (below.os, below.architecture, below.variant)
    )
