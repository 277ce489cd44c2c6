"""Moving network devices of the host into a container's network namespace (runtime-spec, "Network Devices").

Only ``orlop-runtime`` does this, for configurations that name some: the engine has its own ways to a network.
"""

from __future__ import annotations

import os

from orlop.errors import ConflictError, InvalidParameterError
from orlop.kernel import process as k
from orlop.kernel.rtnetlink import Rtnetlink, add_address, set_link
from orlop.kernel.rtnetlink.addresses import RT_SCOPE_UNIVERSE
from orlop.kernel.syscall import SyscallError
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.kernel.rtnetlink import Link
    from orlop.spec.oci.namespaces import NetDevice


class MovedDevices:
    """The devices that were moved; they can be given back as long as the container's namespace is there.

    Once a container has come to run they are never taken back: a device belongs to its namespace, and the kernel
    returns hardware to the host when that ends.
    """

    def __init__(self, netns: OwnedFd) -> None:
        self._host = OwnedFd(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        self._netns = netns
        self._outside = Rtnetlink.open()
        k.setns(netns.fileno(), k.CLONE_NEWNET)
        try:
            self._inside = Rtnetlink.open()
        finally:
            k.setns(self._host.fileno(), k.CLONE_NEWNET)
        self._moved: list[tuple[str, str]] = []

    def move(self, devices: Sequence[NetDevice]) -> None:
        """Move devices with their lasting addresses, rename them and set them up.

        Raises:
            InvalidParameterError: there is no such device, or the kernel does not let it go.
            ConflictError: there is another one of that name.
        """
        for device in devices:
            taken = {link.name for link in self._inside.links()}
            if device.name in taken:
                raise ConflictError(f"network device exists in the container already: {device.name}")
            name = device.name
            if name.endswith("%d"):
                stem = name.removesuffix("%d")
                name = next(f"{stem}{number}" for number in range(len(taken) + 1) if f"{stem}{number}" not in taken)
            try:
                _move(self._outside, self._inside, self._netns.fileno(), (device.host_name, name), up=True)
            except SyscallError as error:
                message = f"unable to move network device {device.host_name} to the container: {error}"
                raise InvalidParameterError(message) from error
            self._moved.append((device.host_name, name))

    def give_back(self) -> None:
        """Move everything back, as far as that can be: the container did not come to run."""
        while self._moved:
            host_name, name = self._moved.pop()
            with suppress(OSError):
                _move(self._inside, self._outside, self._host.fileno(), (name, host_name), up=None)

    def close(self) -> None:
        """Close the descriptors; the devices stay where they are."""
        for owned in (self._host, self._netns, self._outside, self._inside):
            owned.close()


def _move(source: Rtnetlink, target: Rtnetlink, netns: int, names: tuple[str, str], *, up: bool | None) -> None:
    link: Link = source.link(names[0])
    lasting = [
        address.interface
        for address in source.addresses(link.index)
        if address.index == link.index and address.permanent and address.scope == RT_SCOPE_UNIVERSE
    ]
    source.execute(set_link(link.index, up=False))  # a device that is up keeps its name
    try:
        source.execute(set_link(link.index, name=names[1], netns=netns))
    except SyscallError:
        if link.up:
            source.execute(set_link(link.index, up=True))
        raise
    index = target.link(names[1]).index
    target.execute(*(add_address(index, interface) for interface in lasting))
    if up or link.up:
        target.execute(set_link(index, up=True))
