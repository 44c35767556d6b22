"""`make bench-stack`: a full backup of the demo's disk into the embedded object storage, an unchanged one, a restore.

Prints figures and ratios and writes them to `var/bench/backup.json`. The yardstick, measured in the same run, is one
plain pass over the same data: read, SHA-256, and upload of what was stored cannot be cheaper than that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from backupsite.stack import demo_disk
from backupsite.stack.demo_api import DemoApi
from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from tests.bench.measured import cpu_seconds_of

MIB = 1024 * 1024
GIB = 1024 * MIB
LIMIT_MOVER_BYTES = 256 * MIB
RESULTS = Path("var/bench/backup.json")


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="backupsite-bench-"))
    try:
        settings = StackSettings(data=folder / "data", port=free_ports(PORT_SPAN)[0])
        with Stack(settings) as stack:
            figures = _measure(stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    _print(figures)
    return 0 if figures["mover_peak_memory_bytes"] <= LIMIT_MOVER_BYTES else 1


def _measure(stack: Stack) -> dict[str, Any]:
    rows = json.loads(stack.run_manage("demo_rows", "--disk-size-bytes", str(demo_disk.DISK_SIZE_BYTES), role="manage"))
    source, target = (Path(rows["disks"][name]["path"]) for name in ("web01", "web02"))
    demo_disk.make_source(source)
    demo_disk.make_target(target)
    api = DemoApi(portal_url=stack.settings.portal_url, token=rows["token"])
    vault = f"vaults/{rows['vault_id']}/"
    ready = lambda: {"ok": 1} if api.get(vault)["status"] == "ready" else None  # noqa: E731  # used once, on the next line
    api.wait(ready, timeout_seconds=60, what="the vault did not become ready")
    body = {"disk": rows["disks"]["web01"]["id"], "name": "bench", "cron": "0 22 * * *", "time_zone": "UTC"}
    definition = api.post("definitions/", body)["id"]
    plain_seconds = _plain_pass(source)
    full = _run(stack, api, f"definitions/{definition}/backup-now/", {})
    unchanged = _run(stack, api, f"definitions/{definition}/backup-now/", {})
    order = {"target": rows["disks"]["web02"]["id"], "confirmation": "web02"}
    restore = _run(stack, api, f"backups/{full['backup']}/restore/", order)
    backup = api.get(f"backups/{full['backup']}/")
    read_bytes = backup["read_bytes"]
    return {
        "allocated_bytes": read_bytes,
        "stored_bytes": backup["stored_bytes"],
        "plain_pass_mib_per_second": read_bytes / MIB / plain_seconds,
        "full": _figures(full, read_bytes),
        "unchanged": _figures(unchanged, read_bytes),
        "restore": _figures(restore, read_bytes),
        "full_to_plain_pass_ratio": full["mover_wall_seconds"] / plain_seconds,
        "unchanged_to_full_ratio": unchanged["mover_wall_seconds"] / full["mover_wall_seconds"],
        "mover_peak_memory_bytes": max(job["mover_peak_memory_bytes"] for job in (full, unchanged, restore)),
        "identical": demo_disk.sha256_of(source) == demo_disk.sha256_of(target),
    }


def _run(stack: Stack, api: DemoApi, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One job, with the CPU time that the object storage spent on it."""
    before = cpu_seconds_of(stack.child("weed").pid)
    job = api.wait_for_job(api.post(path, body)["id"], timeout_seconds=300, tell=lambda _: None)
    job["server_cpu_seconds"] = cpu_seconds_of(stack.child("weed").pid) - before
    return job


def _figures(job: dict[str, Any], read_bytes: int) -> dict[str, float]:
    return {
        "mib_per_second": read_bytes / MIB / job["mover_wall_seconds"],
        "wall_seconds": job["mover_wall_seconds"],
        "client_cpu_seconds_per_gib": job["mover_cpu_seconds"] * GIB / read_bytes,
        "server_cpu_seconds_per_gib": job["server_cpu_seconds"] * GIB / read_bytes,
        "mover_peak_memory_bytes": job["mover_peak_memory_bytes"],
    }


def _plain_pass(source: Path) -> float:
    """Seconds to read the allocated data once and hash it."""
    begun, digest, offset = time.monotonic(), hashlib.sha256(), 0
    with source.open("rb") as file:
        size = source.stat().st_size
        while offset < size:
            try:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for at in range(start, offset, MIB):
                digest.update(os.pread(file.fileno(), min(MIB, offset - at), at))
    return time.monotonic() - begun


def _print(figures: dict[str, Any]) -> None:
    allocated, stored = figures["allocated_bytes"] / MIB, figures["stored_bytes"] / MIB
    print(f"\n  disk: {allocated:.0f} MiB allocated, {stored:.0f} MiB stored")
    print("  job          MiB/s   seconds   client CPU s/GiB   server CPU s/GiB   mover peak MiB")
    for name in ("full", "unchanged", "restore"):
        told = figures[name]
        print(
            f"  {name:<10} {told['mib_per_second']:>7.0f} {told['wall_seconds']:>9.2f} "
            f"{told['client_cpu_seconds_per_gib']:>18.2f} {told['server_cpu_seconds_per_gib']:>18.2f} "
            f"{told['mover_peak_memory_bytes'] / MIB:>16.0f}"
        )
    print(f"  plain read and SHA-256 of the same data: {figures['plain_pass_mib_per_second']:.0f} MiB/s")
    print(f"  full to plain pass, wall: {figures['full_to_plain_pass_ratio']:.1f}x")
    print(f"  unchanged to full, wall: {figures['unchanged_to_full_ratio']:.2f}x")
    print(f"  restored disk identical: {figures['identical']}; written to {RESULTS}\n")
