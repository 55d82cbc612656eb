"""The page for the data protection officer: an ASGI application that `aspects-pii serve` mounts at /privacy.

GET shows and changes nothing. POST takes a form of ours from somebody who is signed in. No address holds anything of a
person: ids and texts travel in forms, and a retirement is known by its number.

.. pii: The texts of a search and what it found pass through, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sink.doors.web.privacy.actions import OfficerActions, Preview, serialize_receipt
from sink.doors.web.privacy.forms import Form, read_form, require_own_form, require_own_page
from sink.doors.web.privacy.officers import Officers
from sink.doors.web.privacy.pages import HEADERS, HOME, Pages, Problem, View
from sink.doors.web.privacy.sessions import Session, Sessions
from sink.doors.web.privacy.words import WORDS, Words, choose_language
from sink.errors import AspectsPiiError, HttpProblemError, RefusedError, UsageError
from sink.pii_map import SubjectId
from sink.retirement.receipt_checks import Verdict
from sink.rights.export import Wanted
from sink.rights.find import SHORTEST_PREFIX, Found, Text
from sink.rights.record import SAFEGUARDS
from sink.rights.record_formats import group_alike, list_cells, write_csv, write_json, write_markdown
from sink.rights.words import Language

COOKIE = "__Host-aspects-pii-privacy"
LARGEST_RECEIPT_BYTES = 262_144
"""Of a receipt that is pasted to be checked, as a form sends it."""
_MOST_TEXTS = 100
_CHUNK = 256 * 1024
_RECORD_FORMATS = {
    "md": ("Markdown", "text/markdown"),
    "json": ("JSON", "application/json"),
    "csv": ("CSV", "text/csv"),
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """A request of somebody who is signed in."""

    request: Request
    session: Session
    form: Form
    language: Language

    @property
    def w(self) -> Words:
        """The texts."""
        return WORDS[self.language]

    def problem(self, text: str) -> Problem:
        """A problem in the language of the page."""
        return Problem(text, self.language)


Handler = Callable[[Call], View | Response]


class PrivacyPage:
    """The page: who is signed in, and what they ask for."""

    def __init__(
        self, actions: OfficerActions, officers: Officers, institution: str | None, contact: str | None
    ) -> None:
        """Nobody is signed in yet.

        Args:
            actions: does what is asked for.
            officers: who may sign in.
            institution: who is responsible, as pages and the record name it.
            contact: how they are reached.
        """
        self._actions, self._officers = actions, officers
        self._institution, self._contact = institution, contact
        self._pages, self._sessions = Pages(institution), Sessions()

    def make_app(self) -> ASGIApp:
        """The ASGI application."""

        def get(path: str, handler: Handler) -> Route:
            return Route(path, self._serve(handler), methods=["GET"])

        def post(path: str, handler: Handler) -> Route:
            return Route(path, self._serve(handler), methods=["POST"])

        return Starlette(
            routes=[
                Route("/style.css", self._send_style, methods=["GET"]),
                Route("/sign-in", self._show_sign_in, methods=["GET"]),
                Route("/sign-in", self._sign_in, methods=["POST"]),
                Route("/signed-in", self._welcome, methods=["GET"]),
                Route("/sign-out", self._sign_out, methods=["POST"]),
                get("/", self._show_requests),
                post("/requests", self._look_up),
                get("/requests/{request:uuid}", self._show_request),
                get("/receipts", self._show_receipts),
                post("/receipts", self._check_receipt),
                get("/receipts/{request:uuid}", self._show_receipt),
                get("/receipts/{request:uuid}/file", self._send_receipt),
                get("/find", lambda call: self._view_find(call, prefix=False)),
                post("/find", self._find),
                get("/export", lambda call: self._view_export(call)),
                post("/export", self._export),
                get("/retire", lambda call: self._view_retire(call)),
                post("/retire/preview", self._preview),
                post("/retire", self._retire),
                get("/record", self._show_record),
                get("/record/{form}", self._send_record),
            ],
            exception_handlers={HTTPException: self._explain_http},
            middleware=[Middleware(_Headers)],
        )

    # Who is there

    def _serve(self, handler: Handler) -> Callable[[Request], object]:
        """The endpoint of a handler: for people who are signed in, and forms of theirs."""

        async def endpoint(request: Request) -> Response:
            language = _find_language(request)
            session = self._sessions.find(_read_cookie(request))
            try:
                form = Form()
                if request.method == "POST":
                    require_own_page(request)
                    form = await read_form(request)
                if session is None:
                    return self._ask_to_sign_in(request, language)
                if request.method == "POST":
                    require_own_form(form, session)
                call = Call(request, session, form, language)
                return await run_in_threadpool(self._answer, handler, call)
            except HttpProblemError as error:
                return self._explain(error.status, error.error, error.message, language, session)

        return endpoint

    def _answer(self, handler: Handler, call: Call) -> Response:
        session, language = call.session, call.language
        try:
            found = handler(call)
            if isinstance(found, Response):
                return found
            return self._pages.render(found, language, session.form_token)
        except (UsageError, RefusedError) as error:
            return self._explain(422, "refused", str(error), language, session)
        except AspectsPiiError as error:
            _log.error("A request to the privacy page failed: %s", error)
            return self._explain(503 if error.retriable else 500, "unavailable", str(error), language, session)
        except HttpProblemError:
            raise
        except Exception as error:
            # Its text may quote a value.
            _log.error("A request to the privacy page failed (%s)", type(error).__name__)
            return self._explain(500, "failed", "", language, session)

    def _ask_to_sign_in(self, request: Request, language: Language) -> Response:
        if request.method == "GET":
            return RedirectResponse(f"{HOME}/sign-in", 303)
        return self._render_sign_in(language, 401, WORDS[language].signed_out)

    def _render_sign_in(self, language: Language, status: int = 200, problem: str = "") -> Response:
        error = Problem(problem, language) if problem else None
        view = View("sign_in", WORDS[language].sign_in, status=status, error=error)
        return self._pages.render(view, language, None)

    async def _show_sign_in(self, request: Request) -> Response:
        if self._sessions.find(_read_cookie(request)) is not None:
            return RedirectResponse(f"{HOME}/", 303)
        return self._render_sign_in(_find_language(request))

    async def _sign_in(self, request: Request) -> Response:
        language = _find_language(request)
        try:
            require_own_page(request)
            form = await read_form(request)
            officer = self._officers.recognise(form.text("token"))
        except HttpProblemError as error:
            _log.warning("Somebody could not sign in to the privacy page (%s)", error.error)
            said = WORDS[language].problems.get(error.error, error.message)
            return self._render_sign_in(language, error.status, said)
        _log.info("Signed in to the privacy page: %s", officer.actor)
        # A new one in any case: whoever knew the old one has nothing.
        self._sessions.end(_read_cookie(request))
        response = RedirectResponse(f"{HOME}/signed-in", 303)
        _set_cookie(response, self._sessions.begin(officer.actor, officer.lasts))
        return response

    async def _welcome(self, request: Request) -> Response:
        """Where a browser comes after it was signed in; without the cookie, if it did not take that."""
        if self._sessions.find(_read_cookie(request)) is not None:
            return RedirectResponse(f"{HOME}/", 303)
        language = _find_language(request)
        return self._render_sign_in(language, 401, WORDS[language].no_cookie)

    async def _sign_out(self, request: Request) -> Response:
        language, secret = _find_language(request), _read_cookie(request)
        session = self._sessions.find(secret)
        try:
            require_own_page(request)
            form = await read_form(request)
            if session is not None:
                require_own_form(form, session)
        except HttpProblemError as error:
            return self._explain(error.status, error.error, error.message, language, session)
        self._sessions.end(secret)
        response = RedirectResponse(f"{HOME}/sign-in", 303)
        _set_cookie(response, None)
        return response

    async def _send_style(self, _: Request) -> Response:
        return Response(self._pages.style, media_type="text/css")

    # What went wrong

    async def _explain_http(self, request: Request, error: Exception) -> Response:
        language = _find_language(request)
        session = self._sessions.find(_read_cookie(request))
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._explain(status, "not_found", "", language, session)

    def _explain(self, status: int, word: str, message: str, language: Language, session: Session | None) -> Response:
        words = WORDS[language]
        if word == "not_found":
            problem = Problem(words.not_found, language)
        elif word in words.problems:
            problem = Problem(words.problems[word], language)
        else:
            problem = Problem(message)
        view = View("problem", words.problem, status=status, error=problem)
        return self._pages.render(view, language, session.form_token if session else None)

    # Requests

    def _show_requests(self, call: Call, problem: str = "") -> View:
        error = call.problem(problem) if problem else None
        values = {"overview": self._actions.read_overview()}
        return View("requests", call.w.requests, values, "/", 422 if problem else 200, error)

    def _look_up(self, call: Call) -> View | Response:
        subject = self._read_subject(call)
        if subject is None:
            return self._show_requests(call, call.w.no_id)
        request = self._actions.look_up(subject)
        if request is None:
            return self._show_requests(call, call.w.not_asked_for)
        return RedirectResponse(f"{HOME}/requests/{request}", 303)

    def _show_request(self, call: Call) -> View:
        course = self._actions.read_course(_read_request(call))
        if course is None:
            raise HttpProblemError(404, "not_found", "")
        values = {
            "one": course.retirement,
            "entries": course.entries,
            "has_receipt": any(entry.action == "erased" for entry in course.entries),
        }
        return View("request", call.w.request_of.format(subject=course.retirement.subject), values)

    # Receipts

    def _show_receipts(self, call: Call, verdict: Verdict | None = None, error: Problem | None = None) -> View:
        given = call.request.query_params.get("page", "1")
        number = int(given) if re.fullmatch("[1-9][0-9]{0,6}", given) else 1
        erased, has_more = self._actions.list_erased(number)
        values = {"erased": erased, "has_more": has_more, "number": number, "verdict": verdict}
        return View("receipts", call.w.receipts, values, "/receipts", 422 if error else 200, error)

    def _check_receipt(self, call: Call) -> View:
        try:
            return self._show_receipts(call, self._actions.check_receipt(call.form.text("receipt")))
        except UsageError as error:
            return self._show_receipts(call, error=Problem(str(error)))

    def _show_receipt(self, call: Call) -> View:
        shown = self._actions.read_receipt(_read_request(call))
        if shown is None:
            raise HttpProblemError(404, "not_found", "")
        values = {"page": shown.page, "verdict": shown.verdict, "request": _read_request(call)}
        return View("receipt", shown.page.title, values, title_language="en")

    def _send_receipt(self, call: Call) -> Response:
        shown = self._actions.read_receipt(_read_request(call))
        if shown is None:
            raise HttpProblemError(404, "not_found", "")
        return _send(serialize_receipt(shown.file), "application/json", shown.file.path.name)

    # Finding

    def _view_find(
        self,
        call: Call,
        *,
        prefix: bool,
        found: Found | None = None,
        missing: str = "",
        error: Problem | None = None,
    ) -> View:
        values = {
            "knows_lms": self._actions.knows_lms,
            "texts": call.form.text("texts"),
            "prefix": prefix,
            "lms": call.form.has("lms"),
            "show": call.form.has("show"),
            "found": found,
            "missing": missing,
        }
        return View("find", call.w.find, values, "/find", 422 if error else 200, error)

    def _find(self, call: Call) -> View:
        prefix = call.form.has("prefix")
        texts = [
            Text(str(number), line.strip())
            for number, line in enumerate(call.form.text("texts").splitlines(), 1)
            if line.strip()
        ]
        if problem := _find_problem(texts, prefix, call.w):
            return self._view_find(call, prefix=prefix, error=call.problem(problem))
        has_lms = self._actions.knows_lms and call.form.has("lms")
        try:
            found = self._actions.find(
                texts, prefix=prefix, lms=has_lms, show=call.form.has("show"), actor=call.session.actor
            )
        except UsageError as error:
            return self._view_find(call, prefix=prefix, error=Problem(str(error)))
        missing = ", ".join(text.label for text in texts if text.label not in found.labels)
        return self._view_find(call, prefix=prefix, found=found, missing=missing)

    # Packages

    def _view_export(self, call: Call, error: Problem | None = None) -> View:
        is_new = call.request.method == "GET"
        values = {
            "user_id": call.form.text("user_id"),
            "package_language": call.form.text("language") or str(call.language),
            "with_events": is_new or call.form.has("with_events"),
            "with_mentions": is_new or call.form.has("with_mentions"),
            "recipient": call.form.text("recipient"),
        }
        return View("export", call.w.export, values, "/export", 422 if error else 200, error)

    def _export(self, call: Call) -> View | Response:
        subject = self._read_subject(call)
        if subject is None:
            return self._view_export(call, call.problem(call.w.no_id))
        language, recipient = call.form.text("language"), call.form.text("recipient")
        wanted = Wanted(
            Language(language) if language in set(Language) else call.language,
            call.form.has("with_events"),
            call.form.has("with_mentions"),
            [recipient] if recipient else (),
        )
        try:
            package = self._actions.export(subject, wanted, call.session.actor)
        except UsageError as error:
            return self._view_export(call, Problem(str(error)))
        headers = {"Content-Length": str(package.size), "Content-Disposition": _attach(package.name)}
        return StreamingResponse(_read_pieces(package.file), media_type="application/octet-stream", headers=headers)

    # Retiring

    def _view_retire(self, call: Call, error: Problem | None = None) -> View:
        values = {"user_id": call.form.text("user_id")}
        return View("retire", call.w.retire, values, "/retire", 422 if error else 200, error)

    def _view_confirm(self, call: Call, preview: Preview, problem: str = "") -> View:
        error = call.problem(problem) if problem else None
        title = call.w.preview_of.format(subject=preview.subject)
        return View("confirm", title, {"preview": preview}, "", 422 if error else 200, error)

    def _preview(self, call: Call) -> View | Response:
        subject = self._read_subject(call)
        if subject is None:
            return self._view_retire(call, call.problem(call.w.no_id))
        try:
            found = self._actions.preview(subject)
        except (UsageError, RefusedError) as error:
            return self._view_retire(call, Problem(str(error)))
        if isinstance(found, Preview):
            return self._view_confirm(call, found)
        return RedirectResponse(f"{HOME}/requests/{found.request}", 303)

    def _retire(self, call: Call) -> View | Response:
        subject = self._read_subject(call)
        if subject is None:
            return self._view_retire(call, call.problem(call.w.no_id))
        if call.form.text("typed") != str(subject):
            found = self._actions.preview(subject)
            if isinstance(found, Preview):
                return self._view_confirm(call, found, call.w.confirm_wrong)
            return RedirectResponse(f"{HOME}/requests/{found.request}", 303)
        request = self._actions.retire(subject, call.session.actor)
        return RedirectResponse(f"{HOME}/requests/{request}", 303)

    def _read_subject(self, call: Call) -> SubjectId | None:
        """The id in a form, or None."""
        try:
            return self._actions.parse(call.form.text("user_id"))
        except ValueError:
            return None

    # The record of processing

    def _show_record(self, call: Call) -> View:
        activities = self._actions.read_record()
        values = {
            "groups": [(tables, list(list_cells(activity))) for tables, activity in group_alike(activities)],
            "safeguards": SAFEGUARDS,
            "forms": {form: name for form, (name, _) in _RECORD_FORMATS.items()},
            "contact": self._contact,
        }
        return View("record", call.w.record, values, "/record")

    def _send_record(self, call: Call) -> Response:
        form = call.request.path_params["form"]
        if form not in _RECORD_FORMATS:
            raise HttpProblemError(404, "not_found", "")
        activities = self._actions.read_record()
        if form == "csv":
            text = write_csv(activities)
        elif form == "md":
            text = write_markdown(activities, self._institution, self._contact)
        else:
            text = json.dumps(write_json(activities, self._institution, self._contact), indent=2, ensure_ascii=False)
        return _send(text.encode(), _RECORD_FORMATS[form][1], f"record-of-processing.{form}")


class _Headers:
    """Puts `HEADERS` into every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _find_language(request: Request) -> Language:
    return choose_language(request.headers.get("accept-language", ""))


def _read_cookie(request: Request) -> str:
    return request.cookies.get(COOKIE, "")


def _set_cookie(response: Response, secret: str | None) -> None:
    """Give a browser the secret of its session, or have it forget it."""
    # By its name browsers take it only with `Secure`, with this path and from this host alone.
    lasts = 0 if secret is None else None
    response.set_cookie(COOKIE, secret or "", max_age=lasts, path="/", secure=True, httponly=True, samesite="strict")


def _read_request(call: Call) -> uuid.UUID:
    found: uuid.UUID = call.request.path_params["request"]
    return found


def _find_problem(texts: list[Text], prefix: bool, words: Words) -> str | None:
    """Why a search is not begun, for people."""
    if not texts:
        return words.nothing_given
    if len(texts) > _MOST_TEXTS:
        return words.too_many.format(number=_MOST_TEXTS)
    short = [text.label for text in texts if prefix and len(text.text) < SHORTEST_PREFIX]
    return words.prefix_short.format(line=short[0], number=SHORTEST_PREFIX) if short else None


def _send(data: bytes, media_type: str, name: str) -> Response:
    return Response(data, media_type=media_type, headers={"Content-Disposition": _attach(name)})


def _attach(name: str) -> str:
    return f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", name)}"'


def _read_pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK):
            yield piece
