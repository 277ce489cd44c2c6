"""Builds what speaks to registries."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orlop
from orlop.engine.archives import ArchiveService
from orlop.engine.registry.layers import LayerFetcher
from orlop.engine.registry.pull import Puller
from orlop.engine.registry.push import Pusher
from orlop.engine.registry.registries import Registries
from orlop.engine.registry.service import RegistryService
from orlop.engine.registry.transfers import Transfers
from orlop.image.layer_tar import LayerTars
from orlop.image.loading import Loader
from orlop.image.partial import PartialStore
from orlop.image.saving import Saver
from orlop.image.sweeping import BlobSweeper
from orlop.registry.certificates import DIRECTORIES, Certificates
from orlop.registry.endpoints import Endpoints, RegistryOptions
from orlop.registry.hosts import read_hosts
from orlop.registry.http import Http
from orlop.registry.proxies import Proxies
from orlop.registry.remote_file import RemoteFiles

if TYPE_CHECKING:
    from orlop.daemon.options import Options
    from orlop.engine.events import Events
    from orlop.engine.removals import Removals
    from orlop.engine.spawner import Spawner
    from orlop.image.kept import KeptBlobs
    from orlop.image.store import ImageStore
    from orlop.image.unpacking import LayerUnpacker
    from orlop.storage import LayerStore


@dataclass(frozen=True, slots=True)
class ImageParts:
    """What images are made of, and in; ``blobs`` is the directory that holds their bytes."""

    blobs: str
    images: ImageStore
    kept: KeptBlobs
    layers: LayerStore
    unpacker: LayerUnpacker


def compose_registries(
    options: Options, parts: ImageParts, *, spawner: Spawner, removals: Removals, events: Events
) -> tuple[RegistryService, ArchiveService, BlobSweeper]:
    """Build the use cases of registries, and of archives, which are read and written in the same ways."""
    directories = (options.certs_dir,) if options.certs_dir else DIRECTORIES
    endpoints = Endpoints(
        RegistryOptions(options.registry_mirrors, options.insecure_registries),
        _resolve,
        lambda domain: read_hosts(directories, domain),
    )
    certificates = Certificates(directories)
    proxies = find_proxies(options)
    http = Http(certificates, endpoints.is_insecure, agent=f"orlop/{orlop.__version__}", proxies=proxies)
    registries = Registries(http, endpoints)
    partials = PartialStore(parts.blobs, parts.kept.content)
    sweeper = BlobSweeper(parts.images, parts.kept, partials)
    sweeper.sweep()
    fetcher = LayerFetcher(
        parts.layers,
        parts.kept,
        partials,
        parts.unpacker,
        Transfers(),
        removals.bury,
        concurrent=options.max_concurrent_downloads,
        attempts=options.max_download_attempts,
    )
    puller = Puller(registries, parts.images, parts.kept, fetcher, removals.bury)
    tars = LayerTars(parts.kept, spawner, parts.layers.layer_view)
    pusher = Pusher(registries, parts.images, parts.kept, tars, concurrent=options.max_concurrent_uploads)
    loader = Loader(parts.images, parts.layers, parts.kept, partials, parts.unpacker, removals.bury)
    archives = ArchiveService(Saver(parts.images, parts.kept, tars), loader, sweeper=sweeper, events=events)
    files = RemoteFiles(http, _resolve)
    service = RegistryService(registries, puller, pusher, sweeper=sweeper, events=events, files=files)
    return service, archives, sweeper


def find_proxies(options: Options) -> Proxies:
    """Return the proxies of the settings, and where they say nothing, of the environment."""
    return Proxies.of(os.environ, http=options.http_proxy, https=options.https_proxy, exceptions=options.no_proxy)


def _resolve(host: str) -> list[str]:
    """Return a host's addresses; none when nobody knows it."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []
