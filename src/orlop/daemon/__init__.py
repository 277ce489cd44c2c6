"""The engine as a process: options, wiring, start, signals and shutdown."""
