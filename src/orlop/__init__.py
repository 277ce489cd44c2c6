"""orlop: a container engine in Python that speaks the Docker Engine API."""

__version__ = "0.1.0"

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> object:
    """Import the client when it is first asked for: ``orlop.connect()``."""
    if name == "connect":
        from importlib import import_module  # by name: the layers below may import this package, but not the client

        return import_module("orlop.client").connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
