"""What Tutor is told: settings, images, init tasks, jobs, and what goes into the files that it renders.

Tutor finds this module by its entry point and runs it in a process of its own, with neither ClickHouse nor an LMS near.
Everything about ClickHouse and the databases comes from the settings of tutor-contrib-aspects.

.. no_pii: addresses and secrets of an installation.
"""

from __future__ import annotations

from pathlib import Path

from tutor import hooks

from sink.doors.tutor.credentials import write_secrets
from sink.doors.tutor.jobs import JOBS
from sink.resources import VERSION

NAME = "aspects-pii"
_HERE = Path(__file__).parent
_TEMPLATES = _HERE / "templates"

# Values are templates: Tutor renders them with all settings, its own and those of other plugins.
_REDIS = (
    "redis://{% if REDIS_PASSWORD %}{{ REDIS_USERNAME|urlencode }}:{{ REDIS_PASSWORD|urlencode }}@{% endif %}"
    "{{ REDIS_HOST }}:{{ REDIS_PORT }}/"
)
DEFAULTS = {
    "ASPECTS_PII_VERSION": VERSION,
    # Not on a registry: `tutor images build aspects-pii` makes it. Name a registry of yours for Kubernetes.
    "ASPECTS_PII_DOCKER_IMAGE": "aspects-pii:{{ ASPECTS_PII_VERSION }}",
    "ASPECTS_PII_REQUIREMENT": "aspects-pii-sink[server]=={{ ASPECTS_PII_VERSION }}",
    "ASPECTS_PII_LMS_REQUIREMENT": "aspects-pii-sink[lms]=={{ ASPECTS_PII_VERSION }}",
    # Migrations need the right to create databases and tables, which Aspects gives to the administrator only. Statements
    # go to one node where Aspects names one, for the same reason as there.
    "ASPECTS_PII_CLICKHOUSE_URL": (
        "{{ 'https' if CLICKHOUSE_SECURE_CONNECTION else 'http' }}://"
        "{{ CLICKHOUSE_CLUSTER_DDL_NODE_HOST or CLICKHOUSE_HOST }}:{{ CLICKHOUSE_INTERNAL_HTTP_PORT }}"
    ),
    "ASPECTS_PII_CLICKHOUSE_USER": "{{ CLICKHOUSE_ADMIN_USER }}",
    "ASPECTS_PII_CLICKHOUSE_PASSWORD": "{{ CLICKHOUSE_ADMIN_PASSWORD }}",
    "ASPECTS_PII_LEDGER_DATABASE": "pii_ledger",
    "ASPECTS_PII_MYSQL_USERNAME": "aspects_pii",
    "ASPECTS_PII_LMS_DATABASE_URL": (
        "mysql+pymysql://{{ ASPECTS_PII_MYSQL_USERNAME|urlencode }}:{{ ASPECTS_PII_MYSQL_PASSWORD|urlencode }}"
        "@{{ MYSQL_HOST }}:{{ MYSQL_PORT }}/{{ OPENEDX_MYSQL_DATABASE }}"
    ),
    "ASPECTS_PII_BROKER_URL": f"{_REDIS}{{{{ OPENEDX_CELERY_REDIS_DB }}}}",
    # Where Tutor puts the LMS's event bus, and the prefix that it gives it.
    "ASPECTS_PII_EVENT_BUS_URL": f"{_REDIS}0",
    "ASPECTS_PII_EVENT_BUS_TOPIC_PREFIX": "dev",
    # Events of logins and registrations carry names, which stay in Redis when their user is retired. What the Django
    # plugin sends carries ids only, and says the same.
    "ASPECTS_PII_ENABLE_EVENT_BUS_PRODUCER": False,
    # Aspects stores who is enrolled by user name while PII is off too. Nothing of Aspects reads that, but reports of yours may:
    # where this is true, the user names are emptied by the next sweep, and not kept out.
    "ASPECTS_PII_STORE_ENROLLMENTS": False,
    # Users whose tokens may retire. Empty on purpose: where the driver's user does not exist, a learner can take its name.
    "ASPECTS_PII_WEB_JWT_USERS": [],
    "ASPECTS_PII_WEB_PORT": 8321,
    "ASPECTS_PII_WORKER_CONCURRENCY": 2,
    "ASPECTS_PII_VOLUME_SIZE": "1Gi",
    # Further settings of aspects-pii, such as {ASPECTS_REDACT_HISTORY: true}. Not for secrets.
    "ASPECTS_PII_SETTINGS": {},
}
# Made once and kept in config.yml. The pseudonyms of learners hang on their secret: losing it changes them all.
UNIQUE = {
    "ASPECTS_PII_MYSQL_PASSWORD": "{{ 24|random_string }}",
    "ASPECTS_PII_PSEUDONYM_SECRET": "{{ 32|random_string }}",
    "ASPECTS_PII_RECEIPT_KEY": "{{ 32|random_string }}",
    "ASPECTS_PII_WEB_TOKEN": "{{ 32|random_string }}",
}
# After those of Aspects (92 to 97): its migrations expect to be the first.
_INIT_PRIORITY = 98
_INIT_TASKS = (("mysql", "mysql.sh"), (NAME, "init.sh"), ("lms", "lms.sh"))


def register() -> None:
    """Hand everything to Tutor."""
    filters = hooks.Filters
    filters.CONFIG_DEFAULTS.add_items(list(DEFAULTS.items()))
    filters.CONFIG_UNIQUE.add_items(list(UNIQUE.items()))
    filters.ENV_TEMPLATE_ROOTS.add_item(str(_TEMPLATES))
    filters.ENV_TEMPLATE_TARGETS.add_items([(f"{NAME}/image", "plugins"), (f"{NAME}/apps", "plugins")])
    for path in sorted((_HERE / "patches").iterdir()):
        # Late: what other plugins make of the LMS's settings has to be there when ours add to it.
        filters.ENV_PATCHES.add_item((path.name, path.read_text(encoding="utf-8")), priority=hooks.priorities.LOW)
    for service, script in _INIT_TASKS:
        text = (_TEMPLATES / NAME / "jobs" / script).read_text(encoding="utf-8")
        filters.CLI_DO_INIT_TASKS.add_item((service, text), priority=_INIT_PRIORITY)
    filters.CLI_DO_COMMANDS.add_items(list(JOBS))
    filters.IMAGES_BUILD.add_item((NAME, ("plugins", NAME, "image"), "{{ ASPECTS_PII_DOCKER_IMAGE }}", ()))
    filters.IMAGES_PUSH.add_item((NAME, "{{ ASPECTS_PII_DOCKER_IMAGE }}"))
    # `tutor mounts add /path/to/aspects-pii` builds both images from that checkout.
    filters.MOUNTED_DIRECTORIES.add_items([("openedx", NAME), (NAME, NAME)])
    hooks.Actions.ENV_SAVED.add()(write_secrets)


register()
