"""Protocol Buffers: the wire format, and messages that are declared."""
