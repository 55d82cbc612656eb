"""Commands for what a person may ask for: who is meant by a name, and a package of all that is held of them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sink.doors.cli.common import Actor, DryRun, Json, Yes, open_configured_store, print_json
from sink.doors.cli.display import Progress, print_lines, print_table, say
from sink.doors.cli.stopping import stopping_with
from sink.doors.cli.subjects import list_texts, read_subjects
from sink.errors import UsageError
from sink.rights.words import Language
from sink.wording import choose, counted

# .. pii: Shows people to whoever asks for it with --show.
# .. pii_types: id, name, username, email_address
# .. pii_retirement: consumer_api

commands = typer.Typer()


@commands.command("find")
def find_command(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT…",
            help="E-mail addresses, user names, names or anonymous ids. Other users of this host can read them here.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="A file with one text a line; - is standard input, which nobody else sees."),
    ] = None,
    lms: Annotated[bool, typer.Option("--lms", help="Search the LMS too.")] = False,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Also who is called something that begins so; in a full name, any word.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the values that were found.")] = False,
    actor: Actor = None,
    as_json: Json = False,
) -> int:
    """Find the ids of users by what they are called, whatever the case and the accents. Goes on record, without the texts."""
    from sink.installation import open_lms
    from sink.rights.find import Text, find

    wanted = [Text(where, text) for where, text in list_texts(texts or [], file) if text.strip()]
    if not wanted:
        raise UsageError("There is nothing to search for. Give texts, --file FILE, or --file - for standard input.")
    settings, store = open_configured_store()
    database = open_lms(settings) if lms else None
    with store:
        found = find(store, wanted, prefix=prefix, lms=database, show=show, actor=actor)
    if as_json:
        matches = [
            {
                "text": match.label,
                "subject": match.subject,
                "place": match.place,
                "retired": found.states.get(match.subject),
                **({"value": match.value} if show else {}),
            }
            for match in found.matches
        ]
        unmatched = [text.label for text in wanted if text.label not in found.labels]
        print_json({"store": store.name, "searched": found.places, "found": matches, "not_found": unmatched})
        return 0
    head = ("text", "subject", "where", "retired", *(["value"] if show else []))
    rows = [
        (m.label, m.subject, m.place, found.states.get(m.subject, "no"), *([m.value] if show else []))
        for m in found.matches
    ]
    if rows:
        print_table(head, rows)
    print_lines([f"{text.label}: nobody is called so." for text in wanted if text.label not in found.labels])
    people, columns = counted(len(found.subjects), "user"), counted(len(found.places), "column")
    print_lines([f"{people} found in {columns} on {store.name}{' and in the LMS' if lms else ''}."])
    return 0


@commands.command("export")
def export_command(
    user_id: Annotated[str, typer.Argument(help="Id of the user.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="A new file, such as subject.zip.")],
    language: Annotated[Language, typer.Option(help="Of the page: en or es.")] = Language.ENGLISH,
    without_events: Annotated[bool, typer.Option("--without-events", help="Leave out the user's events.")] = False,
    without_mentions: Annotated[
        bool,
        typer.Option("--without-mentions", help="Do not search all other texts for the user's names and addresses."),
    ] = False,
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="AGE1…", help="Encrypt to this public key of age; may be repeated."),
    ] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> int:
    """Write all that the store holds of a user into a ZIP file that only you can read. Goes on record."""
    from sink.rights.export import Wanted, export

    _, store = open_configured_store()
    wanted = Wanted(language, not without_events, not without_mentions, recipient or ())
    with store:
        (subject,) = read_subjects(store.pii_map.subject, [user_id])
        exported = export(store, subject, output, wanted, actor=actor)
    if as_json:
        document: dict[str, Any] = {
            "store": store.name,
            "subject": exported.subject,
            "file": output,
            "encrypted": bool(wanted.recipients),
            "rows": exported.rows,
            "files": [file.name for file in exported.files],
            "of_others": exported.of_others,
            "perhaps": exported.perhaps,
            "under_shared_names": exported.under_shared_names,
            "not_searched": exported.unsearched,
        }
        print_json(document)
        return 0
    print_table(("table", "rows"), sorted(exported.rows.items()))
    how = ", encrypted" if wanted.recipients else ""
    print_lines([f"All of this of {exported.subject} on {store.name} is in {output}{how}."])
    for table, rows in exported.under_shared_names.items():
        said = counted(rows, "row stands", "rows stand")
        say(
            f"{table}: {said} under a name that somebody else has too, and {choose(rows, 'is', 'are')} not in the file."
        )
    for place, rows in exported.of_others.items():
        said = counted(rows, "row of somebody else names", "rows of others name")
        say(f"{place}: {said} the user, and {choose(rows, 'is', 'are')} not in the file.")
    for table in exported.unsearched:
        say(f"Warning: {table} could not be searched for texts that name the user.")
    if any(file.name.startswith("mentions/") for file in exported.files):
        say(
            "The folder mentions/ holds texts that name the user and may speak of others too. Read them before you hand it over."
        )
    return 0


@commands.command("anonymise")
def anonymise_command(
    database: Annotated[
        list[str],
        typer.Option(
            "--database",
            metavar="NAME",
            help="A database of the copy, by the name that it has there; repeat it for all of them.",
        ),
    ],
    actor: Actor = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Put invented people into a copy of production that is made for development. Off unless ASPECTS_ALLOW_ANONYMISE is on."""
    from sink.rights.anonymise import anonymise, describe, list_kept, require_allowed
    from sink.rights.dev_copy.targets import read_copy

    settings, store = open_configured_store()
    with store, stopping_with(store, lambda _: "Run the same command again: it goes on where it was."), Progress():
        copy = read_copy(store, database)
        lines, kept = describe(copy), list_kept(copy)
        plan: dict[str, Any] = {
            "store": store.name,
            "dry_run": dry_run,
            "databases": copy.databases,
            "plan": [asdict(line) for line in lines],
            "kept": kept,
            "not_in_the_copy": copy.missing,
        }
        if not as_json:
            print_table(
                ("table", "rows", "column", "becomes"),
                [(line.table, line.rows, column, fate) for line in lines for column, fate in line.fates.items()],
            )
            print_lines([f"{target}: not in the copy." for target in copy.missing])
        if dry_run:
            if as_json:
                print_json(plan)
            return 0
        require_allowed(settings.allow_anonymise)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("Standard input is not a terminal, so nobody can be asked. Pass --yes to confirm.")
            named = ", ".join(copy.databases)
            typer.confirm(f"Change every person in {named} on {store.name}, with no way back?", abort=True, err=True)
        done = anonymise(store, copy, allowed=settings.allow_anonymise, actor=actor)
    if as_json:
        print_json({**plan, "rows": done.rows, "left": done.left})
    for line in done.left:
        say(f"Left: {line.removesuffix('.')}.")
    if done.left:
        say(
            "The copy is not anonymised. Put tables and columns with people into the PII map, name under `not_pii` what holds "
            "none, or drop it from the copy; then run the command again."
        )
        return 1
    if not as_json:
        rows = counted(sum(done.rows.values()), "row")
        print_lines(
            [
                f"Anonymised and compared by value with what people were called: {', '.join(copy.databases)} on {store.name}, "
                f"{rows} in {counted(len(done.rows), 'table')}.",
                *([f"Kept, as the map allows: {', '.join(kept)}."] if kept else []),
            ]
        )
    return 0
