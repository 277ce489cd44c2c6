"""The container runtime: spawner, shim, init, cgroups, security, and the OCI command line."""
