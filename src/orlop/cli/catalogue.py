"""The tree of commands: names only, so that nothing is imported but the command that runs."""

from __future__ import annotations


class Entry:
    """Where a command is: module of ``orlop.cli``, its constant, and its sentence for the list of commands."""

    __slots__ = ("constant", "module", "summary")

    def __init__(self, module: str, constant: str, summary: str) -> None:
        self.module = module
        self.constant = constant
        self.summary = summary


_CONTAINER = {
    "attach": Entry("attaching", "ATTACH", "Join the standard streams of a running container"),
    "commit": Entry("committing", "COMMIT", "Make an image of a container's changes"),
    "cp": Entry("copying", "CP", "Copy files between a container and the host"),
    "create": Entry("running", "CREATE", "Make a container without starting it"),
    "diff": Entry("processes", "DIFF", "List what changed in a container's file system"),
    "exec": Entry("executing", "EXEC", "Run a command in a running container"),
    "export": Entry("archives", "EXPORT", "Write a container's file system as a tar archive"),
    "inspect": Entry("inspecting", "CONTAINER", "Show everything known about containers"),
    "kill": Entry("lifecycle", "KILL", "Send a signal to running containers"),
    "logs": Entry("logs", "LOGS", "Show what a container wrote"),
    "ls": Entry("listing", "PS", "List containers"),
    "pause": Entry("lifecycle", "PAUSE", "Freeze the processes of containers"),
    "port": Entry("processes", "PORT", "List the published ports of a container"),
    "prune": Entry("pruning", "CONTAINERS", "Remove all stopped containers"),
    "rename": Entry("lifecycle", "RENAME", "Give a container another name"),
    "restart": Entry("lifecycle", "RESTART", "Stop and start containers"),
    "rm": Entry("lifecycle", "RM", "Remove containers"),
    "run": Entry("running", "RUN", "Make a container from an image and run it"),
    "start": Entry("attaching", "START", "Start stopped containers"),
    "stats": Entry("processes", "STATS", "Show what containers use"),
    "stop": Entry("lifecycle", "STOP", "Stop running containers"),
    "top": Entry("processes", "TOP", "List the processes of a container"),
    "unpause": Entry("lifecycle", "UNPAUSE", "Thaw the processes of containers"),
    "update": Entry("updating", "UPDATE", "Change the limits of containers"),
    "wait": Entry("lifecycle", "WAIT", "Wait until containers stop, then print their exit codes"),
}
_BUILDER = {
    "build": Entry("building", "BUILD", "Build an image from a Dockerfile"),
    "prune": Entry("pruning", "BUILDS", "Forget the build cache"),
}
_IMAGE = {
    "build": Entry("building", "BUILD", "Build an image from a Dockerfile"),
    "history": Entry("images", "HISTORY", "Show how an image was made"),
    "import": Entry("archives", "IMPORT", "Make an image of a tar archive"),
    "inspect": Entry("inspecting", "IMAGE", "Show everything known about images"),
    "load": Entry("archives", "LOAD", "Read images from an archive made by save"),
    "ls": Entry("images", "IMAGES", "List images"),
    "prune": Entry("pruning", "IMAGES", "Remove unused images"),
    "pull": Entry("images", "PULL", "Fetch an image from a registry"),
    "push": Entry("registries", "PUSH", "Send an image to a registry"),
    "rm": Entry("images", "RMI", "Remove images"),
    "save": Entry("archives", "SAVE", "Write images to an archive"),
    "tag": Entry("images", "TAG", "Give an image another name"),
}
_NETWORK = {
    "connect": Entry("networks", "CONNECT", "Join a container to a network"),
    "create": Entry("networks", "CREATE", "Make a network"),
    "disconnect": Entry("networks", "DISCONNECT", "Take a container off a network"),
    "inspect": Entry("inspecting", "NETWORK", "Show everything known about networks"),
    "ls": Entry("networks", "LS", "List networks"),
    "prune": Entry("pruning", "NETWORKS", "Remove unused networks"),
    "rm": Entry("networks", "RM", "Remove networks"),
}
_VOLUME = {
    "create": Entry("volumes", "CREATE", "Make a volume"),
    "inspect": Entry("inspecting", "VOLUME", "Show everything known about volumes"),
    "ls": Entry("volumes", "LS", "List volumes"),
    "prune": Entry("pruning", "VOLUMES", "Remove unused volumes"),
    "rm": Entry("volumes", "RM", "Remove volumes"),
}
_SYSTEM = {
    "check": Entry("checking", "CHECK", "Find space that nothing refers to, and give it back"),
    "df": Entry("usage", "DF", "Show what images, containers and volumes take on disk"),
    "dial-stdio": Entry("dialling", "DIAL_STDIO", "Connect standard input and output to the engine's socket"),
    "events": Entry("events", "EVENTS", "Show what happens in the engine, as it happens"),
    "info": Entry("info", "INFO", "Describe the engine and its machine"),
    "prune": Entry("pruning", "SYSTEM", "Remove unused data"),
}
GROUPS: dict[str, tuple[str, dict[str, Entry]]] = {
    "builder": ("Manage builds", _BUILDER),
    "container": ("Manage containers", _CONTAINER),
    "image": ("Manage images", _IMAGE),
    "network": ("Manage networks", _NETWORK),
    "system": ("Manage the engine", _SYSTEM),
    "volume": ("Manage volumes", _VOLUME),
}
_SAME = (
    *("attach", "commit", "cp", "create", "diff", "exec", "export", "kill", "logs", "pause", "port", "rename"),
    *("restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait"),
)
COMMANDS: dict[str, Entry] = {
    **{name: _CONTAINER[name] for name in _SAME},
    **{name: _IMAGE[name] for name in ("build", "history", "import", "load", "pull", "push", "save", "tag")},
    "completion": Entry("completion", "COMPLETION", "Print a completion script for a shell"),
    "daemon": Entry("", "", "Run the engine in the foreground"),
    "events": _SYSTEM["events"],
    "images": _IMAGE["ls"],
    "info": _SYSTEM["info"],
    "inspect": Entry("inspecting", "ANY", "Show everything known about any object"),
    "login": Entry("registries", "LOGIN", "Log in to a registry"),
    "logout": Entry("registries", "LOGOUT", "Forget the credentials for a registry"),
    "ps": _CONTAINER["ls"],
    "rmi": _IMAGE["rm"],
    "version": Entry("info", "VERSION", "Show the versions of client and engine"),
}
ALIASES = {"list": "ls", "remove": "rm", "ps": "ls"}


def find(words: list[str]) -> tuple[Entry | None, int]:
    """Find the command that the words begin with; the number of words that name it."""
    if not words:
        return None, 0
    group = GROUPS.get(words[0])
    if group is not None:
        name = words[1] if len(words) > 1 else ""
        entries = group[1]
        return entries.get(name) or entries.get(ALIASES.get(name, "")), 2
    return COMMANDS.get(words[0]), 1
