"""Changing what the configuration mounted before: ``remount,bind,ro``. Only for configurations with such a mount."""

from __future__ import annotations

import errno
import os

from orlop.errors import InvalidParameterError
from orlop.kernel import mount as k
from orlop.primitives.rootpath import open_in_root
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.mount_options import MountOptions
    from orlop.runtime.operations import Root


@dataclass(frozen=True)
class Remount:
    """Set and clear attributes of what is mounted at a place."""

    destination: str
    options: MountOptions

    def describe(self) -> str:
        """Return it as one line of text."""
        return f"remount {self.destination} attr={self.options.attr_set:#x}"

    def apply(self, root: Root) -> None:
        """Do it. Raises InvalidParameterError: nothing is mounted there."""
        options = self.options
        with open_in_root(root.fd, self.destination, os.O_PATH) as target:
            try:
                k.mount_setattr(target.fileno(), "", attr_set=options.attr_set, attr_clear=options.attr_clear)
                if options.recursive_set or options.recursive_clear:
                    k.mount_setattr(
                        target.fileno(),
                        "",
                        attr_set=options.recursive_set,
                        attr_clear=options.recursive_clear,
                        recursive=True,
                    )
                if options.propagation:
                    recursive = bool(options.propagation & k.MS_REC)
                    propagation = options.propagation & ~k.MS_REC
                    k.mount_setattr(target.fileno(), "", propagation=propagation, recursive=recursive)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise InvalidParameterError(f"cannot remount, nothing is mounted at: {self.destination}") from None
