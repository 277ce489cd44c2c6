"""The ``orlop`` command: flags, tables, terminals. It is only a client of the engine."""
