"""What the hook is sent and what it answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# .. pii: A request may carry a user name: it is checked to be one, and neither kept nor logged.
# .. pii_types: username
# .. pii_retirement: consumer_api

MAX_USER_ID = 2**53  # Exact in every JSON reader; far above what an LMS has.


def _read_integer(value: Any) -> Any:
    # To JSON, 42.0 is an integer too.
    return int(value) if isinstance(value, float) and value.is_integer() else value


UserId = Annotated[
    int,
    Field(ge=1, le=MAX_USER_ID, description="The LMS's id of the user.", examples=[42]),
    BeforeValidator(_read_integer),
]


class RetireUser(BaseModel):
    """What the driver sends to a LICENSE_MANAGER."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    lms_user_id: UserId
    original_username: str = Field("", description="Ignored: neither stored nor logged.", examples=["-"])


class Health(BaseModel):
    """Whether retirements can be recorded."""

    status: str = Field(description="`ok`, or `unavailable`.", examples=["ok"])
    clickhouse: bool = Field(description="Whether ClickHouse answers.")
    version: str = Field(description="Of aspects-pii.", examples=["0.1.0"])


class ProblemDetails(BaseModel):
    """Why a request was not carried out: what RFC 9457 calls problem details, under names of our own."""

    error: str = Field(description="A word for programs.", examples=["invalid"])
    message: str = Field(description="A sentence for people.", examples=["The request is not valid."])
    fields: dict[str, str] = Field(default_factory=dict, description="What is wrong, by field; never the value.")
