"""`aspects-pii receipt`: which receipts there are, one of them as a page for people, and whether it is genuine."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sink.doors.cli.common import Json, print_json
from sink.doors.cli.display import print_lines, print_table, say
from sink.doors.cli.subjects import read_subjects
from sink.errors import UsageError

if TYPE_CHECKING:
    from sink.retirement.receipt_files import ReceiptFile
    from sink.retirement.signatures import Keys
    from sink.settings import Settings
    from sink.store import Store

# .. no_pii: opaque user ids, counts, and names of tables.

commands = typer.Typer(help="Receipts of retirements.", no_args_is_help=True)


class Format(StrEnum):
    """How a receipt is shown."""

    TEXT = "text"
    HTML = "html"
    JSON = "json"


@commands.command("list")
def receipt_list(as_json: Json = False) -> int:
    """List the receipts in ASPECTS_RECEIPTS_DIR, the newest last."""
    from sink.retirement.receipt_files import list_receipts
    from sink.settings import load_settings

    folder = load_settings().receipts_dir
    receipts, problems = list_receipts(folder)
    superseded = {file.receipt.supersedes.file for file in receipts if file.receipt.supersedes}
    if as_json:
        print_json([_describe(file, superseded) for file in receipts])
    elif not receipts:
        print_lines([f"No receipts are in {folder.resolve()}."])
    else:
        print_table(
            ("subject", "erased at", "file", "signed", "superseded"),
            [
                (
                    file.receipt.subject,
                    file.receipt.erased_at,
                    file.path.name,
                    ", ".join(_list_algorithms(file)) or "no",
                    "yes" if file.path.name in superseded else "no",
                )
                for file in receipts
            ],
        )
    for problem in problems:
        say(problem)
    return 1 if problems else 0


def _describe(file: ReceiptFile, superseded: set[str]) -> dict[str, object]:
    return {
        "subject": file.receipt.subject,
        "request": file.receipt.request,
        "erased_at": file.receipt.erased_at,
        "file": file.path,
        "sha256": file.digest,
        "signed": _list_algorithms(file),
        "superseded": file.path.name in superseded,
    }


def _list_algorithms(file: ReceiptFile) -> list[str]:
    from sink.retirement.signatures import list_signatures

    return [str(signature.get("algorithm")) for signature in list_signatures(file.document)]


@commands.command("show")
def receipt_show(
    what: Annotated[str, typer.Argument(metavar="SUBJECT|FILE", help="Id of a user, or a file that ends in .json.")],
    form: Annotated[Format, typer.Option("--format", help="text, html or json.")] = Format.TEXT,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new file to write it to.")] = None,
) -> int:
    """Show a receipt as one page in plain words, for the person it is about or for an authority."""
    from sink.retirement.pages import render_html, render_text
    from sink.retirement.receipt import serialize
    from sink.retirement.receipt_files import read_receipt
    from sink.retirement.receipt_pages import Responsible, compose_page
    from sink.settings import load_settings

    is_file = Path(what).suffix == ".json"
    settings = load_settings()
    file, notes = (read_receipt(Path(what)), []) if is_file else _find_receipt(settings, what)
    if form is Format.JSON:
        data = serialize(file.document)
    else:
        page = compose_page(file, Responsible(settings.institution, settings.contact), notes)
        data = (render_html(page) if form is Format.HTML else render_text(page)).encode()
    for note in notes:
        say(note)
    if output is None:
        print_lines([data.decode().removesuffix("\n")])
    else:
        _write(output, data)
    return 0


def _find_receipt(settings: Settings, subject: str) -> tuple[ReceiptFile, list[str]]:
    """The last receipt of a subject, and what has to be said about it."""
    from sink.installation import open_store
    from sink.retirement.receipt_checks import find_last_receipt

    with open_store(settings) as store:
        (wanted,) = read_subjects(store.pii_map.subject, [subject])
        return find_last_receipt(store, wanted)


@commands.command("verify")
def receipt_verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Receipts.")],
    public_key: Annotated[
        list[Path] | None,
        typer.Option("--public-key", help="Check by this key and ask no ledger; may be repeated."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check signatures only, without a store.")] = False,
    as_json: Json = False,
) -> int:
    """Check whether receipts are genuine: signatures, the digest in the ledger, and that no later one supersedes them."""
    from sink.installation import find_policy, open_store
    from sink.retirement.receipt_checks import find_keys
    from sink.retirement.signatures import Keys, read_public_key
    from sink.settings import load_settings

    for path in files:
        if not path.is_file():
            raise UsageError(f"{path} is not a file.")
    if public_key:
        keys = Keys(public_keys=[read_public_key(path) for path in public_key], is_given=True)
        opened = None
    else:
        settings = load_settings()
        keys, opened = find_keys(find_policy(settings)), None if offline else open_store(settings)
    with opened or nullcontext() as store:
        verdicts = [_check(path, keys, store) for path in files]
    if as_json:
        print_json(verdicts)
    else:
        for verdict in verdicts:
            print_lines([f"{verdict['file']}: {_name_result(verdict)}."])
            print_lines([f"  {line}" for line in [*verdict["wrong"], *verdict["notes"]]])
    return 0 if all(verdict["genuine"] for verdict in verdicts) else 1


def _name_result(verdict: dict[str, Any]) -> str:
    if not verdict["genuine"]:
        return "NOT shown to be genuine"
    return "genuine" if verdict["in_ledger"] else "signed; only the ledger could say whether a later one supersedes it"


def _check(path: Path, keys: Keys, store: Store | None) -> dict[str, Any]:
    """What came of the check of one file, as JSON has it."""
    from sink.retirement.receipt_checks import check_receipt
    from sink.retirement.receipt_files import read_receipt

    try:
        verdict = check_receipt(read_receipt(path), keys, store)
    except UsageError as error:
        # One that was damaged is an answer, and stops nobody from checking the others.
        nothing = dict.fromkeys(("subject", "sha256", "in_ledger"))
        return {"file": path, "genuine": False, **nothing, "signed_by": [], "wrong": [str(error)], "notes": []}
    return {
        "file": path,
        "genuine": verdict.is_genuine,
        "subject": verdict.file.receipt.subject,
        "sha256": verdict.file.digest,
        "in_ledger": verdict.ledger,
        "signed_by": verdict.signed_by,
        "wrong": verdict.wrong,
        "notes": verdict.holds,
    }


@commands.command("key")
def receipt_key(
    file: Annotated[
        Path | None, typer.Argument(help="A new file for a private key; left out, the key of the settings is shown.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Make a key to sign receipts with, or show the configured one; prints the public key, to give to an authority."""
    from sink.retirement.signatures import compute_fingerprint, format_public_key, make_private_key, read_private_key
    from sink.settings import load_settings

    if file is None:
        path = load_settings().receipt_signing_key
        if path is None:
            raise UsageError("ASPECTS_RECEIPT_SIGNING_KEY is not set. Name a new FILE to make a key.")
        key = read_private_key(path)
    else:
        path = file
        key, pem = make_private_key()
        _write(path, pem)
        say(f"The private key is in {path}. Set ASPECTS_RECEIPT_SIGNING_KEY={shlex.quote(str(path.absolute()))}.")
    public = key.public_key()
    if as_json:
        print_json({"file": path, "public_key": format_public_key(public), "fingerprint": compute_fingerprint(public)})
    else:
        say(f"Fingerprint of the public key: {compute_fingerprint(public)}")
        print_lines([format_public_key(public).removesuffix("\n")])
    return 0


def _write(path: Path, data: bytes) -> None:
    from sink.private_files import write_new

    try:
        write_new(path, data)
    except FileExistsError:
        raise UsageError(f"{path} is there already, and stays as it is. Name a new file.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
