"""A Superset for tests: its defaults, but for what is written here."""

import os

_FOLDER = os.environ["SUPERSET_HOME"]
_TEMPLATES = os.environ.get("WITHOUT_TEMPLATES") != "1"
SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = f"sqlite:///{_FOLDER}/superset.sqlite3"
FEATURE_FLAGS = {
    "ENABLE_TEMPLATE_PROCESSING": _TEMPLATES,
    "DASHBOARD_RBAC": True,
}
# Everybody logs in at once here.
RATELIMIT_ENABLED = False
# No pixels and fonts from elsewhere.
SCARF_ANALYTICS = False
LANGUAGES = {"en": {"flag": "us", "name": "English"}, "es": {"flag": "es", "name": "Español"}}
# One cache for everything, and a list of what is in it: so Superset can be told to forget.
CACHE_CONFIG = DATA_CACHE_CONFIG = {
    "CACHE_TYPE": "FileSystemCache",
    # What a Superset says of its flags is in the cache too.
    "CACHE_DIR": f"{_FOLDER}/cache-{'with' if _TEMPLATES else 'without'}-templates",
    "CACHE_DEFAULT_TIMEOUT": 86_400,
}
STORE_CACHE_KEYS_IN_METADATA_DB = True
