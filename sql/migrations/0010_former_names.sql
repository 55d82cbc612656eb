-- Keyed hashes of what retired people were called, by which a row of theirs that comes late is recognised.

-- Kept for as long as ASPECTS_KEEP_FORMER_NAMES_DAYS says. Whoever reads the key of the pseudonyms too can test a guess.
-- .. no_pii: opaque user ids, and keyed digests (HMAC-SHA256) in the places of names.
CREATE TABLE IF NOT EXISTS $pii_ledger.former_names $on_cluster
(
    subject String,
    label LowCardinality(String) COMMENT 'An identifier of the map, or a template where the whole key is what is known',
    digest String COMMENT 'In lower-case hexadecimal; empty where the subject had no such name',
    at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ${replicated}MergeTree
ORDER BY (label, digest, subject)
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;
