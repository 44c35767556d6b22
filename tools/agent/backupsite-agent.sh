#!/bin/sh
# The program in an environment of its wheels; it works wherever the folder is.
here=$(dirname "$(readlink -f "$0")")
exec "$here/../environment/bin/python" -P -m agents.program.agent "$@"
