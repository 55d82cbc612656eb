"""The second stage: what the operator has configured."""

import json
import os
from pathlib import Path

from edx_django_utils.plugins import add_plugins

from lms.envs.common import *  # noqa: F403
from lms.envs.common import PROJECT_TYPE

ENV_TOKENS = json.loads(Path(os.environ["LMS_CFG"]).read_text())
vars().update(ENV_TOKENS)

add_plugins(__name__, PROJECT_TYPE, "production")
