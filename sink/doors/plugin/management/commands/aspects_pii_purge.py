"""`manage.py lms aspects_pii_purge`: `aspects-pii purge`."""

from sink.doors.plugin.management.commands._command import SinkCommand


class Command(SinkCommand):
    """See `aspects-pii purge --help`."""

    command = "purge"
    help = "Opt out: remove all PII from the sink."
