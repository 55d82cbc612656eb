"""The Tutor plugin, rendered by the real Tutor beside the real Aspects, and what comes out run as processes.

Neither Docker nor Kubernetes nor an LMS is there: tutor_docker.py runs what containers would run, on this host's MariaDB,
Redis and the embedded ClickHouse; tutor_lms.py imports the LMS's settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pymysql
import pytest
import typer
import yaml
from pydantic import SecretStr

from sink.demo_data.lms import create_lms
from sink.demo_data.lms_tables import open_writable
from sink.doors.cli.main import app
from sink.endpoint.app import running
from sink.settings import Settings, environment_name
from tests.support import tutor_docker
from tests.support.authz_rows import UPSTREAM, write_rules
from tests.support.lms_writer import LmsWriter
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import PATIENCE, die_with_us, take_port, wait_until
from tests.support.redis_server import emptied, name_database

BIN = ROOT / ".venv-tutor" / "bin"
DATABASE = 7
REDIS = name_database(DATABASE)
WORKER = "retirement_service_worker"
SERVICES = ("aspects-pii-worker", "aspects-pii-consumer", "aspects-pii-hook")
PERSON = re.compile(r"@(mail\.)?example\.|zaphod|_[0-9a-f]{4}_\d+\b", re.IGNORECASE)
# Where a container finds `aspects-pii`, and the stand-in for Docker finds `sh`.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
USERS = 100


pytestmark = pytest.mark.usefixtures("tutor_is_there")


@pytest.fixture(scope="session")
def tutor_is_there() -> None:
    """Tutor has an environment of its own: it and dbt do not agree on their neighbours."""
    if (BIN.parent / ".installed").exists():
        return
    reason = "Tutor is not installed in .venv-tutor; `make .venv-tutor/.installed` does it"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and REQUIRE_SERVICES=1", pytrace=False)
    pytest.skip(reason)


@dataclass
class Site:
    """A project root of Tutor."""

    root: Path
    plugins: Path
    log: Path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def env(self) -> Path:
        """What was rendered."""
        return self.root / "env"

    def tutor(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run Tutor; what it runs in containers, it runs here."""
        ran = subprocess.run(
            [str(BIN / "tutor"), *arguments],
            env={
                "PATH": f"{self.log.parent}:{PATH}",
                "HOME": str(self.log.parent),
                "TUTOR_ROOT": str(self.root),
                "TUTOR_PLUGINS_ROOT": str(self.plugins),
                "DOCKER_LOG": str(self.log),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert (ran.returncode == 0) == (status == 0), ran.stdout + ran.stderr
        return ran

    def do(self, *arguments: str, status: int = 0) -> str:
        """`tutor local do …`: what it says, and what the command in the container says."""
        ran = self.tutor("local", "do", *arguments, status=status)
        said = ran.stdout + ran.stderr
        assert not PERSON.search(said), "the job names a person"
        return said

    def save(self, **settings: Any) -> None:
        """`tutor config save`, and read what is in force."""
        changes = [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        self.tutor("config", "save", *changes)
        self.config = yaml.safe_load((self.root / "config.yml").read_text())

    def services(self, *names: str) -> dict[str, Any]:
        """The services of the compose files."""
        files = names or ("docker-compose.yml", "docker-compose.prod.yml", "docker-compose.jobs.yml")
        return {
            name: service
            for name, (service, _) in tutor_docker.read_services(self.env / "local" / file for file in files).items()
        }

    def ours(self) -> dict[str, Any]:
        """Those of the plugin."""
        return {name: service for name, service in self.services().items() if name.startswith("aspects-pii")}

    def manifests(self, name: str) -> list[Any]:
        """What a file of Kubernetes manifests says about the plugin."""
        documents = yaml.safe_load_all((self.env / "k8s" / name).read_text())
        return [one for one in documents if one and one["metadata"]["name"].startswith("aspects-pii")]

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a container, for a process."""
        environment: dict[str, str] = tutor_docker.make_environment(name, self.services()[name], self.env / "local")
        return environment

    def lms(self, action: str, *more: object, service: str = "lms") -> Any:
        """Have an LMS with the settings that were rendered do something."""
        folder = self.env / "apps/openedx/settings" / service
        ran = subprocess.run(
            [sys.executable, str(SUPPORT / "tutor_lms.py"), str(folder), service, action, *map(str, more)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout) if action == "show" else None


@dataclass
class Place:
    """The services that the rendered settings name."""

    url: str
    database: str
    reader: str
    web_port: int

    def ask(self, sql: str) -> str:
        """What ClickHouse answers."""
        answer = httpx.post(self.url, content=sql, auth=("ch_admin", PASSWORD), timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.text.strip()

    def count(self, user_id: int | None = None) -> int:
        """Profiles, of one user if named."""
        where = "" if user_id is None else f" WHERE user_id = {user_id}"
        return int(self.ask(f"SELECT count() FROM event_sink.user_profile FINAL{where}"))


PASSWORD = "a password with $ign and 'quotes'"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """ClickHouse, and names for the rest."""
    name = uuid.uuid4().hex[:12]
    port = take_port()
    folder = tmp_path_factory.mktemp("clickhouse")
    with running(folder, user="ch_admin", password=SecretStr(PASSWORD)) as url:
        yield Place(url, f"aspects_pii_test_{name}", f"pii_{name}", port)


@pytest.fixture(scope="session")
def on(tutor_is_there: None, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with PII on, as an operator gets it, whose services are on this host."""
    folder = tmp_path_factory.mktemp("tutor")
    docker = folder / "docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} {SUPPORT / "tutor_docker.py"} "$@"\n')
    docker.chmod(0o755)
    plugins = folder / "plugins"
    plugins.mkdir()
    patch = f"EVENT_BUS_REDIS_CONNECTION_URL = {REDIS!r}\nEVENT_SINK_CLICKHOUSE_EXTERNAL_ID_ENABLED = True"
    # What an operator does whose Redis is elsewhere; Tutor has the address of the event bus in its template.
    (plugins / "elsewhere.py").write_text(
        f"from tutor import hooks\nhooks.Filters.ENV_PATCHES.add_item(('openedx-common-settings', {patch!r}))\n"
    )
    site = Site(folder / "root", plugins, folder / "docker.log")
    site.log.touch()
    site.root.mkdir()
    site.tutor("plugins", "enable", "aspects", "aspects-pii", "elsewhere")
    site.save(
        ASPECTS_ENABLE_PII=True,
        ASPECTS_PII_ENABLE_EVENT_BUS_PRODUCER=True,
        ASPECTS_PII_EVENT_BUS_URL=REDIS,
        ASPECTS_PII_MYSQL_USERNAME=place.reader,
        ASPECTS_PII_SETTINGS={"ASPECTS_SWEEP_EVERY": 2, "ASPECTS_REDACT_HISTORY": True},
        ASPECTS_PII_WEB_JWT_USERS=[WORKER],
        ASPECTS_PII_WEB_PORT=place.web_port,
        CLICKHOUSE_ADMIN_PASSWORD=PASSWORD,
        CLICKHOUSE_HOST="127.0.0.1",
        CLICKHOUSE_INTERNAL_INSECURE_HTTP_PORT=str(httpx.URL(place.url).port),
        MYSQL_HOST="127.0.0.1",
        MYSQL_ROOT_PASSWORD="",
        OPENEDX_CELERY_REDIS_DB=DATABASE,
        OPENEDX_MYSQL_DATABASE=place.database,
        REDIS_HOST="127.0.0.1",
    )
    return site


@pytest.fixture(scope="session")
def off(on: Site) -> Site:
    """The same site after it has turned PII off."""
    root = on.root.with_name("off")
    shutil.copytree(on.root, root)
    site = Site(root, on.plugins, on.log)
    site.save(ASPECTS_ENABLE_PII=False)
    return site


@pytest.fixture(params=["on", "off"])
def site(request: pytest.FixtureRequest) -> Site:
    """Either."""
    chosen: Site = request.getfixturevalue(request.param)
    return chosen


def find_commands() -> set[str]:
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_rendered_files_can_be_read(site: Site) -> None:
    programs = [*site.env.rglob("apps/openedx/settings/**/*.py")]
    assert len(programs) >= 6
    for path in programs:
        compile(path.read_text(), str(path), "exec")
    files = [*site.env.glob("local/*.yml"), *site.env.glob("k8s/*.yml"), site.env / "kustomization.yml"]
    files += [*(site.env / "plugins" / "aspects-pii").rglob("*.yml")]
    assert len(files) >= 10
    for path in files:
        # Tutor leaves the file of overrides empty.
        assert list(yaml.safe_load_all(path.read_text())) or path.name == "override.yml", path
    [key] = json.loads((site.env / "plugins/aspects-pii/apps/jwks.json").read_text())["keys"]
    assert (key["kty"], key["kid"]) == ("RSA", "openedx")
    assert "d" not in key
    assert not [path for path in (site.env / "plugins/aspects-pii").rglob("*") if "{{" in path.name]


def test_services_that_store_do_not_run_while_pii_is_off(on: Site, off: Site) -> None:
    assert set(on.ours()) == {*SERVICES, "aspects-pii-job"}
    assert set(off.ours()) == set(on.ours()) - {"aspects-pii-consumer"}
    for site, flag, replicas in ((on, "true", 1), (off, "false", 0)):
        assert {service["environment"]["ASPECTS_ENABLE_PII"] for service in site.ours().values()} == {flag}
        deployments = {one["metadata"]["name"]: one["spec"] for one in site.manifests("deployments.yml")}
        assert set(deployments) == set(SERVICES)
        # A deployment that is left out of the manifests would go on running.
        assert deployments["aspects-pii-consumer"]["replicas"] == replicas
        assert {deployments[name].get("replicas", 1) for name in SERVICES if "consumer" not in name} == {1}


def test_environments_are_settings_and_commands_exist(site: Site) -> None:
    known = {environment_name(name) for name in Settings.model_fields}
    commands = find_commands()
    events = site.tutor("config", "printvalue", "ASPECTS_XAPI_DATABASE").stdout.strip()
    containers = [
        *(service for service in site.ours().values()),
        *(one["spec"]["template"]["spec"]["containers"][0] for one in site.manifests("deployments.yml")),
    ]
    assert len(containers) >= 6
    for container in containers:
        environment = container.get("environment") or {one["name"]: one["value"] for one in container["env"]}
        assert environment
        assert set(environment) <= known
        assert all(isinstance(value, str) for value in environment.values())
        assert environment["ASPECTS_XAPI_DATABASE"] == events
        probes = [container.get("healthcheck", {}).get("test", [""])[1:]]
        probes += [container.get("livenessProbe", {}).get("exec", {}).get("command", [])]
        for words in (container.get("command"), container.get("args"), *probes):
            if words and words[0] == "aspects-pii":
                assert words[1] in commands
    assert {path.name.upper() for path in (site.env / "plugins/aspects-pii/secrets").iterdir()} <= known


def test_secrets_are_for_their_owner_alone(site: Site) -> None:
    secrets = {
        name: value
        for name, value in site.config.items()
        if name.startswith("ASPECTS_PII_") and name.endswith(("_SECRET", "_KEY", "_TOKEN", "_PASSWORD"))
    }
    assert len(secrets) == 4
    assert all(len(value) >= 24 for value in secrets.values())
    holders: dict[str, list[Path]] = {name: [] for name in secrets}
    for path in site.env.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            for name, value in secrets.items():
                if value.encode() in text:
                    holders[name].append(path)
    for name, paths in holders.items():
        assert len(paths) == 2, name
        for path in paths:
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
    for container in site.ours().values():
        assert not set(container["environment"].values()) & set(secrets.values())
        assert PASSWORD not in container["environment"].values()


def test_settings_of_lms_and_studio(on: Site, off: Site) -> None:
    for service in ("lms", "cms"):
        shown = on.lms("show", service=service)
        assert shown["ASPECTS_ENABLE_PII"] is True
        assert shown["ASPECTS_PII_BROKER_URL"] == REDIS
        # Aspects' own code would bring the retired back, whatever other plugins say.
        for model in ("USER_PROFILE", "EXTERNAL_ID", "AUTH_USER"):
            assert shown[f"EVENT_SINK_CLICKHOUSE_{model}_ENABLED"] is False
        assert shown["EVENT_SINK_CLICKHOUSE_COURSE_OVERVIEWS_ENABLED"] is True
        produced = {
            event.removeprefix("org.openedx."): topic
            for event, topics in shown["EVENT_BUS_PRODUCER_CONFIG"].items()
            for topic, how in topics.items()
            if how["enabled"]
        }
        assert produced == {
            "learning.student.registration.completed.v1": "learning-user-lifecycle",
            "learning.auth.session.login.completed.v1": "learning-user-lifecycle",
            "learning.user.course_access_role.added.v1": "learning-course-access-role-lifecycle",
            "learning.user.course_access_role.removed.v1": "learning-course-access-role-lifecycle",
        }
        topics = Settings.model_fields["event_bus_topics"].default
        # The events of openedx-authz only where openedx-events knows them: it does not start with others.
        assert set(topics) - set(produced.values()) == {"authz-role-assignment-lifecycle"}
        prefix = on.services()["aspects-pii-consumer"]["environment"]["ASPECTS_EVENT_BUS_TOPIC_PREFIX"]
        assert shown["EVENT_BUS_TOPIC_PREFIX"] == prefix
        shown = off.lms("show", service=service)
        assert shown["ASPECTS_ENABLE_PII"] is False
        # Upstream stores user names of enrolments whatever the flag says; it has no other setting for that.
        assert shown["EVENT_SINK_CLICKHOUSE_COURSE_ENROLLMENT_ENABLED"] is False
        assert shown["ASPECTS_PII_BROKER_URL"] == REDIS
        events = [how for topics in shown["EVENT_BUS_PRODUCER_CONFIG"].values() for how in topics.values()]
        assert len(events) == 2
        assert not any(how["enabled"] for how in events)


def test_retirement_states(on: Site) -> None:
    added = ["RETIRING_PII_SINK", "PII_SINK_COMPLETE"]
    end = ["ERRORED", "ABORTED", "COMPLETE"]
    states = on.lms("show")["RETIREMENT_STATES"]
    assert states[states.index("LMS_COMPLETE") + 1 :] == [*added, *end]
    for given, expected in (
        (["PENDING", "A", *end], ["PENDING", "A", *added, *end]),
        (["PENDING", "LMS_COMPLETE", "B", *end], ["PENDING", "LMS_COMPLETE", *added, "B", *end]),
        (["PENDING", *added, *end], ["PENDING", *added, *end]),
    ):
        assert on.lms("show", f"RETIREMENT_STATES={json.dumps(given)}")["RETIREMENT_STATES"] == expected
    pipeline = yaml.safe_load((on.env / "plugins/aspects-pii/apps/retirement-pipeline.yml").read_text())
    assert pipeline["retirement_pipeline"] == [[*added, "LICENSE_MANAGER", "retire_learner"]]
    hook = httpx.URL(pipeline["base_urls"]["license_manager"])
    assert hook.host in on.services()
    assert str(hook.port) in on.services()[hook.host]["command"]


def test_manifests_fit_together(site: Site) -> None:
    [job] = site.manifests("jobs.yml")
    # Tutor fills in what to run.
    assert job["metadata"]["name"] == "aspects-pii-job"
    [service] = site.manifests("services.yml")
    [claim] = site.manifests("volumes.yml")
    deployments = site.manifests("deployments.yml")
    assert len(deployments) == 3
    kustomization = yaml.safe_load((site.env / "kustomization.yml").read_text())
    maps = {one["name"]: one["files"] for one in kustomization["configMapGenerator"]}
    [manifest] = [path for path in kustomization["resources"] if "aspects-pii" in path]
    secret = json.loads((site.env / manifest).read_text())
    assert set(secret["stringData"]) == {path.name for path in (site.env / "plugins/aspects-pii/secrets").iterdir()}
    for one in (*deployments, job):
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        [container] = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["secrets"]["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o440}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for path in maps[volumes["config"]["configMap"]["name"]]:
            assert (site.env / path).exists()
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert environment["ASPECTS_SECRETS_DIR"] == mounts["secrets"]
        assert environment["ASPECTS_RECEIPTS_DIR"].startswith(mounts["data"])
        assert environment["ASPECTS_WEB_JWT_PUBLIC_KEYS"] == f"{mounts['config']}/jwks.json"
        # Else the service's name would come as ASPECTS_PII_HOOK_PORT, which looks like a misspelt setting.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
    names = [one["metadata"]["name"] for one in deployments]
    assert service["metadata"]["name"] in names
    assert (
        service["spec"]["selector"] == deployments[names.index("aspects-pii-hook")]["spec"]["selector"]["matchLabels"]
    )


def test_kustomize_builds_it(site: Site) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not there")
    built = subprocess.run(["kubectl", "kustomize", str(site.env)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    documents = [one for one in yaml.safe_load_all(built.stdout) if "aspects-pii" in one["metadata"]["name"]]
    kinds = sorted(one["kind"] for one in documents)
    assert kinds == sorted(
        ["ConfigMap", "Secret", "Service", "PersistentVolumeClaim", "Deployment", "Deployment", "Deployment", "Job"]
    )


def test_images(on: Site, tmp_path: Path) -> None:
    ours = on.env / "plugins/aspects-pii/image/Dockerfile"
    openedx = on.env / "build/openedx/Dockerfile"
    assert 'pip install "aspects-pii-sink[server]==' in ours.read_text()
    assert 'pip install "aspects-pii-sink[lms]==' in openedx.read_text()
    # From a checkout instead.
    checkout = tmp_path / "aspects-pii"
    checkout.mkdir()
    site = Site(tmp_path / "root", on.plugins, on.log)
    shutil.copytree(on.root, site.root)
    site.tutor("mounts", "add", str(checkout))
    site.save()
    for path, extra in (
        (site.env / ours.relative_to(on.env), "[server]"),
        (site.env / openedx.relative_to(on.env), ""),
    ):
        text = path.read_text()
        assert "FROM scratch AS mnt-aspects-pii" in text
        assert "COPY" in text
        assert f'"/mnt/aspects-pii{extra}"' in text
        assert "aspects-pii-sink" not in text
    site.log.write_text("")
    site.tutor("images", "build", "aspects-pii")
    [built] = [call for call in map(json.loads, site.log.read_text().splitlines()) if "build" in call]
    assert f"--build-context=mnt-aspects-pii={checkout}" in built
    assert str(site.env / "plugins/aspects-pii/image") in built


@contextmanager
def container(site: Site, name: str) -> Iterator[None]:
    """Run a service as its description says."""
    environment = site.environment(name)
    with Path(environment["HOME"], "log").open("w") as log:
        child = subprocess.Popen(
            die_with_us(site.services()[name]["command"]),
            env={**environment, "PATH": PATH},
            cwd=environment["HOME"],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield
            child.send_signal(signal.SIGTERM)
            assert child.wait(PATIENCE) == 0, f"{name} did not stop as it should"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def read_logs(site: Site) -> str:
    """What the services have printed."""
    logs = {name: Path(site.environment(name)["HOME"], "log") for name in SERVICES}
    return "\n".join(f"{name}:\n{log.read_text()[-4000:]}" for name, log in logs.items() if log.exists())


def is_healthy(site: Site, name: str) -> bool:
    kind, *command = site.services()[name]["healthcheck"]["test"]
    assert kind == "CMD"
    environment = site.environment(name)
    return (
        subprocess.run(
            command, env={**environment, "PATH": PATH}, cwd=environment["HOME"], capture_output=True
        ).returncode
        == 0
    )


@pytest.fixture(scope="session")
def lms(place: Place) -> Iterator[LmsWriter]:
    """The LMS's database on MariaDB, and an empty Redis; both are gone afterwards."""
    with emptied(REDIS), pymysql.connect(host="127.0.0.1", user="root") as connection:
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {place.database}")
            url = f"mysql+pymysql://root@127.0.0.1:3306/{place.database}"
            create_lms(url, users=USERS, courses=2)
            writer = LmsWriter(url)
            yield writer
            writer.close()
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {place.database}")
                cursor.execute(f"DROP USER IF EXISTS '{place.reader}'@'%'")


def sign(site: Site, name: str, *, own_key: bool) -> str:
    """A token as the LMS makes it for the retirement driver."""
    claims = {
        "preferred_username": name,
        "exp": int(time.time()) + 600,
        "aud": "openedx",
        "iss": f"http://{site.config.get('LMS_HOST', 'local.openedx.io')}/oauth2",
    }
    if own_key:
        return jwt.encode(claims, site.config["JWT_RSA_PRIVATE_KEY"], "RS512", headers={"kid": "openedx"})
    return jwt.encode(claims, site.config["OPENEDX_SECRET_KEY"], "HS256")


def call_hook(place: Place, user_id: int, token: str) -> int:
    return httpx.post(
        f"http://127.0.0.1:{place.web_port}/api/v1/retire_user/",
        json={"lms_user_id": user_id, "original_username": "somebody"},
        headers={"Authorization": f"JWT {token}"},
        timeout=60,
    ).status_code


def list_receipts(site: Site) -> list[Path]:
    return list((site.root / "data/aspects-pii/receipts").glob("*.json"))


# Tutor's own secret is shorter than PyJWT likes.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.redis
@pytest.mark.mariadb
def test_site_works_from_init_to_purge(on: Site, off: Site, place: Place, lms: LmsWriter) -> None:
    # Aspects first, or its migrations would fail on our tables.
    assert "have not been here" in on.do("init", "--limit=aspects-pii", status=1)
    place.ask("CREATE DATABASE IF NOT EXISTS xapi")
    place.ask(
        "CREATE TABLE xapi.alembic_version (dt DateTime, version_num String) ENGINE = ReplacingMergeTree(dt) ORDER BY tuple()"
    )
    place.ask("INSERT INTO xapi.alembic_version SELECT now(), '0041'")
    on.log.write_text("")
    on.do("init", "--limit=aspects-pii")
    calls = [json.loads(line) for line in on.log.read_text().splitlines()]
    ran = [next(word for word in call if word.endswith("-job")) for call in calls if "run" in call]
    assert ran == ["mysql-job", "aspects-pii-job", "lms-job"]
    assert "populate_retirement_states" in calls[-1][-1]
    # While somebody is being retired the LMS refuses; that does not stop an upgrade, and is said.
    states = Path(on.environment("aspects-pii-job")["HOME"], "manage.py")
    states.write_text("#!/bin/sh\nexit 1\n")
    states.chmod(0o755)
    refused = subprocess.run(calls[-1][-4:], cwd=states.parent, capture_output=True, text=True)
    assert (refused.returncode, "were not changed" in refused.stderr) == (0, True)
    # Again, as after an upgrade to a release with openedx-authz.
    engine = open_writable(f"mysql+pymysql://root@127.0.0.1:3306/{place.database}")
    with engine.begin() as rules:
        write_rules(rules, *UPSTREAM)
    engine.dispose()
    on.do("init", "--limit=aspects-pii")
    reader = {"host": "127.0.0.1", "user": place.reader, "password": on.config["ASPECTS_PII_MYSQL_PASSWORD"]}
    with pymysql.connect(**reader, database=place.database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(username) FROM auth_user")
        cursor.execute("SELECT ptype, v0, v1, v2 FROM casbin_rule")
        assert len(cursor.fetchall()) == len(UPSTREAM)
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            cursor.execute("SELECT password FROM auth_user")
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            cursor.execute("UPDATE auth_userprofile SET name = ''")
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            cursor.execute("SELECT * FROM student_courseenrollment")

    assert '"read": 100' in on.do("aspects-pii-sync", "--json")
    assert place.count() == USERS
    assert "Although" not in on.do("aspects-pii-purge", "--yes", status=1)
    assert place.count() == USERS
    # Braces are the operator's, not Tutor's.
    assert "this is not an id" in on.do("aspects-pii-retire", "{{ 1 }}", status=1)

    assert not any(is_healthy(on, name) for name in SERVICES)
    with container(on, SERVICES[0]), container(on, SERVICES[1]), container(on, SERVICES[2]):
        for name in SERVICES:
            wait_until(partial(is_healthy, on, name), f"a sign of life of {name}".__str__, pause=1)
        # The event bus.
        lms.register_user(7001, "zaphod7001", "zaphod7001@example.com", "Zaphod Beeblebrox")
        on.lms("register", 7001)
        wait_until(lambda: place.count(7001) == 1, lambda: f"the copy of who has registered\n{read_logs(on)}")
        # The plugin in the LMS.
        on.lms("retire", 11)
        # The retirement driver, with either kind of token that an LMS makes.
        assert call_hook(place, 12, sign(on, WORKER, own_key=False)) == 204
        assert call_hook(place, 13, sign(on, WORKER, own_key=True)) == 204
        assert call_hook(place, 14, sign(on, "learner", own_key=True)) == 403
        assert call_hook(place, 14, "no token") == 401
        wait_until(lambda: len(list_receipts(on)) == 3, lambda: f"the receipts of three retirements\n{read_logs(on)}")
        assert [place.count(user_id) for user_id in (11, 12, 13, 14)] == [0, 0, 0, 1]
        # The operator.
        assert "1 of 1 retirement is erased and verified" in on.do("aspects-pii-retire", "15")
        assert len(list_receipts(on)) == 4
        assert "nothing is left" in on.do("aspects-pii", "verify")
        assert '"retirements": {\n    "erased": 4' in on.do("aspects-pii-status", "--json")

    # Off: what stores is refused, what removes goes on.
    assert "PII is off" in off.do("aspects-pii-sync", status=1)
    with container(off, SERVICES[0]), container(off, SERVICES[2]):
        wait_until(lambda: is_healthy(off, SERVICES[2]), lambda: "the hook's answer", pause=1)
        off.lms("retire", 16)
        assert call_hook(place, 17, sign(off, WORKER, own_key=False)) == 204
        wait_until(lambda: len(list_receipts(off)) == 2, lambda: "the receipts of two retirements")
        assert "1 of 1 retirement is erased and verified" in off.do("aspects-pii-retire", "18")
    assert place.count() == USERS + 1 - 7
    assert "Purged and verified" in off.do("aspects-pii-purge", "--yes")
    assert "Nothing is open" in off.do("aspects-pii", "sweep")
    assert place.ask("SELECT count() FROM system.tables WHERE name = 'user_pii'") == "0"
    logs = [path for site in (on, off) for path in (site.root / "containers").glob("*/log")]
    assert len(logs) == 5
    assert not any(PERSON.search(path.read_text()) for path in (*logs, on.log))
