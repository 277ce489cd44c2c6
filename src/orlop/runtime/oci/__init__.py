"""``orlop-runtime``: the runtime package behind an OCI command line, for containerd, Podman and the like to call."""
