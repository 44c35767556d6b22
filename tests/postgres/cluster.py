"""A throw-away PostgreSQL: on loopback, for its one user, never as root; gone when the block ends."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from backupsite.stack.ports import free_ports

PORTS_TRIED = 3
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def scratch_cluster(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yields the URL of its database `postgres`. Whoever may use the loopback is trusted, and nothing is synced.

    `settings` are options of the server, such as {"shared_buffers": "1GB"}.
    """
    folder = Path(tempfile.mkdtemp(prefix="backupsite-pg-"))
    account = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    os.chown(folder, account.pw_uid, account.pw_gid)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(PROGRAMS[-1] / program), *arguments],
            check=True,
            cwd=folder,
            user=account.pw_uid,
            group=account.pw_gid,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
    given = " ".join(f"-c {name}={value}" for name, value in {**options, **(settings or {})}.items())
    log, started = folder / "log", False

    def start() -> int:
        """Its port. One that was free can be taken by now: many tests start servers."""
        for _ in range(PORTS_TRIED):
            port = free_ports(1)[0]
            with suppress(subprocess.CalledProcessError):
                run("pg_ctl", "-D", data, "-w", "-o", f"-p {port} {given}", "-l", str(log), "start")
                return port
        raise OSError(f"PostgreSQL does not start: {log.read_text()[-2000:] if log.exists() else 'no log'}")

    try:
        run("initdb", "-D", data, "-U", "backupsite", "--auth=trust", "--no-sync", "-E", "UTF8")
        port = start()
        started = True
        yield f"postgresql://backupsite@127.0.0.1:{port}/postgres"
    finally:
        if started:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
