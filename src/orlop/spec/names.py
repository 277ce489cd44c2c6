"""Names that users give, and names made up for those who give none."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_CHARACTERS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

_NAME = re.compile(NAME_CHARACTERS + "+", re.ASCII)

_ADJECTIVES = """
able amber ample apt azure balmy blithe bold brave breezy bright brisk broad calm candid careful cheery civil
clear clever coral cosy crisp curious daring deft dewy eager early easy fair fearless fleet fluent fond frank
fresh gentle glad golden good grand green hale handy hardy hearty honest humble jolly keen kind lean level
light lively loyal lucid lucky lunar mellow merry mild mindful modest neat nimble noble open patient placid
plucky polite prompt proud pure quick quiet rapid ready robust rosy round sage serene sharp silent silver
sincere sleek smart snug sober solar solid sound spry stable steady stoic subtle sunny sure swift tidal tidy
true upbeat valiant vivid warm wary wise witty young zesty
"""

# Seafarers, shipwrights, map makers and those who made the sea measurable.
_SURNAMES = """
amundsen anson baker barents baret bass beaufort bering bligh bowditch brunel byrd cabot cabral cano champlain
columbus cook cousteau dampier darwin diaz drake earle ericson fitzroy flinders franklin frobisher fulton gama
gilbert halley hanno harrison hawkins henson heyerdahl hudson humboldt janszoon kaplan kidd knox kotzebue
laperouse leeuwin lovelace magellan maury mercator mendana mitchell moitessier nansen nelson nares ortelius
parry pytheas quiros raleigh ross scoresby scott shackleton slocum smeaton stevenson tasman tharp tereshkova
torres vancouver vespucci weddell wilkes zheng
"""


_ADJECTIVE_LIST = _ADJECTIVES.split()
_SURNAME_LIST = _SURNAMES.split()


def is_name(text: str) -> bool:
    """Whether ``text`` may name a container, volume or network: at least two characters of Docker's set."""
    return _NAME.fullmatch(text) is not None


def parse_container_name(text: str) -> str:
    """Return the name without its leading slash.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    name = text.removeprefix("/")
    if not is_name(name):
        raise InvalidParameterError(f"Invalid container name ({text}), only {NAME_CHARACTERS} are allowed")
    return name


def _never(_name: str) -> bool:
    return False


def generate_name(taken: Callable[[str], bool] = _never) -> str:
    """Return a free name such as ``brisk_magellan``; after some tries a digit is added, as Docker does."""
    for attempt in range(1000):
        name = f"{random.choice(_ADJECTIVE_LIST)}_{random.choice(_SURNAME_LIST)}"  # noqa: S311 - a name is no secret
        if attempt >= 6:
            name += str(random.randrange(10 ** (attempt // 6)))  # noqa: S311 - a name is no secret
        if not taken(name):
            return name
    raise InvalidParameterError("could not generate a free name")
