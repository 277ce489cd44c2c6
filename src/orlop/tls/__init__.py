"""TLS of the Engine API, for both of its ends: certificates and keys, records without I/O, and the relay of bytes."""
