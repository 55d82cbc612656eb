"""An LMS with five users who have done nothing yet."""

from __future__ import annotations

from sink.demo_data.lms_tables import create_tables, open_writable
from tests.support.lms_writer import LmsWriter


def make_small_lms(url: str) -> LmsWriter:
    """Users 1 to 5, `learner1` and so on; returns what changes them."""
    engine = open_writable(url)
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    writer = LmsWriter(url)
    for user in range(1, 6):
        writer.register_user(
            user, f"learner{user}", f"learner{user}@example.com", f"Learner {user}", bio="me", goals="win"
        )
    return writer
