"""Block devices: Documentation/admin-guide/cgroup-v1/blkio-controller.rst; ``io`` on v2."""

from __future__ import annotations

from orlop.errors import UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the writes. Weights exist only where the scheduler has them: CFQ's file, else BFQ's."""
    block = resources.block_io
    writes = []
    if block.weight:
        writes.append(_either("blkio.weight", "blkio.bfq.weight", str(block.weight)))
    if block.leaf_weight:
        writes.append(Write("blkio", "blkio.leaf_weight", str(block.leaf_weight)))
    for device in block.weight_device:
        number = f"{device.major}:{device.minor}"
        if device.weight:
            text = f"{number} {device.weight}"
            writes.append(_either("blkio.weight_device", "blkio.bfq.weight_device", text))
        if device.leaf_weight:
            writes.append(Write("blkio", "blkio.leaf_weight_device", f"{number} {device.leaf_weight}"))
    for name, throttles in (
        ("read_bps", block.read_bps),
        ("write_bps", block.write_bps),
        ("read_iops", block.read_iops),
        ("write_iops", block.write_iops),
    ):
        writes.extend(
            Write("blkio", f"blkio.throttle.{name}_device", f"{throttle.major}:{throttle.minor} {throttle.rate}")
            for throttle in throttles
        )
    return writes


def v2(resources: Resources) -> list[Write]:
    """Return the writes."""
    block = resources.block_io
    if block.leaf_weight or any(device.leaf_weight for device in block.weight_device):
        raise UnsupportedError("linux.resources.blockIO.leafWeight is not supported on cgroup v2")
    writes = []
    if block.weight:
        writes.append(_weight("default", block.weight))
    writes.extend(_weight(f"{one.major}:{one.minor}", one.weight) for one in block.weight_device if one.weight)
    for key, throttles in (
        ("rbps", block.read_bps),
        ("wbps", block.write_bps),
        ("riops", block.read_iops),
        ("wiops", block.write_iops),
    ):
        writes.extend(Write("io", "io.max", f"{one.major}:{one.minor} {key}={one.rate or 'max'}") for one in throttles)
    return writes


def _either(cfq: str, bfq: str, text: str) -> Write:
    return Write("blkio", cfq, text, instead=Write("blkio", bfq, text))


def _weight(device: str, weight: int) -> Write:
    """BFQ takes 1..1000 like v1; io.weight takes 1..10000, so 10..1000 is spread over it."""
    spread = Write("io", "io.weight", f"{device} {1 + (weight - 10) * 9999 // 990}")
    return Write("io", "io.bfq.weight", f"{device} {weight}", instead=spread)
