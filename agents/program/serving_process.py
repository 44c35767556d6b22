"""A served backup lasts as long as a person uses it: it is a process of its own, and no worker waits for it.

    python -m agents.program.serving_process

gets its session as JSON on standard input, where no list of processes shows the token.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from agents.program.mover import run_session
from agents.program.session import GateError, SessionClient
from agents.program.signing import load_writer_key

logger = logging.getLogger(__name__)


class Order(msgspec.Struct, frozen=True):
    """What the process needs to run one session."""

    gate_url: str
    token: str
    retry_seconds: float
    node_directory: str

    def __repr__(self) -> str:
        return f"Order(gate_url={self.gate_url!r})"


def start_serving(order: Order) -> int:
    """Start the process; its id. It outlives this one, and ends by its own clock or when its job is not its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.program.serving_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Where this package is, whatever the worker's own folder.
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    if process.stdin is not None:
        with process.stdin:
            process.stdin.write(msgspec.json.encode(order))
    # Its end is of no interest here, but a process that nobody waits for stays in the list.
    threading.Thread(target=process.wait, name="served", daemon=True).start()
    return process.pid


def main() -> int:
    """One session, as its order on standard input says."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    client = SessionClient(gate_url=order.gate_url, token=order.token, retry_seconds=order.retry_seconds)
    try:
        run_session(
            client,
            writer_key=load_writer_key(Path(order.node_directory)),
            retry_seconds=order.retry_seconds,
            random_bytes=os.urandom,
        )
    except GateError as error:
        logger.warning("the gate could not be told; a lease will run out", extra={"code": error.code})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
