"""The secrets, in files that only their owner may read.

Tutor (22.0.2) writes what it renders for everybody on the host to read, and what stands in a compose file or a manifest is
shown by whatever describes a container. So these go into files of their own, which containers mount.

.. no_pii: passwords and keys of an installation.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tutor import env

#: File, which is the setting of aspects-pii in small letters → template.
SECRETS = {
    "aspects_clickhouse_password": "{{ ASPECTS_PII_CLICKHOUSE_PASSWORD }}",
    "aspects_lms_database_url": "{{ ASPECTS_PII_LMS_DATABASE_URL }}",
    "aspects_broker_url": "{{ ASPECTS_PII_BROKER_URL }}",
    "aspects_event_bus_url": "{{ ASPECTS_PII_EVENT_BUS_URL }}",
    "aspects_pseudonym_secret": "{{ ASPECTS_PII_PSEUDONYM_SECRET }}",
    "aspects_receipt_key": "{{ ASPECTS_PII_RECEIPT_KEY }}",
    "aspects_web_token": "{{ ASPECTS_PII_WEB_TOKEN }}",
    # The hook takes the LMS's tokens only from users that are named.
    "aspects_web_jwt_secret": "{% if ASPECTS_PII_WEB_JWT_USERS %}{{ JWT_COMMON_SECRET_KEY }}{% endif %}",
}
#: The user that the containers run as where Tutor itself is run by root.
_APP_USER_ID = 1000
FOLDER = ("plugins", "aspects-pii", "secrets")
MANIFEST = ("plugins", "aspects-pii", "k8s", "secret.yml")


def write_secrets(root: str, config: dict[str, Any]) -> None:
    """Write the files for Docker, and a manifest with the same for Kubernetes.

    Args:
        root: the folder that Tutor has rendered to.
        config: all settings, rendered.
    """
    rendered = {name: str(env.render_str(config, template)) for name, template in SECRETS.items()}
    rendered = {name: value for name, value in rendered.items() if value}
    folder = Path(root, *FOLDER)
    _make_private(folder)
    for name, value in rendered.items():
        _write(folder / name, value)
    for stale in {path.name for path in folder.iterdir()} - set(rendered):
        (folder / stale).unlink()
    # Indented JSON is YAML; so is every quote right.
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "aspects-pii", "labels": {"app.kubernetes.io/name": "aspects-pii"}},
        "type": "Opaque",
        "stringData": rendered,
    }
    manifest = Path(root, *MANIFEST)
    _make_private(manifest.parent)
    _write(manifest, json.dumps(secret, indent=2) + "\n")


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _give_away(folder)


def _write(path: Path, text: str) -> None:
    """Replace the file: it is never there half, nor for others to read."""
    # mkstemp makes files for their owner alone.
    number, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)
    _give_away(Path(name))
    Path(name).replace(path)


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _APP_USER_ID, _APP_USER_ID)
