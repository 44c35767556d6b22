"""A bare-metal server beside the running stack, from its order on: a folder of odd files, and the agent program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from backupsite.stack.errors import StackError
from tests.e2e.conftest import PATIENCE_SECONDS, Running
from tests.e2e.files import odd_tree

ROOT = Path(__file__).resolve().parents[2]
EMAIL, PASSWORD = "metal@example.org", "a-long-password-1"
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class Visitor:
    """Somebody with a browser, as far as forms go."""

    def __init__(self, portal: str) -> None:
        self._portal = portal
        self._session = requests.Session()
        self._session.trust_env = False

    def open(self, path: str) -> requests.Response:
        return self._session.get(self._portal + path, timeout=30)

    def send(self, path: str, **typed: str) -> requests.Response:
        """Fill in the form of the page and send it."""
        page = self.open(path)
        token = _TOKEN.search(page.text)
        assert page.ok and token is not None, page.text
        answer = self._session.post(
            page.url, {**typed, "csrfmiddlewaretoken": token[1]}, headers={"Referer": page.url}, timeout=30
        )
        assert answer.ok, answer.text
        return answer

    def sign_in(self, name: str, password: str) -> Visitor:
        self.send("/login/", username=name, password=password)
        return self


def _mounted_btrfs(image: Path, at: Path) -> bool:
    """A btrfs file system with a subvolume, by a loop device; whether it can be had here."""
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    try:
        subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True, capture_output=True)
        subprocess.run(["btrfs", "subvolume", "create", str(at / "inner")], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    (at / "big").write_bytes(os.urandom(3 << 20))
    (at / "inner" / "deep").write_bytes(b"below")
    return True


class Metal:
    """Ordered by a SuperAdmin for its owner, enrolled by the line of his mail, and approved."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._folder = folder
        self._be_machine("first")
        # Something of btrfs in it, where one can be mounted.
        self.has_btrfs = _mounted_btrfs(folder / "btrfs.img", self.root / "data")
        odd_tree(self.root)
        mail = self._order(running)
        self.owner = self._join(running, mail)
        self.server = re.findall(r"/servers/([-0-9a-f]{36})/", self.owner.open("/servers/").text)[0]
        line = re.search(r"/agent/install\.sh \| sh -s -- (\S+)", mail)
        assert line is not None
        self.enrolled = self.run("enrol", line[1], "--url", running.stack.settings.gate_url)
        [agent] = running.api.get(f"agents/?server={self.server}")["results"]
        self.agent = agent["id"]

    def be_lost_and_replaced(self, running: Running) -> None:
        """Its files and keys are gone; another machine, empty, becomes the agent of the same server."""
        running.api.post(f"agents/{self.agent}/revoke/", {})
        self._come_as(running, "second")

    def leave_and_be_replaced(self, running: Running) -> None:
        """It goes by itself, with its keys; another machine, empty, comes for it."""
        self.run("unenrol", "--purge")
        left = {path.name for path in (self._home / "lib").rglob("*") if path.is_file()}
        assert not left & {"identity.json", "policy.json", "state.json"} and not any("key" in name for name in left)
        self._come_as(running, "third")

    def _come_as(self, running: Running, name: str) -> None:
        token = running.api.post("enrolment-tokens/", {"server": self.server})["token"]
        self._be_machine(name)
        self.run("enrol", token, "--url", running.stack.settings.gate_url)

    def restore(self, running: Running, backup: str) -> Path:
        """As a person does: asked for on the server, confirmed in the portal by the code. Where it was put."""
        asking = self.start("restore", backup, "--to", str(self.root / "back"))
        waiting = f"asked-restores/?server={self.server}"
        asked = running.api.wait(
            lambda: next((one for one in running.api.get(waiting)["results"] if one["state"] == "waits"), None),
            timeout_seconds=PATIENCE_SECONDS,
            what="nothing was asked",
        )
        assert asking.stderr is not None
        code = asking.stderr.readline().partition("code there is ")[2].strip(".\n: ")
        with pytest.raises(StackError, match="another code"):
            running.api.post(f"asked-restores/{asked['id']}/confirm/", {"code": "AAAA-AAAA"})
        job = running.api.post(f"asked-restores/{asked['id']}/confirm/", {"code": code})
        assert running.wait_until_ended(job["id"], timeout_seconds=PATIENCE_SECONDS)["state"] == "ok"
        asking.communicate(timeout=PATIENCE_SECONDS)
        assert asking.returncode == 0
        return self.root / "back"

    def _be_machine(self, name: str) -> None:
        self._home, self.root = self._folder / name / "home", self._folder / name / "server"
        self.root.mkdir(parents=True)
        settings = self._home / "etc" / "agent.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'root = "{self.root}"\n')
        settings.chmod(0o600)

    def _order(self, running: Running) -> str:
        """Returns the text of the mail, which lies in the folder of an installation without a mail server."""
        portal = running.stack.settings.portal_url
        login = next(login for login in running.rows["logins"] if login["username"] == "super")
        operator = Visitor(portal).sign_in("super", login["password"])
        answer = operator.send("/orders/new/", tenant="Demo", email=EMAIL, name="metal", region="RBX")
        assert f"the mail to {EMAIL} is on its way" in answer.text
        files = (running.stack.settings.data / "mail").iterdir()
        mails = [message_from_bytes(path.read_bytes().split(b"\n" + b"-" * 79)[0], policy=default) for path in files]
        [mail] = [str(mail.get_payload(decode=True), "utf-8") for mail in mails if mail["To"] == EMAIL]
        return mail

    def _join(self, running: Running, mail: str) -> Visitor:
        portal = running.stack.settings.portal_url
        link = re.search(r"https?://\S+/join/\S+", mail)
        assert link is not None and link[0].startswith(portal)
        Visitor(portal).send(urlsplit(link[0]).path, password=PASSWORD)
        return Visitor(portal).sign_in(EMAIL, PASSWORD)

    def end(self) -> None:
        if self.has_btrfs:
            subprocess.run(["umount", "-l", str(self._folder / "first" / "server" / "data")], check=True)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agents.program.agent", "--home", str(self._home), *words]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKUPSITE_")}
        return subprocess.Popen(command, cwd=ROOT, env=kept, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words: str) -> str:
        process = self.start(*words)
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, out + error
        return out
