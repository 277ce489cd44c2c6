"""The storage driver ``devicemapper``: each snapshot is a thin device of one pool, with a file system on it."""

from orlop.storage.devicemapper.driver import DeviceMapper, open_driver
from orlop.storage.devicemapper.options import parse_options

__all__ = ["DeviceMapper", "open_driver", "parse_options"]
