"""What a container's process may do: capabilities, seccomp, LSMs, hidden paths, sysctls."""
