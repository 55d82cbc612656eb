"""The table of statements that count: another content is another version, and the map knows it."""

from __future__ import annotations

import hashlib
import re

from sink.datasets.learner_events import FEED, LEARNER_EVENTS, VERSION, compose_definition
from sink.pii_map import load_map
from sink.resources import find_resource

# What each version holds: the digest of its definition, without blanks.
DEFINITIONS = {1: "0a8ec2e20e1c0f7f"}


def test_another_content_has_another_version() -> None:
    digest = hashlib.sha256(re.sub(r"--.*|\s+", "", compose_definition()).encode()).hexdigest()[:16]
    assert digest == DEFINITIONS[VERSION], (
        "The table would hold something else, and tables that are there would not be filled anew: raise VERSION in "
        f"sink/datasets/learner_events.py, name the new table in config/pii.yaml beside the old one, and note {digest} here."
    )


def test_the_map_that_ships_names_the_table_and_what_it_says_of_actors() -> None:
    target = load_map(find_resource("config/pii.yaml")).targets[f"reporting.{LEARNER_EVENTS}"]
    assert target.pii == {"actor_id": "email_address"}
    assert len(target.rules) == 2
    assert all(list(rule.on_retire.redact) == ["actor_id"] for rule in target.rules)
    assert f"{LEARNER_EVENTS}_mv" == FEED
