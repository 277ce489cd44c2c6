"""Containers on user-defined networks, and what they see of them."""


def sleeper(engine, name, *options):
    return engine.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "1000").stdout.strip()


def within(engine, name, *command, check=True):
    return engine.docker("exec", name, *command, check=check).stdout


def nobody_at(gateway):
    """Return options by which questions for other names go to the gateway, where nobody listens.

    So "no such name" is said at once; the machine's own name server may be out of reach, and is waited for.
    """
    return "--dns", gateway


def lookup(engine, name, what):
    """Return the addresses of a name as a container sees them."""
    text = within(engine, name, "nslookup", what, "127.0.0.11", check=False)
    return sorted(line.split()[-1] for line in text.splitlines()[2:] if line.startswith("Address"))


def routes(engine, name):
    return within(engine, name, "ip", "route").splitlines()
