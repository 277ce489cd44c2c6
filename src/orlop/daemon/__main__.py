"""``python -m orlop.daemon``."""

import sys

from orlop.daemon.main import entry

sys.exit(entry())
