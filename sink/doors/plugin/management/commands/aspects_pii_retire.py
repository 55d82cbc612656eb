"""`manage.py lms aspects_pii_retire`: `aspects-pii retire`."""

from sink.doors.plugin.management.commands._command import SinkCommand


class Command(SinkCommand):
    """See `aspects-pii retire --help`."""

    command = "retire"
    help = "Retire users from the PII sink."
