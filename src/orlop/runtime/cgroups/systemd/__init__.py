"""The systemd cgroup driver: a container's cgroup is a transient scope unit, asked for over D-Bus.

    scope.py       slice:prefix:name, the unit's name and cgroup
    properties.py  limits as unit properties
    wire.py        D-Bus messages as bytes
    bus.py         a connection to the system bus, and systemd's manager on it
    driver.py      the cgroup itself

Loaded only where the driver is in use, and in the spawner, which cannot know yet.
"""
