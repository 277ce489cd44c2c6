"""Building images: the use case, what does its steps, and what is remembered of it."""

from orlop.engine.builds.records import SCHEMA, BuildRecords
from orlop.engine.builds.service import BuildRequest, BuildService, RunLimits
from orlop.engine.builds.workshop import Tools

__all__ = ["SCHEMA", "BuildRecords", "BuildRequest", "BuildService", "RunLimits", "Tools"]
