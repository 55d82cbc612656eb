"""The services of config/docker-compose.yml as processes of this host: what the file says, with addresses and folders of here.

ClickHouse is `aspects-pii clickhouse`, and Redis is the host's. Everything else is the file's own: commands, environment,
secrets, health checks, and who waits for whom.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import yaml
from dotenv import dotenv_values

from tests.support.paths import ROOT
from tests.support.processes import PATIENCE, die_with_us, take_port

CONFIG = ROOT / "config"


def read_commands(page: Path, language: str = "sh") -> list[str]:
    """The blocks of shell commands of a page of the documentation."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@dataclass
class Ran:
    """What a command that ended did."""

    status: int
    out: str
    err: str


@dataclass
class Stack:
    """The services in a folder, with the secrets of another one."""

    folder: Path
    secrets: Path
    local: dict[str, str] = field(default_factory=dict)
    """What an operator has in compose.local.env."""
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the file, and take ports where none are given."""
        self.definitions = yaml.safe_load((CONFIG / "docker-compose.yml").read_text())["services"]
        self.ports = self.ports or {port: take_port() for port in ("8123", "6379", "8321")}
        for name in ("data", "receipts", "work"):
            (self.folder / name).mkdir(parents=True)

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in reversed(self.children):
            self.kill(name)

    @property
    def hook(self) -> str:
        """The address of the hook."""
        return f"http://127.0.0.1:{self.ports['8321']}"

    def translate(self, service: str, text: str) -> str:
        """What the file says, on this host."""
        here = {
            "/run/secrets": self.secrets_of(service),
            "/tmp/aspects-pii": self.folder / "signs" / service,
            "/var/lib/aspects-pii/receipts": self.folder / "receipts",
            "/data": self.folder / "data",
            "/entrypoint.sh": self.folder / "entrypoint.sh",
        }
        for there, path in here.items():
            text = re.sub(rf"(?<![\w/]){re.escape(there)}\b", str(path), text)
        for there, port in self.ports.items():
            text = re.sub(rf"\b{there}\b", str(port), text)
        return re.sub(r"(?<=//|.@)(clickhouse|redis)(?=:)", "127.0.0.1", text.replace("$$", "$"))

    def secrets_of(self, service: str) -> Path:
        """What is mounted as /run/secrets in a container of the service."""
        return self.folder / "secrets" / service

    def mount_secrets(self, service: str) -> None:
        """The files that the service is given, and no other."""
        folder = self.secrets_of(service)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in self.definitions[service].get("secrets", ()):
            (folder / name).write_text(self.translate(service, (self.secrets / name).read_text()))

    def environment(self, service: str) -> dict[str, str]:
        """The image's, the files', the service's own; nothing of this process but where programs are."""
        definition = self.definitions[service]
        found: dict[str, str] = {}
        if "build" in definition:
            image = re.findall(r"\b(ASPECTS_\w+)=(\S+)", (CONFIG / "Dockerfile").read_text())
            found |= dict(image)
        for file in definition.get("env_file", ()):
            if file.get("required", True):
                values = dotenv_values(stream=io.StringIO((CONFIG / file["path"]).read_text()))
                found |= {name: value or "" for name, value in values.items()}
            else:
                found |= self.local
        found |= definition.get("environment", {})
        translated = {name: self.translate(service, str(value)) for name, value in found.items()}
        return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **translated}

    def command(self, service: str) -> list[str]:
        """The entry point and the command."""
        definition = self.definitions[service]
        words = [*definition.get("entrypoint", ()), *definition["command"]]
        return [self.translate(service, str(word)) for word in words]

    def start(self, service: str) -> None:
        """Start the process of a service."""
        self.mount_secrets(service)
        if service == "clickhouse":
            self._write_entrypoint()
        with (self.folder / f"{service}.log").open("ab") as log:
            self.children[service] = subprocess.Popen(
                die_with_us(self.command(service)),
                env=self.environment(service),
                cwd=self.folder / "work",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its children end with it.
                start_new_session=True,
            )

    def _write_entrypoint(self) -> None:
        """In place of the image's: notes the hash that it is given, and serves the engine in process.

        The engine's one user is called `default`; it is granted what the file for the server grants to ours.
        """
        users = ElementTree.parse(CONFIG / "clickhouse" / "aspects_pii.xml").getroot()
        for path in ("users/default", "users/aspects_pii/password_sha256_hex"):
            parent = users.find(path.rpartition("/")[0])
            found = users.find(path)
            assert parent is not None
            assert found is not None
            parent.remove(found)
        ours = users.find("users/aspects_pii")
        assert ours is not None
        ours.tag = "default"
        ElementTree.SubElement(ours, "password")
        for name in ("profiles", "quotas"):
            ElementTree.SubElement(ElementTree.SubElement(users, name), "default")
        ElementTree.ElementTree(users).write(self.folder / "users.xml")
        # Without a configuration, the engine takes no notice of the users.
        (self.folder / "config.xml").write_text("<clickhouse/>")
        (self.folder / "serve.py").write_text(
            "from sink.doors.cli.main import run\n"
            "from sink.clickhouse.connection import ENGINE_OPTIONS\n"
            f"ENGINE_OPTIONS |= {{'config-file': '{self.folder}/config.xml', 'users_config': '{self.folder}/users.xml'}}\n"
            f"raise SystemExit(run(['clickhouse', '--port', '{self.ports['8123']}']))\n"
        )
        script = self.folder / "entrypoint.sh"
        script.write_text(
            "#!/bin/sh\n"
            f'printf %s "$CLICKHOUSE_PII_SHA256" > {self.folder}/hash\n'
            f"export ASPECTS_CLICKHOUSE_URL=chdb://{self.folder}/clickhouse ASPECTS_CLICKHOUSE_USER=aspects_pii\n"
            f"export ASPECTS_SECRETS_DIR={self.secrets_of('clickhouse')}\n"
            f"exec python {self.folder}/serve.py\n"
        )
        script.chmod(0o755)

    def run(self, service: str, *command: str, **changes: str) -> Ran:
        """Run a command in place of the service's, to its end, as `docker compose run` does."""
        self.mount_secrets(service)
        return self.execute(service, command or tuple(self.command(service)), **changes)

    def execute(self, service: str, command: tuple[str, ...], **changes: str) -> Ran:
        """Run a command beside the service's, to its end, as `docker compose exec` does."""
        done = subprocess.run(
            command,
            env={**self.environment(service), **changes},
            cwd=self.folder / "work",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def is_healthy(self, service: str) -> bool:
        """What the health check of a service says now."""
        kind, *words = (self.translate(service, str(word)) for word in self.definitions[service]["healthcheck"]["test"])
        command = ("sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words)
        return self.execute(service, command).status == 0

    def wait(self, service: str, *, healthy: bool = True) -> None:
        """Until the health check says so."""
        deadline = time.monotonic() + PATIENCE
        while self.is_healthy(service) != healthy:
            assert time.monotonic() < deadline, (
                f"{service} did not become {'' if healthy else 'un'}healthy: {self.log(service)}"
            )
            assert not healthy or self.children[service].poll() is None, f"{service} ended: {self.log(service)}"
            # To ask costs the start of a process.
            time.sleep(1)

    def log(self, service: str) -> str:
        """The last that a service said."""
        return (self.folder / f"{service}.log").read_text(errors="replace")[-3_000:]

    def up(self) -> None:
        """Start everything, each as soon as what it depends on is as the file wants it."""
        for service in self.order():
            for other, on in self.definitions[service].get("depends_on", {}).items():
                if on["condition"] == "service_healthy":
                    self.wait(other)
                else:
                    status = self.children[other].wait(PATIENCE)
                    assert status == 0, f"{other} ended with status {status}: {self.log(other)}"
            self.start(service)
        for service in self.order():
            if "healthcheck" in self.definitions[service]:
                self.wait(service)

    def order(self) -> list[str]:
        """The services, those first that others depend on."""
        ordered: list[str] = []

        def add(service: str) -> None:
            for other in self.definitions[service].get("depends_on", {}):
                add(other)
            if service not in ordered:
                ordered.append(service)

        for service in self.definitions:
            add(service)
        return ordered

    def kill(self, service: str) -> None:
        """Kill a service with everything that it has started."""
        child = self.children[service]
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(PATIENCE)
