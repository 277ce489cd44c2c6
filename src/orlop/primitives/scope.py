"""``suppress`` and an exit stack without ``contextlib``, whose own imports cost a started process 3 ms."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import ParamSpec, Self, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")


class suppress:  # noqa: N801 - it reads as contextlib's
    """End the block quietly at one of these exceptions."""

    __slots__ = ("_kinds",)

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        return kind is not None and issubclass(kind, self._kinds)


class Cleanup:
    """Calls that are made, last one first, when the block is left or :meth:`close` is called.

    All are made even when one fails; the last failure is raised then.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def callback(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Add a call."""
        self._calls.append(lambda: function(*args, **kwargs))

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enter a context manager now and leave it, as after success, with the rest."""
        value = manager.__enter__()
        self._calls.append(lambda: manager.__exit__(None, None, None))
        return value

    def dismiss(self) -> None:
        """Forget all calls: what they would undo is to stay."""
        self._calls.clear()

    def close(self) -> None:
        """Make the calls."""
        failure: BaseException | None = None
        while self._calls:
            try:
                self._calls.pop()()
            except BaseException as error:  # noqa: BLE001 - raised below, after the others have had their turn
                failure = error
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
