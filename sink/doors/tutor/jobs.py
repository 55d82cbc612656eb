"""`tutor local do aspects-pii-sync …` and its like: commands of `aspects-pii`, run in the container for jobs.

.. no_pii: passes arguments on; those of the named jobs are ids.
"""

from __future__ import annotations

import shlex

import click

_SERVICE = "aspects-pii"


def make_job(name: str, command: tuple[str, ...], help_text: str) -> click.Command:
    """A job that runs `aspects-pii` with the words of `command` and what the operator adds."""

    def run(arguments: tuple[str, ...]) -> list[tuple[str, str]]:
        line = shlex.join(("aspects-pii", *command, *arguments))
        # Tutor renders what a job is to run; an argument is no template.
        return [(_SERVICE, f"{{% raw %}}{line}{{% endraw %}}")]

    return click.Command(
        name,
        callback=run,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=f"{help_text} What follows goes to `{' '.join(('aspects-pii', *command))}`.",
        context_settings={"ignore_unknown_options": True},
    )


JOBS = (
    make_job("aspects-pii", (), "Run any command of aspects-pii."),
    make_job("aspects-pii-sync", ("sync",), "Copy profiles, anonymous ids and course roles from the LMS."),
    make_job("aspects-pii-retire", ("retire",), "Retire users by id: hide, erase, verify, write receipts."),
    make_job("aspects-pii-purge", ("purge",), "Opt out: remove all PII and everything built on it."),
    make_job("aspects-pii-status", ("status",), "What is held, and which retirements are open."),
)
