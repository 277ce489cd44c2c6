"""The client: one object per noun on one transport."""

from __future__ import annotations

from orlop.client.address import find_address, parse_address
from orlop.client.builds import Builds
from orlop.client.containers import Containers, Execs
from orlop.client.images import Images
from orlop.client.resources import Networks, System, Volumes
from orlop.client.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.client.address import Address, Tls


class Client:
    """A blocking client of one engine; close it, or use it in ``with``. Not thread-safe: one per thread.

    Attributes:
        transport: the requests themselves, for what has no method.
        builds, containers, execs, images, volumes, networks, system: the API's nouns.
    """

    def __init__(
        self,
        address: Address,
        *,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.transport = Transport(address, version=version, headers=headers, timeout=timeout)
        self.builds = Builds(self.transport)
        self.containers = Containers(self.transport)
        self.execs = Execs(self.transport)
        self.images = Images(self.transport)
        self.volumes = Volumes(self.transport)
        self.networks = Networks(self.transport)
        self.system = System(self.transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; open streams stay."""
        self.transport.close()


def connect(
    host: str | None = None, *, version: str | None = None, timeout: float | None = None, tls: Tls | None = None
) -> Client:
    """Return a client of the engine at ``host`` (``unix:///…``, ``tcp://…``), by default as the command line finds it.

    By TLS with ``tls``, or if the environment says so (DOCKER_TLS_VERIFY, DOCKER_CERT_PATH). Nothing is sent before the
    first call.
    """
    address = parse_address(host, tls) if host and tls is not None else find_address(host=host)
    return Client(address, version=version, timeout=timeout)
