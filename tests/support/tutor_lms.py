"""An LMS with the settings that Tutor has rendered: shows them, and does with them what an LMS does.

    python tutor_lms.py FOLDER_OF_SETTINGS {production|cms} {show|retire|register} [USER_ID] [NAME=VALUE …]

What the LMS's own settings define is made up, except what the plugin looks at; NAME=VALUE adds to it, as JSON. In a
process of its own, since it needs Django with settings. The people are made up.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

_ROLES = "learning-course-access-role-lifecycle"
_KEY = "course_access_role_data.user.pii.username"
# As the LMS has them.
LMS: dict[str, Any] = {
    "RETIREMENT_STATES": [
        *("PENDING", "RETIRING_ENROLLMENTS", "ENROLLMENTS_COMPLETE", "RETIRING_NOTES", "NOTES_COMPLETE"),
        *("RETIRING_LMS", "LMS_COMPLETE", "ERRORED", "ABORTED", "COMPLETE"),
    ],
    "EVENT_BUS_PRODUCER_CONFIG": {
        f"org.openedx.learning.user.course_access_role.{what}.v1": {_ROLES: {"event_key_field": _KEY, "enabled": False}}
        for what in ("added", "removed")
    },
    "INSTALLED_APPS": ["lms.djangoapps.coursewarehistoryextended", "openedx_events"],
    "LOGGING_CONFIG": None,
    "EVENTS_SERVICE_NAME": "lms",
}


def find_names(folder: Path) -> set[str]:
    """Names that the settings use."""
    trees = [ast.parse(path.read_text()) for path in folder.glob("*.py")]
    assert trees
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.id for node in nodes if isinstance(node, ast.Name)} - set(dir(builtins))


def make_module(name: str, **values: Any) -> types.ModuleType:
    """A module that can be imported."""
    module = types.ModuleType(name)
    module.__dict__.update(values)
    sys.modules[name] = module
    return module


def load(folder: Path, service: str, own: dict[str, Any]) -> Any:
    """Import the settings as Django does, on top of those of an LMS."""
    base = make_module("base", ENV_TOKENS=MagicMock(), **LMS)
    base.__dict__.update(own)
    from sink.doors.plugin.settings import common, production

    for part in (common, production):
        vars(base)["ENV_TOKENS"] = {}
        part.plugin_settings(base)
    vars(base)["ENV_TOKENS"] = MagicMock()
    named = {name: MagicMock(name=name) for name in find_names(folder) if name not in base.__dict__ and name != "os"}
    for package in (service, f"{service}.envs"):
        make_module(package, __path__=[])
    everything = {**named, **{name: value for name, value in vars(base).items() if name.isupper()}}
    make_module(f"{service}.envs.production", **everything)
    make_module(f"{service}.envs.tutor", __path__=[str(folder)])
    for name in ("xmodule.modulestore.modulestore_settings", "codejail.jail_code"):
        for part_name in (name.rsplit(".", count)[0] for count in (2, 1, 0)):
            sys.modules.setdefault(part_name, MagicMock())
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{service}.envs.tutor.production"
    make_folders, os.makedirs = os.makedirs, lambda *_, **__: None
    try:
        importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"])
    finally:
        os.makedirs = make_folders
    from django.conf import settings

    return settings


def main(folder: str, service: str, action: str, *more: str) -> None:
    """See above."""
    own = {name: json.loads(value) for name, _, value in (text.partition("=") for text in more if "=" in text)}
    settings = load(Path(folder), service, own)
    if action == "show":
        wanted = ("ASPECTS_", "EVENT_BUS_", "EVENT_SINK_", "RETIREMENT_")
        shown = {name: getattr(settings, name) for name in dir(settings) if name.startswith(wanted)}
        shown["INSTALLED_APPS"] = list(settings.INSTALLED_APPS)
        sys.stdout.write(json.dumps(shown, default=lambda value: f"made up: {type(value).__name__}"))
        return
    user_id = int(more[0])
    if action == "retire":
        from sink.doors.plugin.sender import send_retirement

        send_retirement(user_id)
        return
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app == "openedx_events"]
    import django

    django.setup()
    from openedx_events.learning import data, signals

    pii = data.UserPersonalData(f"zaphod{user_id}", f"zaphod{user_id}@example.com", "Zaphod Beeblebrox")
    signals.STUDENT_REGISTRATION_COMPLETED.send_event(user=data.UserData(id=user_id, is_active=True, pii=pii))


if __name__ == "__main__":
    main(*sys.argv[1:])
