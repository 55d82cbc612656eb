"""`aspects-pii docs`: the documents, as they travel with the package. Messages name them by this command."""

from __future__ import annotations

from typing import Annotated

import typer

from sink.doors.cli.display import print_lines
from sink.errors import UsageError

commands = typer.Typer()


@commands.command("docs")
def docs_command(
    page: Annotated[str | None, typer.Argument(help="A page; left out, all pages are listed.")] = None,
) -> int:
    """Print a page of the documentation, or list the pages."""
    from sink.resources import find_resource

    pages = {path.stem: path for path in sorted(find_resource("docs").glob("*.md"))}
    if page is None:
        # The first line of a page is its title.
        titles = {name: path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ") for name, path in pages.items()}
        width = max(map(len, titles))
        print_lines([f"{name:{width}}  {title}" for name, title in titles.items()])
        return 0
    if page not in pages:
        raise UsageError(f"There is no page {page}. There are {', '.join(pages)}.")
    print_lines([pages[page].read_text(encoding="utf-8").removesuffix("\n")])
    return 0
