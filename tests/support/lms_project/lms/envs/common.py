"""The first stage of settings: what every installation has."""

import json
import os

from edx_django_utils.plugins import add_plugins, get_plugin_apps

PROJECT_TYPE = f"{os.environ.get('SERVICE_VARIANT', 'lms')}.djangoapp"
SECRET_KEY = "of the tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASES = {"default": json.loads(os.environ["LMS_DATABASE"])}
DATABASES["default"]["ATOMIC_REQUESTS"] = True
if "mysql" in DATABASES["default"]["ENGINE"]:
    import pymysql

    pymysql.install_as_MySQLdb()

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "waffle",
    "openedx_events",
    "openedx.core.djangoapps.future_events",
    "common.djangoapps.student",
    "openedx.core.djangoapps.user_api",
    "openedx.core.djangoapps.external_user_ids",
]
INSTALLED_APPS += get_plugin_apps(PROJECT_TYPE)

# The LMS's own Celery, with settings that must not reach the plugin's messages.
CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
CELERY_TASK_DEFAULT_QUEUE = "edx.lms.core.default"
CELERY_MESSAGE_COMPRESSION = "gzip"

add_plugins(__name__, PROJECT_TYPE, "common")
