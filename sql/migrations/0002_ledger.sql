-- The append-only ledger, and the tombstones that follow from it.
-- .. no_pii: holds opaque user ids and counts, never a name, an e-mail address or an anonymous id.

CREATE TABLE IF NOT EXISTS $pii_ledger.entries $on_cluster
(
    subject String COMMENT 'The LMS user id (or another opaque key), empty where an entry is about no one subject',
    at DateTime64(6, 'UTC') COMMENT 'When, by the clock of ClickHouse, never earlier than the entry before it',
    action LowCardinality(String) COMMENT 'requested, hidden, erased, failed, reopened, withdrawn, purged, ...',
    request UUID COMMENT 'What belongs together: one retirement from its request to its receipt',
    actor Nullable(String) COMMENT 'Opaque id of who asked, NULL for the system itself',
    detail String COMMENT 'JSON with counts, names of tables, reasons, never a value from a row',
    INDEX by_time at TYPE minmax GRANULARITY 1,
    INDEX by_action action TYPE set(32) GRANULARITY 1,
    INDEX by_request request TYPE bloom_filter GRANULARITY 1,
    INDEX by_actor actor TYPE bloom_filter GRANULARITY 1
)
ENGINE = ${replicated}MergeTree
ORDER BY (subject, at)
-- An acknowledged request must survive a loss of power.
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE OR REPLACE VIEW $pii_ledger.tombstones $on_cluster AS
SELECT
    subject,
    -- 0 is no user's id: subjects with keys of another kind never match a user.
    toInt64OrZero(subject) AS user_id,
    min(at) AS retired_at
FROM $pii_ledger.entries
WHERE action IN ('requested', 'withdrawn')
GROUP BY subject
HAVING argMax(action, at) = 'requested';
