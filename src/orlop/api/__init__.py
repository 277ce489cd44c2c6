"""The Docker Engine API over HTTP: decode a request, call a service, encode the answer."""
