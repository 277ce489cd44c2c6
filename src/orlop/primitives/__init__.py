"""Mechanisms without policy: owned descriptors, channels, paths in a root, atomic files, layer tar, commands."""
