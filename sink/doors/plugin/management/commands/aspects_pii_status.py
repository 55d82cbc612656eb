"""`manage.py lms aspects_pii_status`: `aspects-pii status`."""

from sink.doors.plugin.management.commands._command import SinkCommand


class Command(SinkCommand):
    """See `aspects-pii status --help`."""

    command = "status"
    help = "Show what the PII sink holds, and which retirements are open."
