"""Has `code_annotations` check the annotations of SQL files, whose comments it does not know by itself.

python -m tests.support.sql_annotations sql dbt_project/models
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from code_annotations.base import AnnotationConfig
from code_annotations.extensions.base import SimpleRegexAnnotationExtension
from code_annotations.find_static import StaticSearch
from stevedore.extension import Extension

from tests.support.paths import ROOT


class SqlComments(SimpleRegexAnnotationExtension):  # type: ignore[misc]
    """Finds annotations in comments of SQL."""

    extension_name = "sql"
    lang_comment_definition = {  # noqa: RUF012 - as the tool has it
        "multi_start": re.escape("/*"),
        "multi_end": re.escape("*/"),
        "single": re.escape("--"),
    }


def check(folder: Path) -> tuple[int, list[str]]:
    """How many annotations there are in the SQL files of a folder, and what is wrong with them."""
    config = AnnotationConfig(str(ROOT / ".annotations.yaml"), verbosity=0, source_path_override=str(folder))
    config.extensions = {"sql": ["sql"]}
    config.mgr.extensions = [Extension("sql", None, SqlComments, SqlComments(config, config.echo))]
    search = StaticSearch(config)
    found = search.search()
    search.check_results(found)
    return sum(map(len, found.values())), list(search.errors)


def main(folders: list[str]) -> int:
    """Check each folder; the exit status."""
    status = 0
    for folder in folders:
        number, errors = check(Path(folder))
        sys.stdout.writelines(
            [f"{folder}: {number} annotations, {len(errors)} errors\n", *(f"{error}\n" for error in errors)]
        )
        status |= bool(errors) or not number
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
