"""The commands of ``orlop-runtime`` that few callers make."""

from __future__ import annotations

from orlop.runtime.oci.options import Flag
from orlop.runtime.oci.verbs import BUNDLE, CONSOLE, DETACH, ID, NO_PIVOT, NO_SUBREAPER, PID_FILE, Verb

_FORMAT = Flag(("format", "f"), "FORMAT", "table (default) or json")
_EVENTS = (
    Flag(("interval",), "DURATION", "how often statistics are written (default: 5s)"),
    Flag(("stats",), "", "write the statistics once"),
)
_UPDATE = (
    Flag(
        ("resources", "r"), "FILE", "read linux.resources from FILE, or from standard input (-); no other flag counts"
    ),
    Flag(("blkio-weight",), "WEIGHT", "10..1000"),
    Flag(("cpu-period",), "USEC", "CFS period"),
    Flag(("cpu-quota",), "USEC", "CPU time in a period"),
    Flag(("cpu-burst",), "USEC", "CPU time that may be saved up"),
    Flag(("cpu-share",), "SHARES", "relative weight"),
    Flag(("cpu-rt-period",), "USEC", "real-time period"),
    Flag(("cpu-rt-runtime",), "USEC", "real-time budget"),
    Flag(("cpu-idle",), "0|1", "SCHED_IDLE for the group"),
    Flag(("cpuset-cpus",), "LIST", "CPUs"),
    Flag(("cpuset-mems",), "LIST", "memory nodes"),
    Flag(("memory",), "BYTES", "memory limit; k, m, g are units, -1 is unlimited"),
    Flag(("memory-reservation",), "BYTES", "soft limit"),
    Flag(("memory-swap",), "BYTES", "memory and swap"),
    Flag(("pids-limit",), "N", "number of tasks; 0 leaves it as it is"),
    Flag(("kernel-memory",), "BYTES", "refused: the kernel has no such limit"),
    Flag(("kernel-memory-tcp",), "BYTES", "refused likewise"),
    Flag(("l3-cache-schema",), "SCHEMA", "refused: Intel RDT is not supported"),
    Flag(("mem-bw-schema",), "SCHEMA", "refused: Intel RDT is not supported"),
)
_IMAGE = (
    Flag(("image-path",), "DIR", "where the images are (default: checkpoint)"),
    Flag(("work-path",), "DIR", "where criu keeps its log (default: the image directory)"),
    Flag(("tcp-established",), "", "allow open TCP connections"),
    Flag(("ext-unix-sk",), "", "allow external unix sockets"),
    Flag(("shell-job",), "", "allow a terminal of the caller's"),
    Flag(("file-locks",), "", "keep file locks"),
    Flag(("manage-cgroups-mode",), "MODE", "soft (default), full, strict or ignore"),
    Flag(("auto-dedup",), "", "leave pages out of the parents' images that a newer one has"),
    Flag(("empty-ns",), "NAMESPACE", "network: make the namespace, but do not restore what is in it", many=True),
    Flag(("lazy-pages",), "", "memory is fetched when it is needed (criu lazy-pages, userfaultfd(2))"),
)
_CHECKPOINT = (
    *_IMAGE,
    Flag(("leave-running",), "", "let the container go on afterwards"),
    Flag(("pre-dump",), "", "copy the memory only and let the container go on"),
    Flag(("parent-path",), "DIR", "images of an earlier --pre-dump, relative to the image directory"),
    Flag(("status-fd",), "FD", "with --lazy-pages: write a zero byte there when the pages can be fetched"),
    Flag(("page-server",), "ADDRESS:PORT", "send memory pages to this page server"),
)
_RESTORE = (
    BUNDLE,
    CONSOLE,
    PID_FILE,
    *_IMAGE,
    DETACH,
    NO_SUBREAPER,
    NO_PIVOT,
    Flag(("lsm-profile",), "TYPE:NAME", "restore with this LSM profile"),
    Flag(("lsm-mount-context",), "CONTEXT", "restore mounts with this SELinux context"),
)
_SPEC = (BUNDLE, Flag(("rootless",), "", "for an ordinary user"))
_LIST = (_FORMAT, Flag(("quiet", "q"), "", "ids only"))

VERBS = {
    "checkpoint": Verb("write a running container to files", ID, _CHECKPOINT, 1, 1, "checkpoint:checkpoint"),
    "events": Verb("show statistics and OOM events", ID, _EVENTS, 1, 1, "events:events"),
    "features": Verb("show what this runtime can do", "", (), 0, 0, "documents:show_features"),
    "list": Verb("list containers", "", _LIST, 0, 0, "listing:list_containers"),
    "pause": Verb("suspend all processes", ID, (), 1, 1, "control:pause"),
    "ps": Verb(
        "show the processes in a container", f"{ID} [ps options]", (_FORMAT,), 1, -1, "listing:ps", interspersed=False
    ),
    "restore": Verb("start a container from the files of a checkpoint", ID, _RESTORE, 1, 1, "restore:restore"),
    "resume": Verb("resume all processes", ID, (), 1, 1, "control:resume"),
    "spec": Verb("write a configuration to start from", "", _SPEC, 0, 0, "documents:write_spec"),
    "update": Verb("change limits", ID, _UPDATE, 1, 1, "update:update"),
}
