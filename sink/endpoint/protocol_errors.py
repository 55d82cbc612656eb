"""The status, the code and the text that ClickHouse gives to an error."""

from __future__ import annotations

import re

from sink.errors import ProtocolError

# HTTP status by the error's name, as a server has it (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); else 500.
_STATUS = {
    name: status
    for status, names in {
        400: "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE "
        "CANNOT_PARSE_QUOTED_STRING CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER "
        "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID "
        "CANNOT_PARSE_INPUT_ASSERTION_FAILED DUPLICATE_COLUMN ILLEGAL_COLUMN UNKNOWN_ELEMENT_IN_AST "
        "UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR "
        "INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
        403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
        404: "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE "
        "UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT "
        "UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE",
        408: "TIMEOUT_EXCEEDED",
        413: "TOO_MANY_BYTES QUERY_IS_TOO_LARGE",
        501: "NOT_IMPLEMENTED",
        503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
    }.items()
    for name in names.split()
}

# The codes of the errors that arise here and not in the engine (src/Common/ErrorCodes.cpp).
_CODES = {
    "BAD_ARGUMENTS": 36,
    "NOT_IMPLEMENTED": 48,
    "SYNTAX_ERROR": 62,
    "UNKNOWN_FORMAT": 73,
    "UNKNOWN_COMPRESSION_METHOD": 89,
    "READONLY": 164,
    "TOO_MANY_SIMULTANEOUS_QUERIES": 202,
    "CANNOT_DECOMPRESS": 271,
    "TOO_MANY_BYTES": 307,
    "SESSION_NOT_FOUND": 372,
    "SESSION_IS_LOCKED": 373,
    "INVALID_SESSION_TIMEOUT": 374,
    "ACCESS_DENIED": 497,
    "AUTHENTICATION_FAILED": 516,
    "UNKNOWN_EXCEPTION": 1002,
}


def find_status(error: ProtocolError) -> int:
    """The HTTP status of the answer."""
    return _STATUS.get(error.name, 500) if error.status is None else error.status


def find_code(error: ProtocolError) -> int:
    """ClickHouse's code of the error."""
    return _CODES[error.name] if error.code is None else error.code


def write_text(error: ProtocolError, version: str) -> str:
    """The body of the answer, in a server's form."""
    message = error.message
    if not message.startswith("Code: "):
        message = f"Code: {find_code(error)}. DB::Exception: {message} ({error.name})"
    return f"{message} (version {version})\n"


def read_engine_error(error: Exception) -> ProtocolError:
    """The same as the engine's exception, whose text goes to the client as a server's does."""
    text = str(error)
    match = re.search(r"Code: (\d+)\. ", text)
    if not match:
        return ProtocolError("UNKNOWN_EXCEPTION", text)
    message = re.sub(r" \(version [^()]*\)\s*$", "", text[match.start() :])
    names = re.findall(r"\(([A-Z][A-Z0-9_]+)\)", message)
    return ProtocolError(names[-1] if names else "UNKNOWN_EXCEPTION", message, int(match[1]))
