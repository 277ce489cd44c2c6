"""Messages of what a client serves on its session (github.com/moby/buildkit, ``session/*/*.proto``)."""

from __future__ import annotations

from orlop.primitives.protobuf.message import Message, blob, text


class BytesMessage(Message):
    """A piece of a stream, which may be what an agent signs, or a session within a call."""

    data: bytes = blob(1)

    def __repr__(self) -> str:
        return f"BytesMessage({len(self.data)} bytes)"  # threats.md H9


class SecretRequest(Message):
    """``GetSecretRequest``."""

    name: str = text(1)


class SecretResponse(Message):
    """``GetSecretResponse``."""

    data: bytes = blob(1)

    def __repr__(self) -> str:
        return "SecretResponse()"  # threats.md H9


class AgentRequest(Message):
    """``CheckAgentRequest``."""

    name: str = text(1)


class CredentialsRequest(Message):
    """``CredentialsRequest``."""

    host: str = text(1)


class CredentialsResponse(Message):
    """``CredentialsResponse``; a secret without a user is an identity token."""

    username: str = text(1)
    secret: str = text(2)

    def __repr__(self) -> str:
        return "CredentialsResponse()"  # threats.md H9
