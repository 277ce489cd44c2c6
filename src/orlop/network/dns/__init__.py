"""The name server of user-defined networks, at 127.0.0.11 of each container on one."""
