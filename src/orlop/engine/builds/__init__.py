"""Building images: the use case, what does its steps, and what is remembered of it."""

from orlop.engine.builds.caches import SCHEMA as CACHE_SCHEMA
from orlop.engine.builds.caches import CacheDirectories
from orlop.engine.builds.client import EVERYTHING, BuildClient, Choice, Logins
from orlop.engine.builds.context_files import ContextFiles
from orlop.engine.builds.history import SCHEMA as HISTORY_SCHEMA
from orlop.engine.builds.history import BuildHistory, PastBuild
from orlop.engine.builds.records import SCHEMA as STEP_SCHEMA
from orlop.engine.builds.records import BuildRecords
from orlop.engine.builds.service import BuildRequest, BuildService, RunLimits
from orlop.engine.builds.sessions import Sessions
from orlop.engine.builds.usage import BuildCache, CacheEntry, PruneRequest
from orlop.engine.builds.workshop import Tools

SCHEMA = STEP_SCHEMA + CACHE_SCHEMA + HISTORY_SCHEMA

__all__ = [
    "EVERYTHING",
    "SCHEMA",
    "BuildCache",
    "BuildClient",
    "BuildHistory",
    "BuildRecords",
    "BuildRequest",
    "BuildService",
    "CacheDirectories",
    "CacheEntry",
    "Choice",
    "ContextFiles",
    "Logins",
    "PastBuild",
    "PruneRequest",
    "RunLimits",
    "Sessions",
    "Tools",
]
