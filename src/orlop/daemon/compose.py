"""The composition root: the only place where the engine's objects meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import orlop
from orlop.api.app import Application
from orlop.api.buildkit.exporting import Exporting
from orlop.api.routes import archives as archive_routes
from orlop.api.routes import attaching as attaching_routes
from orlop.api.routes import build_sessions as build_session_routes
from orlop.api.routes import buildkit as buildkit_routes
from orlop.api.routes import builds as build_routes
from orlop.api.routes import check as check_routes
from orlop.api.routes import containers as container_routes
from orlop.api.routes import exec as exec_routes
from orlop.api.routes import image_archives as image_archive_routes
from orlop.api.routes import images as image_routes
from orlop.api.routes import networks as network_routes
from orlop.api.routes import registry as registry_routes
from orlop.api.routes import system as system_routes
from orlop.api.routes import volumes as volume_routes
from orlop.daemon.checks import compose_checks
from orlop.daemon.driver_records import definitions_of_others, open_records, records_home, volume_users
from orlop.daemon.exposure import exposure_warnings
from orlop.daemon.paths import engine_id, make_directory
from orlop.daemon.registries import ImageParts, compose_registries, find_proxies
from orlop.daemon.service_options import container_settings, network_options
from orlop.daemon.subordinate_ids import read_remapping
from orlop.engine import builds as build_engine
from orlop.engine import containers as container_engine
from orlop.engine.commits import CommitService
from orlop.engine.containers import ContainerService, container_chains
from orlop.engine.containers.log_target import check_log_config
from orlop.engine.database import Database
from orlop.engine.disk_usage import DiskUsage
from orlop.engine.events import Events
from orlop.engine.exec import ExecService
from orlop.engine.health_probes import HealthProbes
from orlop.engine.images import ImageService
from orlop.engine.networks import NetworkCatalogue
from orlop.engine.removals import Removals
from orlop.engine.system import Facts, SystemService
from orlop.engine.volumes import VolumeService
from orlop.errors import OrlopError
from orlop.image import SCHEMA as IMAGE_SCHEMA
from orlop.image.content import ContentStore
from orlop.image.importer import Importer
from orlop.image.kept import SCHEMA as KEPT_SCHEMA
from orlop.image.kept import KeptBlobs
from orlop.image.layer_tar import LayerTars
from orlop.image.recipes import RecipeStore
from orlop.image.store import ImageStore
from orlop.image.unpacking import LayerUnpacker
from orlop.network.service import NetworkService
from orlop.runtime.cgroups import detect, require_systemd
from orlop.runtime.cgroups.features import probe_features
from orlop.runtime.security.apparmor import DEFAULT_PROFILE, default_profile, load_default_profile
from orlop.spec.docker.containers import LogConfig
from orlop.spec.platform import Platform
from orlop.storage import SCHEMA as LAYER_SCHEMA
from orlop.storage import LayerStore
from orlop.storage.choice import open_chosen
from orlop.volumes.store import SCHEMA as VOLUME_SCHEMA
from orlop.volumes.store import VolumeStore

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable

    from orlop.api.call import Route
    from orlop.daemon.options import Options
    from orlop.engine.spawner import Spawner
    from orlop.spec.digest import Digest

_DRAIN_SECONDS = 3.0
_SPAWNER_SECONDS = 20.0
_log = logging.getLogger(__name__)


def make_directories(options: Options) -> None:
    """Make the engine's directories with their modes, whatever they were before."""
    make_directory(options.data_root, 0o710)
    make_directory(options.exec_root, 0o711)
    make_directory(f"{options.data_root}/containers", 0o710)
    make_directory(f"{options.data_root}/builds", 0o700)
    make_directory(f"{options.data_root}/build-cache", 0o700)
    make_directory(f"{options.data_root}/build-files", 0o700)
    make_directory(f"{options.exec_root}/shims", 0o700)
    make_directory(f"{options.exec_root}/builds", 0o700)


def check(options: Options) -> None:
    """Have each package check its settings.

    Raises:
        InvalidParameterError, UnsupportedError: a value that cannot be.
    """
    network_options(options).validate()
    read_remapping(options.userns_remap)
    if options.systemd_cgroup:
        require_systemd(detect())
    check_log_config(LogConfig(type=options.log_driver, config=options.log_opts))


class Engine:
    """Every object of one engine. Made after the data-root is locked, inside the running event loop."""

    def __init__(self, options: Options, spawner: Spawner) -> None:
        """Open the records and build everything; nothing is started yet.

        Raises:
            OrlopError: newer schema, file system that cannot hold layers and the like.
        """
        self._options = options
        self._spawner = spawner
        self.events = Events()
        self._removals = Removals(spawner)
        root = options.data_root
        schemas = [LAYER_SCHEMA, IMAGE_SCHEMA, KEPT_SCHEMA, container_engine.SCHEMA, build_engine.SCHEMA]
        self.database = Database(f"{root}/state.db", [*schemas, VOLUME_SCHEMA])
        self._driver = open_chosen(f"{root}/layers", options.storage_driver, options.storage_opts)
        self._records = open_records(root, self._driver.name, schemas, shared=self.database)
        records, blobs = self._records.connection, f"{records_home(root, self._driver.name)}/blobs"
        self.layers = LayerStore(records, self._driver)
        kept = KeptBlobs(records, ContentStore(blobs), RecipeStore(blobs))
        image_store = ImageStore(records, kept.content, self.layers, kept)
        volume_store = VolumeStore(self.database.connection, f"{root}/volumes")
        self._tombstones = self._load(image_store, volume_store)
        self._unpacker = LayerUnpacker(self.layers, spawner, recipes=kept.recipes, limits=options.layer_limits)
        self.images = ImageService(
            image_store,
            Importer(image_store, self.layers, spawner, unpacker=self._unpacker, version=orlop.__version__),
            removals=self._removals,
            events=self.events,
            users=lambda: self.containers.image_users(),  # noqa: PLW0108 - made after this
        )
        self._tars = LayerTars(kept, spawner, self.layers.layer_view)
        parts = ImageParts(blobs, image_store, kept, self.layers, self._unpacker)
        self.registry, self.archives, self.images.sweeper = compose_registries(
            options, parts, spawner=spawner, removals=self._removals, events=self.events
        )
        others = definitions_of_others(root, self._driver.name)
        hidden = volume_users(others)
        self.volumes = VolumeService(
            volume_store,
            removals=self._removals,
            events=self.events,
            users=lambda: {**hidden, **self.containers.volume_users()},
        )
        self.network = NetworkService(
            network_options(options),
            database=self.database.connection,
            namespaces=spawner,
        )
        self.containers = ContainerService(
            container_settings(options),
            database=self._records,
            events=self.events,
            spawner=spawner,
            images=self.images,
            layers=self.layers,
            volumes=self.volumes,
            network=self.network,
            removals=self._removals,
        )
        self.system = SystemService(
            self._facts(),
            containers=self.containers,
            image_count=self.images.count,
            events=self.events,
            address_pools=options.default_address_pools,
            firewall=lambda: self.network.firewall_name,
        )
        self._checker = compose_checks(
            options,
            parts,
            spawner=spawner,
            containers=self.containers,
            network=self.network,
            volumes=volume_store,
            removals=self._removals,
            others=frozenset(definition.id for definition in others),
        )
        self._commits = self._compose_commits()
        self.builds = self._compose_builds()
        self._app = Application(self._routes(), sync=self._sync)

    async def _sync(self) -> None:
        """Return when the records are on the disk. Raises OSError."""
        for database in {self._records, self.database}:
            await database.sync()

    def _load(self, images: ImageStore, volumes: VolumeStore) -> list[str]:
        """Read the stores; returns the tombstones that a crash left."""
        self.layers.load(container_chains(self._records))
        for damaged in images.load():
            _log.error("image is damaged and was given up: %s", damaged)
        if self._records.quarantined:
            # Layers without records may be all that is left of somebody's images: keep them this time.
            return volumes.load()
        return [*self.layers.collect(), *volumes.load()]

    def _facts(self) -> Facts:
        hierarchies = detect()
        return Facts(
            engine_id=engine_id(self._options.data_root),
            data_root=self._options.data_root,
            driver=self._driver.name,
            driver_status=self._driver.status,
            cgroup_version=hierarchies.version,
            cgroup_driver="systemd" if self._options.systemd_cgroup else "cgroupfs",
            limits=probe_features(hierarchies),
            security_options=(
                *(("name=apparmor",) if default_profile() else ()),
                "name=seccomp,profile=builtin",
                *(("name=userns",) if self._options.userns_remap else ()),
                "name=cgroupns",
            ),
            debug=self._options.debug,
            labels=self._options.labels,
            log_driver=self._options.log_driver,
            proxies=find_proxies(self._options).shown(),
            warnings=exposure_warnings(self._options),
        )

    def _routes(self) -> Iterable[Route]:
        disk = DiskUsage(
            images=self.images,
            volumes=self.volumes,
            containers=self.containers,
            build_cache=self.builds.cache.entries,
            layer_size=self.layers.size,
        )
        catalogue = NetworkCatalogue(
            self.network,
            events=self.events,
            name_of=self.containers.name_of,
            connector=self.containers.connector,
        )
        execs = ExecService(self.containers)
        self.containers.started = HealthProbes(execs, self.events).begin
        return [
            *system_routes.routes(self.system, events=self.events, disk=disk),
            *image_routes.routes(
                self.images,
                disk=disk,
                graph=self._image_graph,
                pull=registry_routes.pull_handler(self.registry),
                fetch=registry_routes.import_handler(self.registry, self.images),
            ),
            *registry_routes.routes(self.registry),
            *image_archive_routes.routes(self.archives),
            *volume_routes.routes(self.volumes),
            *network_routes.routes(catalogue),
            *attaching_routes.routes(self.containers),
            *container_routes.routes(self.containers),
            *check_routes.routes(self._checker),
            *archive_routes.routes(self.containers, self._commits),
            *build_routes.routes(self.builds),
            *build_session_routes.routes(self.builds.sessions),
            *buildkit_routes.routes(
                self.builds, Exporting(self.images, self.archives), self.system.facts.engine_id, orlop.__version__
            ),
            *exec_routes.routes(execs),
        ]

    def _compose_builds(self) -> build_engine.BuildService:
        tools = build_engine.Tools(
            images=self.images,
            layers=self.layers,
            commits=self._commits,
            spawner=self._spawner,
            registry=self.registry,
            records=build_engine.BuildRecords(self._records),
            history=build_engine.BuildHistory(self._records),
            removals=self._removals,
            caches=build_engine.CacheDirectories(
                f"{self._options.data_root}/build-cache", self._records, self._removals
            ),
            tars=self._tars,
        )
        return build_engine.BuildService(
            tools,
            self.containers,
            sessions=build_engine.Sessions(build_engine.ContextFiles(f"{self._options.data_root}/build-files")),
            events=self.events,
            directory=f"{self._options.data_root}/builds",
            private=f"{self._options.exec_root}/builds",
            platform=Platform.host(),
            version=orlop.__version__,
        )

    def _compose_commits(self) -> CommitService:
        return CommitService(
            containers=self.containers,
            images=self.images.store,
            layers=self.layers,
            unpacker=self._unpacker,
            packer=self._spawner,
            removals=self._removals,
            events=self.events,
            version=orlop.__version__,
        )

    def _image_graph(self, chain: Digest | None) -> dict[str, object]:
        return {"Data": self.layers.describe_image(chain) or None, "Name": self._driver.name}

    async def start(self, sockets: Iterable[tuple[socket.socket, ssl.SSLContext | None]]) -> None:
        """Adopt what runs, bring the network up, apply restart policies and answer clients."""
        self._spawner.open()
        await self._load_profile()
        # Nothing works without the spawner: better no engine than one that fails every start of a container.
        await asyncio.wait_for(self._spawner.remove_tree(f"{self._options.exec_root}/shims/.none"), _SPAWNER_SECONDS)
        running = await self.containers.adopt()
        for warning in await self.network.start(running):
            _log.warning("%s", warning)
        await self.containers.resume()
        await self.builds.clean()
        self._removals.bury(self._tombstones)
        for sock, context in sockets:
            await self._app.listen(sock, context)

    async def _load_profile(self) -> None:
        """Load the AppArmor profile of containers that name none; a start that needs it tries again and says why."""
        profile = self.containers.settings.apparmor
        if profile == DEFAULT_PROFILE:
            try:
                await asyncio.to_thread(load_default_profile)
            except OrlopError as error:
                _log.error("%s", error)
        elif profile:
            _log.warning("AppArmor is enabled, but apparmor_parser is missing: containers are not confined by it")

    def reload(self, options: Options) -> None:
        """Apply the settings that can change while the engine runs: debug, labels and the log level."""
        self.system.facts = replace(self.system.facts, debug=options.debug, labels=options.labels)
        attributes = {"debug": str(options.debug).lower(), "labels": ",".join(options.labels)}
        self.events.publish("daemon", "reload", self.system.facts.engine_id, attributes)

    async def close(self) -> None:
        """Stop answering and let go of everything; containers keep running."""
        self.events.close()
        self.builds.sessions.close()
        await self._app.close(_DRAIN_SECONDS)
        await self.registry.close()
        await self.containers.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.network.close(), _DRAIN_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._removals.settle(), _DRAIN_SECONDS)
        await self._spawner.close()
        if self._records is not self.database:
            self._records.close()
        self.database.close()
        self._driver.close()
