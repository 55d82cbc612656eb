"""`manage.py lms aspects_pii_sync`: `aspects-pii sync`."""

from sink.doors.plugin.management.commands._command import SinkCommand


class Command(SinkCommand):
    """See `aspects-pii sync --help`."""

    command = "sync"
    help = "Copy profiles, anonymous ids and course roles into the PII sink."
