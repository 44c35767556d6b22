"""The completion for bash, and for zsh by its bashcompinit."""

from __future__ import annotations

from backupsite.es_command.grammar import FORMATS, METHODS, SWITCHES

RESOURCES = (
    "/vm",
    "/vm/define/backup",
    "/node",
    "/dc",
    "/task",
    "/task/log",
    "/task/log/stats",
    "/accounts/login",
    "/accounts/logout",
)
PARAMETERS = (
    *("dc", "full", "extended", "order_by", "page", "limit", "disk_id", "hostname", "define", "vm", "note"),
    *("bkpnames", "target_hostname_or_uuid", "target_disk_id", "force"),
    *("type", "node", "zpool", "schedule", "time_zone", "retention", "active", "compression", "bwlimit", "desc"),
    *("fsfreeze", "status", "object_type", "object_name", "show_running", "hide_auto", "date_from", "date_to", "last"),
    *("username", "password", "api-key"),
)
_STYLES = ("grid", "pipe", "plain", "rst", "orgtbl", "mediawiki", "latex", "html", "csv")

# What is below one of them, by its name.
BELOW = {
    "vm": ("backup", "define/backup"),
    "node": ("backup", "define/backup", "storage"),
    "dc": ("vm", "vm/define/backup"),
    "task": ("status", "done", "cancel"),
}

# No `compgen -W` over what was typed: it would run what is in $( ).
_SCRIPT = """# Completion of es: eval "$(es help completion)"
_es_complete() {{
    local word=${{COMP_WORDS[COMP_CWORD]}}
    local words one kind below name=
    words=() below=()
    case $word in
        --*) words=({formats}) ;;
        -*) words=({parameters}) ;;
        /vm/define* | /task/log*) ;;
{below}
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then
        words=({actions})
    elif [ "$COMP_CWORD" -eq 2 ] && [ "${{word#-}}" = "$word" ]; then
        words=({resources})
        name=${{word#/*/}}
        for one in "${{below[@]}}"; do
            words+=("/$kind/${{name%%/*}}/$one")
        done
    fi
    COMPREPLY=()
    for one in "${{words[@]}}"; do
        case $one in
            "$word"*) COMPREPLY+=("$one") ;;
        esac
    done
}}
if [ -n "${{ZSH_VERSION-}}" ]; then
    autoload -Uz +X compinit bashcompinit && compinit && bashcompinit
    # Without names of files: for those zsh runs what is in $( ).
    complete -F _es_complete es
else
    complete -o default -F _es_complete es
fi"""


def script() -> str:
    formats = [*FORMATS, *(f"tabulate-{style}" for style in _STYLES), *SWITCHES]
    # In quotes: `done` is a word of the shell.
    quoted = {kind: " ".join(f"'{path}'" for path in paths) for kind, paths in BELOW.items()}
    below = (f"        /{kind}/*/*) kind={kind} below=({paths}) ;;" for kind, paths in quoted.items())
    return _SCRIPT.format(
        below="\n".join(below),
        formats=" ".join(f"--{name}" for name in formats),
        parameters=" ".join(f"-{name}" for name in PARAMETERS),
        actions=" ".join(METHODS),
        resources=" ".join(RESOURCES),
    )
