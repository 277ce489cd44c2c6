"""``orlop system check``: what is on the disk and the machine, compared with the records."""

from orlop.engine.checking.checker import Checker, Search
from orlop.engine.checking.damage import Damage
from orlop.engine.checking.finding import Finding
from orlop.engine.checking.machine import Machine
from orlop.engine.checking.space import LostSpace, Roots

__all__ = ["Checker", "Damage", "Finding", "LostSpace", "Machine", "Roots", "Search"]
