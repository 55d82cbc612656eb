-- Who is erasing right now, so that there is one sweep at a time across processes.
-- .. no_pii: random ids of processes.

CREATE TABLE IF NOT EXISTS $pii_ledger.leases $on_cluster
(
    name LowCardinality(String),
    holder UUID,
    at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC'),
    expires_at DateTime64(6, 'UTC') COMMENT 'Renewed while the holder lives, in the past once it has let go'
)
ENGINE = ${replicated}MergeTree
ORDER BY (name, holder, at)
TTL toDateTime(at) + INTERVAL 1 DAY;
