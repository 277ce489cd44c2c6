"""gRPC over HTTP/2 on connections that a client gave away: as server, and as client on a session."""
