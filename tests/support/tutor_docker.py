"""Stands in for Docker where Tutor's tests run what was rendered: containers become processes of this host.

As a program it is `docker`: `compose … run … SERVICE sh -e -c COMMAND` runs the command as the compose file says,
with paths inside the container turned into those that are mounted there. It writes what it was asked for to $DOCKER_LOG.
The LMS's container is not there; its commands are only written down.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

RUN = ("aspects-pii-job", "mysql-job")


def read_services(files: Iterable[Path]) -> dict[str, tuple[dict[str, Any], Path]]:
    """Service → (its description, the folder that its paths are relative to)."""
    found = {}
    for file in files:
        # Tutor's own files write a mode for SELinux behind some paths; they are passed over here.
        for name, service in (yaml.safe_load(file.read_text())["services"] or {}).items():
            found[name] = (service, file.parent)
    return found


def make_environment(name: str, service: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The environment of a container, for a process of this host."""
    mounts = {"/tmp/": f"{folder.parent.parent}/containers/{name}/"}
    for volume in service.get("volumes", []):
        source, target = volume.split(":")[:2]
        mounts[target] = str((folder / source).resolve())
    environment = {"PATH": os.environ["PATH"], "HOME": mounts["/tmp/"]}
    Path(mounts["/tmp/"]).mkdir(parents=True, exist_ok=True)
    for setting, value in (service.get("environment") or {}).items():
        assert isinstance(value, str), f"{setting} of {name} is no text"
        # Compose would put a variable of the host in the place of $NAME.
        assert "$" not in value.replace("$$", "")
        value = value.replace("$$", "$")
        inside = next((target for target in sorted(mounts, reverse=True) if value.startswith(target)), None)
        environment[setting] = mounts[inside] + value.removeprefix(inside) if inside else value
    return environment


def main(arguments: list[str]) -> int:
    """Be `docker`."""
    with Path(os.environ["DOCKER_LOG"]).open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if "ls" in arguments:
        # Nothing runs.
        sys.stdout.write("[]")
    if arguments[:1] != ["compose"] or "run" not in arguments:
        return 0
    files = [Path(following) for word, following in itertools.pairwise(arguments) if word == "-f"]
    name, *command = [word for word in arguments[arguments.index("run") + 1 :] if word not in ("--rm", "-T")]
    if name not in RUN:
        return 0
    service, folder = read_services(file for file in files if file.exists())[name]
    environment = make_environment(name, service, folder)
    return subprocess.run(command, env=environment, cwd=environment["HOME"]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
