"""The compose file's services, run as processes: they become healthy, work, turn unhealthy, and say what is wrong."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from sink.demo_data.lms import create_lms
from sink.errors import ReadOnlyError
from sink.installation import open_store
from sink.settings import load_settings
from sink.store import Store
from tests.support.compose import Stack, read_commands
from tests.support.paths import ROOT
from tests.support.processes import wait_until

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
SERVICES = ("clickhouse", "redis", "worker", "consumer", "hook")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets as the documentation makes them, and an LMS."""
    folder = tmp_path_factory.mktemp("operator")
    url = f"sqlite:///{folder}/lms.sqlite3"
    create_lms(url, users=200, courses=2)
    make = read_commands(ROOT / "docs" / "compose.md")[0]
    assert "secret > redis_password" in make
    subprocess.run(["sh", "-euc", make], cwd=folder, check=True, capture_output=True)
    made = folder / "secrets"
    assert made.stat().st_mode & 0o777 == 0o700
    (made / "aspects_lms_database_url").chmod(0o600)
    (made / "aspects_lms_database_url").write_text(f"{url}\n")
    return made


@pytest.fixture(scope="module")
def stack(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything, started as the file says, and healthy."""
    with Stack(tmp_path_factory.mktemp("stack"), secrets, local={"ASPECTS_SWEEP_EVERY": "2"}) as stack:
        stack.up()
        yield stack


@pytest.fixture
def store(stack: Stack) -> Iterator[Store]:
    """The ClickHouse of the stack."""
    password = (stack.secrets / "aspects_clickhouse_password").read_text().strip()
    settings = load_settings(
        clickhouse_url=f"http://127.0.0.1:{stack.ports['8123']}",
        clickhouse_user="aspects_pii",
        clickhouse_password=password,
    )
    with open_store(settings) as store:
        yield store


def list_processes(stack: Stack) -> list[Path]:
    """The folders below /proc of the stack's processes, children included: they have the session of their service."""
    sessions = {str(child.pid) for child in stack.children.values()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[3] in sessions and fields[0] != "Z":
            found.append(folder)
    return found


def test_everything_is_healthy_by_its_own_check(stack: Stack) -> None:
    assert {name for name, definition in stack.definitions.items() if "healthcheck" in definition} == set(SERVICES)
    for service in SERVICES:
        assert stack.is_healthy(service), service
        assert stack.children[service].poll() is None, service
    assert stack.children["init"].returncode == 0
    assert "Applied" in stack.log("init")
    password = (stack.secrets / "aspects_clickhouse_password").read_bytes().strip()
    assert (stack.folder / "hash").read_text() == hashlib.sha256(password).hexdigest()


def test_no_secret_is_in_an_argument_or_an_environment(stack: Stack) -> None:
    values = [path.read_bytes().strip() for path in stack.secrets.iterdir()]
    assert len(values) == 8
    assert all(len(value) > 16 for value in values)
    processes = list_processes(stack)
    # ClickHouse, Redis, consumer, hook; the worker with its processes and its schedule.
    assert len(processes) >= 7
    for folder in processes:
        shown = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        assert not [value for value in values if value in shown]
    logs = b"".join(path.read_bytes() for path in stack.folder.glob("*.log"))
    assert not [value for value in values if value in logs]


def test_a_retirement_is_taken_by_the_hook_and_erased_by_the_worker(stack: Stack, store: Store) -> None:
    store.client.execute(
        "INSERT INTO $event_sink.user_profile (user_id, name) SELECT number, 'A name' FROM numbers(1, 20)"
    )
    token = (stack.secrets / "aspects_web_token").read_text().strip()
    path = f"{stack.hook}/api/v1/retire_user/"
    body = {"lms_user_id": 7, "original_username": "-"}
    assert httpx.post(path, json=body, timeout=60).status_code == 401
    answer = httpx.post(path, json=body, headers={"Authorization": f"JWT {token}"}, timeout=60)
    assert answer.status_code == 204
    wait_until(lambda: [retirement.state for retirement in store.ledger.find([7])] == ["erased"])
    held = store.client.column("SELECT user_id FROM $event_sink.user_profile ORDER BY user_id")
    assert held == [user_id for user_id in range(1, 21) if user_id != 7]
    assert len(list((stack.folder / "receipts").glob("*.json"))) == 1
    assert stack.execute("worker", ("aspects-pii", "verify", "7")).status == 0
    # With the grants that the server's user has, and no others.
    with pytest.raises(ReadOnlyError):
        store.client.execute("CREATE USER somebody")
    with pytest.raises(ReadOnlyError):
        store.client.value("SELECT count() FROM file('/etc/passwd', 'LineAsString')")


def test_dbt_builds_with_the_password_of_the_file(stack: Stack) -> None:
    environment = stack.environment("worker")
    assert "ASPECTS_CLICKHOUSE_PASSWORD" not in environment
    ran = stack.execute("worker", ("aspects-pii", "build", "--select", "stg_event_sink__course_overviews"))
    assert ran.status == 0, ran.err
    assert "ERROR=0" in ran.err
    assert "PASS=0" not in ran.err


def test_redis_wants_the_password(stack: Stack) -> None:
    with redis.Redis(port=stack.ports["6379"]) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.parametrize(
    ("service", "name", "content", "status", "said"),
    [
        (
            "init",
            "aspects_clickhouse_password",
            "another secret",
            2,
            "check ASPECTS_CLICKHOUSE_USER and ASPECTS_CLICKHOUSE_P",
        ),
        ("worker", "aspects_broker_url", None, 2, "ASPECTS_BROKER_URL is not set"),
        (
            "consumer",
            "aspects_event_bus_url",
            "redis://:another@redis:6379/1",
            2,
            "Redis refuses the user name or the pass",
        ),
        ("hook", "aspects_web_token", None, 2, "set ASPECTS_WEB_TOKEN"),
    ],
)
def test_a_wrong_secret_is_said_clearly(
    stack: Stack, service: str, name: str, content: str | None, status: int, said: str
) -> None:
    other = Stack(stack.folder / f"{service}-{name}-{status}", stack.secrets, ports=dict(stack.ports))
    other.mount_secrets(service)
    file = other.secrets_of(service) / name
    if content is None:
        file.unlink()
    else:
        file.write_text(other.translate(service, content))
    ran = other.execute(service, tuple(other.command(service)))
    assert ran.status == status, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert "another" not in ran.out + ran.err


def test_a_worker_that_is_killed_turns_unhealthy(stack: Stack) -> None:
    stack.kill("worker")
    stack.wait("worker", healthy=False)
    for service in ("clickhouse", "redis", "consumer", "hook"):
        stack.wait(service)
    stack.start("worker")
    stack.wait("worker")


def test_services_that_can_no_longer_fetch_turn_unhealthy_and_recover(stack: Stack) -> None:
    password = (stack.secrets / "redis_password").read_text().strip()
    with redis.Redis(port=stack.ports["6379"], password=password) as client:
        client.set("kept", "over a kill")
    stack.kill("redis")
    for service in ("redis", "worker", "consumer"):
        stack.wait(service, healthy=False)
        assert service == "redis" or stack.children[service].poll() is None, "it waits, and is not dead"
    # Retirements are recorded all the same.
    stack.wait("hook")
    stack.start("redis")
    for service in ("redis", "worker", "consumer"):
        stack.wait(service)
    with redis.Redis(port=stack.ports["6379"], password=password) as client:
        assert client.get("kept") == b"over a kill"


def test_containers_write_to_no_read_only_folder(stack: Stack) -> None:
    """Their root is read-only, and so is the folder that they start in."""
    assert list((stack.folder / "work").iterdir()) == []
    assert {path.name for path in (stack.folder / "signs").rglob("*") if path.is_file()} == {"worker", "consumer"}
