"""``.dockerignore``, which is read as ``COPY --exclude`` is."""

from orlop.primitives.ignore import IgnoreRules, parse_ignore

__all__ = ["IgnoreRules", "parse_ignore"]
