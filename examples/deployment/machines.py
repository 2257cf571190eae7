"""The machines of the example, all of them this one: each is a folder, and a family of processes that can be ended alone."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from pathlib import Path

from pfedhr.flower.processes import START_SECONDS, Family, FlowerError, await_answer


class Machine(contextlib.ExitStack):
    """A folder, and the processes started for it, which a `with` block ends; they write to flower.log in it."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home, self.log = home.resolve(), home / "flower.log"
        self.family = Family({"FLWR_HOME": str(self.home / "flower")}, self.enter_context(self.log.open("ab")))
        self.enter_context(self.family)


class Server(Machine):
    """The machine of the SuperLink, which starts the server's side of a run."""

    def __init__(self, home: Path, port: int) -> None:
        super().__init__(home)
        self.address = f"127.0.0.1:{port}"

    def start(self) -> None:
        """Start the SuperLink, and wait until it answers."""
        host, port = self.address.split(":")
        files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
        secured = [word for option, name in files.items() for word in (f"--ssl-{option}", str(self.home / name))]
        database = str(self.home / "superlink.db")
        options = ["--enable-supernode-auth", "--database", database, "--disable-runtime-dependency-installation"]
        link = self.family.start("flower-superlink", "--host", host, "--port", port, *secured, *options)
        await_answer(link, f"https://{self.address}/health", self.log, ssl.create_default_context(cafile=self.home / "ca.crt"))


class Node(Machine):
    """The machine of a client."""

    def __init__(self, home: Path, server: Server, port: int) -> None:
        super().__init__(home)
        self._server, self._port = server, port
        self.process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start the SuperNode, if it is not running."""
        if self.process is None or self.process.poll() is not None:
            trust = ["--root-certificates", str(self.home / "ca.crt"), "--auth-supernode-private-key", str(self.home / "key")]
            own = ["--host", "127.0.0.1", "--port", str(self._port), "--node-config", f'home="{self.home}"']
            self.process = self.family.start("flower-supernode", "--superlink", self._server.address, *trust, *own)


class Operator(Machine):
    """The machine from which nodes are registered and runs are started."""

    def __init__(self, home: Path, server: Server) -> None:
        super().__init__(home)
        (self.home / "flower").mkdir(exist_ok=True)
        (self.home / "flower" / "config.toml").write_text(
            f'[superlink]\ndefault = "ours"\n\n[superlink.ours]\naddress = "{server.address}"\n'
            f'root-certificates = "{self.home / "ca.crt"}"\n',
            encoding="utf-8",
        )

    def register(self, key: Path) -> None:
        """Register the public half of a node's key. Raises FlowerError."""
        command = self.family.start("flwr", "supernode", "register", str(key), "ours")
        if command.wait(START_SECONDS):
            raise FlowerError(f"{key} was not registered: see {self.log}")

    def run(self, server_home: Path) -> subprocess.Popen[bytes]:
        """Start the run in that folder of the server, or go on with it; the command ends when the run does."""
        where = f'server-home="{server_home}"'
        return self.family.start("flwr", "run", str(self.home / "app"), "ours", "--stream", "--run-config", where)
