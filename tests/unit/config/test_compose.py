"""The image and the compose file: what they name is there, no secret is where it can be read, nothing is left open."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from dotenv import dotenv_values

from sink.doors.cli.main import app
from sink.doors.heartbeat import NAMES
from sink.errors import SettingsError
from sink.resources import VERSION
from sink.settings import PREFIX, Settings, environment_name, load_settings
from tests.support.paths import ROOT

CONFIG = ROOT / "config"
COMPOSE: dict[str, Any] = yaml.safe_load((CONFIG / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("init", "worker", "consumer", "hook")
DOCKERFILE = (CONFIG / "Dockerfile").read_text()
KNOWN = {environment_name(field): field for field in Settings.model_fields}
SECRET = {name for name, field in KNOWN.items() if "SecretStr" in str(Settings.model_fields[field].annotation)}


def read_environment(service: str) -> dict[str, str]:
    """What a service has in its environment, by the compose file."""
    found: dict[str, str] = {}
    for file in SERVICES[service].get("env_file", ()):
        if file.get("required", True):
            found |= {name: value or "" for name, value in dotenv_values(CONFIG / file["path"]).items()}
    return {**found, **SERVICES[service].get("environment", {})}


def list_jobs() -> set[str]:
    """Services that end: others wait for it."""
    return {
        name
        for service in SERVICES.values()
        for name, on in service.get("depends_on", {}).items()
        if on["condition"] == "service_completed_successfully"
    }


def list_our_commands(service: str) -> list[list[str]]:
    """What a service runs of ours, as its process and as its health check."""
    definition = SERVICES[service]
    kind, *check = definition.get("healthcheck", {}).get("test", ["CMD"])
    assert kind in ("CMD", "CMD-SHELL")
    return [command[1:] for command in (definition["command"], check) if command[:1] == ["aspects-pii"]]


def test_services_are_there() -> None:
    assert set(SERVICES) == {"clickhouse", "redis", *OURS}
    assert list_jobs() == {"init"}
    for name, service in SERVICES.items():
        for other, on in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert (on["condition"] == "service_completed_successfully") == (other == "init"), name


@pytest.mark.parametrize("service", OURS)
def test_every_environment_name_is_a_setting(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = read_environment(service)
    assert len(environment) >= 4
    assert set(environment) <= set(KNOWN)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingsError, match="/run/secrets"):
        load_settings()
    monkeypatch.delenv("ASPECTS_SECRETS_DIR")
    settings = load_settings()
    assert settings.enable_pii is False
    assert settings.clickhouse_url == "http://clickhouse:8123"


@pytest.mark.parametrize("service", OURS)
def test_every_command_exists(service: str) -> None:
    group: Any = typer.main.get_command(app)
    commands = list_our_commands(service)
    assert commands
    for words in commands:
        with group.make_context("aspects-pii", list(words)) as context:
            name, command, rest = group.resolve_command(context, list(words))
            # Parses the options and arguments, and runs nothing.
            command.make_context(name, rest, parent=context)
    if service in NAMES:
        assert commands[1] == ["heartbeat", service]


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_is_in_an_environment_or_an_argument(service: str) -> None:
    environment = read_environment(service)
    assert not set(environment) & SECRET
    words = [*map(str, environment.values()), *SERVICES[service]["command"], *SERVICES[service].get("entrypoint", ())]
    assert not [word for word in words if re.search(r"://[^/\s]*@|--(requirepass|password|token)", word)]
    # A name that nobody reads would be no secret, only an illusion.
    assert not [name for name in environment if "PASSWORD" in name or "TOKEN" in name]


@pytest.mark.parametrize("service", OURS)
def test_every_secret_is_a_file_that_is_read(service: str) -> None:
    secrets = SERVICES[service]["secrets"]
    assert secrets
    assert len(set(secrets)) == len(secrets)
    assert {name.upper() for name in secrets} <= SECRET
    assert read_environment(service)["ASPECTS_SECRETS_DIR"] == "/run/secrets"


def test_secrets_are_where_no_image_and_no_commit_takes_them() -> None:
    secrets = COMPOSE["secrets"]
    assert set(secrets) == {name for service in SERVICES.values() for name in service.get("secrets", ())}
    assert {name.upper() for name in secrets} - {"REDIS_PASSWORD"} <= SECRET
    for name, source in secrets.items():
        assert source == {"file": f"../secrets/{name}"}
        path = f"secrets/{name}"
        assert not passes(path)
        assert subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False).returncode == 0
    for path in (".env", "config/.env", "compose.local.env", "config/compose.local.env", "config/secrets/x", ".git/x"):
        assert not passes(path), path


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_but_jobs_has_a_health_check(service: str) -> None:
    check = SERVICES[service].get("healthcheck")
    if service in list_jobs():
        assert check is None
        return
    assert check
    assert len(check["test"]) >= 2
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_open_that_need_not_be(service: str) -> None:
    definition = SERVICES[service]
    assert definition.get("ports", []) == (["127.0.0.1:8321:8321"] if service == "hook" else [])
    assert definition["read_only"] is True
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition["restart"] in ("unless-stopped", "on-failure:5")
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(definition)
    if service not in OURS:
        assert definition["networks"] == ["inside"]
        assert definition["user"] not in ("root", "0", "0:0")
        assert re.fullmatch(r"[\w/.-]+:\d[\w.-]*", definition["image"])
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_volumes_and_mounted_files_are_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    assert len(mounts) >= 4
    named = set()
    for mount in mounts:
        source, target, *options = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (CONFIG / source).is_file()
            assert options == ["ro"]
        else:
            named.add(source)
    assert named == set(COMPOSE["volumes"])


def test_the_image_is_the_one_of_this_version() -> None:
    for service in OURS:
        definition = SERVICES[service]
        assert definition["image"] == f"aspects-pii:{VERSION}"
        assert (CONFIG / definition["build"]["context"]).resolve() == ROOT
        assert (ROOT / definition["build"]["dockerfile"]).resolve() == CONFIG / "Dockerfile"
        receipts = f"receipts:{read_image_environment()['ASPECTS_RECEIPTS_DIR']}"
        assert receipts in definition["volumes"]


def test_clickhouse_gets_the_hash_of_the_password_and_the_user_of_the_settings(tmp_path: Path) -> None:
    users = ElementTree.parse(CONFIG / "clickhouse" / "aspects_pii.xml").getroot().find("users")
    assert users is not None
    assert [user.tag for user in users] == ["default", read_environment("worker")["ASPECTS_CLICKHOUSE_USER"]]
    assert [address.text for address in users.findall("default/networks/ip")] == ["127.0.0.1", "::1"]
    assert users.find("aspects_pii/password") is None
    hashed = users.find("aspects_pii/password_sha256_hex")
    assert hashed is not None
    variable = hashed.attrib["from_env"]
    definition = SERVICES["clickhouse"]
    assert any(mount.endswith(":/etc/clickhouse-server/users.d/aspects_pii.xml:ro") for mount in definition["volumes"])

    # What the entrypoint does before the image's own.
    (script,) = definition["command"]
    (tmp_path / "aspects_clickhouse_password").write_text('it\'s "a" $ecret\n')
    script = script.replace("$$", "$").replace("/run/secrets", str(tmp_path))
    assert script.rstrip().endswith("exec /entrypoint.sh")
    script = script.replace("exec /entrypoint.sh", f"exec printenv {variable}")
    ran = subprocess.run([*definition["entrypoint"], script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == hashlib.sha256(b'it\'s "a" $ecret').hexdigest()


def test_the_hook_waits_for_nobody_without_a_token() -> None:
    """It listens to other hosts, which it does with a way to authenticate only."""
    assert "0.0.0.0" in SERVICES["hook"]["command"]
    assert "aspects_web_token" in SERVICES["hook"]["secrets"]


# The image


def read_instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, in order, without comments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


INSTRUCTIONS = read_instructions()


def list_arguments(*instructions: str) -> list[str]:
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction in instructions]


def read_image_environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(list_arguments("ENV"))))


def passes(path: str) -> bool:
    """Whether .dockerignore lets a file of the tree through to the builder: the last rule that fits decides."""
    parts = path.split("/")
    allowed = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        rule = line.removeprefix("!")
        if any(fits("/".join(parts[: count + 1]), rule) for count in range(len(parts))):
            allowed = line.startswith("!")
    return allowed


def fits(path: str, rule: str) -> bool:
    if rule.startswith("**/"):
        return fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], rule.removeprefix("**/"))
    return path.count("/") == rule.count("/") and fnmatch.fnmatchcase(path, rule)


def list_copied() -> list[str]:
    """What the Dockerfile copies from the tree."""
    return [
        source
        for arguments in list_arguments("COPY")
        if not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    ]


def test_the_dockerfile_has_only_instructions_that_are_known() -> None:
    kinds = {instruction for instruction, _ in INSTRUCTIONS}
    assert kinds == {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "LABEL", "USER", "EXPOSE", "CMD"}


def test_the_base_is_pinned_by_tag_and_runs_this_version() -> None:
    defaults = dict(argument.split("=") for argument in list_arguments("ARG"))
    assert list_arguments("FROM") == ["python:${PYTHON} AS build", "python:${PYTHON}"]
    assert re.fullmatch(r"3\.\d+-slim-[a-z]+", defaults["PYTHON"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = project["classifiers"]
    assert f"Programming Language :: Python :: {defaults['PYTHON'].split('-')[0]}" in classifiers
    extras = defaults["EXTRAS"].split(",")
    assert "server" in extras
    assert set(extras) <= set(project["optional-dependencies"])
    assert ("kafka" in project["optional-dependencies"]) == ("kafka" in extras)


def test_every_path_that_is_copied_is_there_and_gets_to_the_builder() -> None:
    copied = list_copied()
    assert {"sink", "config", "sql", "dbt_project", "pyproject.toml", "constraints.txt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert passes(source), source
    for file in list_tracked(*copied):
        assert passes(file), file
    for arguments in list_arguments("COPY"):
        if arguments.startswith("--from="):
            assert arguments.split()[0] == "--from=build"
            assert f"-m venv {arguments.split()[1]} " in DOCKERFILE


def list_tracked(*paths: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout
    return listed.stdout.splitlines()


def test_the_image_holds_no_secret_and_nobody_is_root() -> None:
    assert list_arguments("USER") == ["10001:10001"]
    # After it nothing is run any more, so nothing is root's work by mistake.
    last = max(number for number, (instruction, _) in enumerate(INSTRUCTIONS) if instruction == "RUN")
    assert INSTRUCTIONS.index(("USER", "10001:10001")) > last
    environment = read_image_environment()
    assert {name for name in environment if name.startswith(PREFIX)} == {"ASPECTS_RECEIPTS_DIR"}
    assert not [name for name in re.findall(r"\b[A-Z_]{4,}\b", DOCKERFILE) if name in SECRET]
    assert list_arguments("CMD") == ['["aspects-pii", "--help"]']


def test_the_wheel_can_be_built_from_what_the_builder_gets(tmp_path: Path) -> None:
    for file in list_tracked(*list_copied()):
        target = tmp_path / "src" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / file).read_bytes())
    assert "pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ." in DOCKERFILE
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path / "wheels"), "."], cwd=tmp_path / "src", check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {"sink/doors/cli/main.py", "sink/_data/config/pii.yaml", "sink/_data/config/docker-compose.yml"} <= inside
