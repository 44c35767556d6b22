"""What a person may choose about the embedded stack: read from the environment and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from backupsite.stack.errors import PreflightError
from backupsite.stack.ports import GATE_OFFSET, HIGHEST_PORT, LOOPBACK, LOWEST_PORT, S3_OFFSET

DEFAULT_PORT = "8000"
DEFAULT_DATA = "./var"
DEFAULT_DEMO_DISK_MIB = "1024"
SMALLEST_DEMO_DISK_MIB, LARGEST_DEMO_DISK_MIB = 128, 1024 * 1024
DATA_FOLDERS = ("secrets", "log", "run", "s3", "db", "disks", "broker", "node")


@dataclass(frozen=True, slots=True)
class StackSettings:
    data: Path
    port: int
    database_url: str = ""
    broker_url: str = ""
    # Of each of the demo's two disks; an ext4 file system needs some, and it holds files of two fifths of it.
    demo_disk_mib: int = int(DEFAULT_DEMO_DISK_MIB)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> StackSettings:
        """Raises PreflightError when a value cannot be used."""
        return cls(
            data=Path(environment.get("BACKUPSITE_DATA") or DEFAULT_DATA).expanduser().resolve(),
            port=_port(environment.get("BACKUPSITE_PORT") or DEFAULT_PORT),
            database_url=environment.get("BACKUPSITE_DATABASE_URL", ""),
            broker_url=environment.get("BACKUPSITE_BROKER_URL", ""),
            demo_disk_mib=_demo_disk_mib(environment.get("BACKUPSITE_DEMO_DISK_MIB") or DEFAULT_DEMO_DISK_MIB),
        )

    @property
    def portal_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def s3_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port + S3_OFFSET}"

    @property
    def gate_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port + GATE_OFFSET}"

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{quote(str(self.data / 'db' / 'backupsite.sqlite3'))}"


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and LOWEST_PORT <= int(text[:9]) <= HIGHEST_PORT:
        return int(text)
    raise PreflightError(
        f"BACKUPSITE_PORT must be a number from {LOWEST_PORT} to {HIGHEST_PORT}, not {text!r}; "
        "choose another: BACKUPSITE_PORT=9000 make up"
    )


def _demo_disk_mib(text: str) -> int:
    smallest, largest = SMALLEST_DEMO_DISK_MIB, LARGEST_DEMO_DISK_MIB
    if text.isascii() and text.isdigit() and smallest <= int(text[:9]) <= largest:
        return int(text)
    raise PreflightError(f"BACKUPSITE_DEMO_DISK_MIB must be a number from {smallest} to {largest}, not {text!r}")
