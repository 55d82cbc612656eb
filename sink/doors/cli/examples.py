"""An example or two for each command, as its help shows them; tests run them.

.. no_pii: invented ids.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("init", "init --with-aspects"),
    "sync": ("sync", "sync --object user_profile --user-id 42", "sync --dry-run --json"),
    "build": ("build", "build --select learners_at_risk", "build --quiet"),
    "retire": ("retire 42", "retire --file ids.txt --actor service:helpdesk --yes", "retire 42 --dry-run"),
    "sweep": ("sweep",),
    "verify": ("verify", "verify 42 --json", "verify --scan"),
    "withdraw": ("withdraw 42",),
    "reassign": ("reassign 42 43 --dry-run", "reassign 42 43 --asset block-v1:demo"),
    "reconcile": ("reconcile --dry-run", "reconcile"),
    "second-pass": ("second-pass",),
    "backfill-retired": ("backfill-retired --dry-run", "backfill-retired"),
    "replay": ("replay", "replay --from ledger.jsonl --dry-run"),
    "purge": ("purge --dry-run", "purge --yes"),
    "status": ("status", "status --json"),
    "doctor": ("doctor", "doctor --format json"),
    "settings": ("settings", "settings --format json"),
    "clickhouse": ("clickhouse", "clickhouse --port 0"),
    "worker": ("worker", "worker --no-beat --concurrency 4"),
    "consume": ("consume", "consume --once"),
    "heartbeat": ("heartbeat worker",),
    "serve": ("serve", "serve --port 8321"),
    "demo": ("demo", "demo --users 1000 --keep"),
    "completion": ("completion bash >> ~/.bashrc", "completion zsh >> ~/.zshrc", "completion fish | source"),
    "map check": ("map check", "map check --json"),
    "map show": ("map show",),
    "map init": ("map init pii.yaml",),
    "docs": ("docs", "docs map | less"),
    "config example": ("config example .env",),
    "config users": ("config users users.xml",),
    "events init": ("events init events.yaml",),
    "ledger export": ("ledger export ledger.jsonl", "ledger export - | gzip > ledger.jsonl.gz"),
    "ledger check": ("ledger check",),
    "ledger void": ("ledger void 06fbf0682a9dc76c --reason 'written by a test'",),
    "ledger show": ("ledger show --subject 42", "ledger show --action erased --since 2026-01-01 --limit 20"),
    "receipt list": ("receipt list",),
    "receipt show": ("receipt show 42", "receipt show 42 --format html --output receipt.html"),
    "receipt verify": ("receipt verify aspects-pii-receipts/*.json",),
    "receipt key": ("receipt key receipts.pem",),
    "access sql": ("access sql --output access.sql", "access sql --remove"),
    "dashboards install": ("dashboards install",),
    "dashboards remove": ("dashboards remove",),
    "dashboards export": ("dashboards export --output dashboards.zip",),
}
"""By command: what one types after `aspects-pii`."""
