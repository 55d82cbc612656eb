"""Where things are in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("aspects-pii")
"""The command, as it is installed beside the tests."""
