"""``orlop completion bash|zsh``: a static script; names of containers and images are asked for at each use."""

from __future__ import annotations

import sys

from orlop.cli.catalogue import COMMANDS, GROUPS
from orlop.cli.flags import Command
from orlop.cli.invocation import CommandError, Invocation

_CONTAINERS = "attach exec export kill logs pause port rename restart rm start stats stop top unpause update wait"
_IMAGES = "history rmi run create save tag"
_SCRIPT = r"""# bash completion for orlop
_orlop() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words=
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "@COMMANDS@" -- "$current"))
        return
    fi
    if ((COMP_CWORD == 2)); then
        case $command in
@GROUPS@
        esac
        if [[ -n $words ]]; then
            COMPREPLY=($(compgen -W "$words" -- "$current"))
            return
        fi
    fi
    if [[ $current == -* ]]; then
        words=$(orlop "${COMP_WORDS[@]:1:COMP_CWORD-1}" --help 2>/dev/null | grep -oE -- '--[a-z0-9-]+')
    else
        case " @CONTAINERS@ " in *" $command "*) words=$(orlop ps -a --format '{{.Names}}' 2>/dev/null) ;; esac
        case " @IMAGES@ " in *" $command "*)
            words=$(orlop images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null) ;; esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _orlop orlop
"""


def _completion(invocation: Invocation) -> int:
    shell = invocation.arguments[0]
    if shell not in ("bash", "zsh"):
        raise CommandError(f"no completion for this shell: {shell}")
    groups = "\n".join(
        f'            {name}) words="{" ".join(sorted(entries))}" ;;' for name, (_, entries) in sorted(GROUPS.items())
    )
    script = _SCRIPT.replace("@COMMANDS@", " ".join(sorted([*COMMANDS, *GROUPS]))).replace("@GROUPS@", groups)
    script = script.replace("@CONTAINERS@", _CONTAINERS).replace("@IMAGES@", _IMAGES)
    if shell == "zsh":
        script = f"autoload -U +X bashcompinit && bashcompinit\n{script}"
    sys.stdout.write(script)
    return 0


COMPLETION = Command("bash|zsh", "Print a completion script for a shell", _completion, arguments=(1, 1))
