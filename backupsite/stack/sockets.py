"""Where unix sockets live: their paths must be short and plain, whatever data folder was chosen."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

# The kernel's limit is 108 bytes with the final zero; longest_name leaves room for the names of the sockets.
_LIMIT_BYTES = 107
_LONGEST_NAME = "/broker.sock"
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")


class SocketFolder:
    """The wished folder when sockets can live there, else a private one in the temporary folder, removed at close."""

    def __init__(self, wished: Path) -> None:
        self._wished = wished
        self._temporary = bool(not _PLAIN.fullmatch(str(wished)) or len(str(wished) + _LONGEST_NAME) > _LIMIT_BYTES)
        self._path = Path(tempfile.mkdtemp(prefix="backupsite-")) if self._temporary else wished

    @property
    def path(self) -> Path:
        return self._path

    def make(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.chmod(0o700)

    def close(self) -> None:
        if self._temporary:
            shutil.rmtree(self._path, ignore_errors=True)
