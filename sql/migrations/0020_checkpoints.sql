-- What is asked of the ledger at every step is answered without reading all of it: measured in docs/performance.md.

-- A copy asks which of its users are retired. Ids of users who follow one another stand close together in the entries, but the
-- entries have them as texts, which the sort key does not find by number.
-- .. no_pii: numbers of users.
ALTER TABLE $pii_ledger.entries $on_cluster
    ADD INDEX IF NOT EXISTS by_user_id toInt64OrZero(subject) TYPE minmax GRANULARITY 1;

ALTER TABLE $pii_ledger.entries $on_cluster
    MATERIALIZE INDEX by_user_id;

-- Where the entries stood at a moment. One counts for a day at most, and only while the entries up to its moment are as many as
-- they were: whatever else is so, all of them are read. See docs/decisions/0025-checkpoints.md.
-- .. no_pii: opaque user ids, counts and times.
CREATE TABLE IF NOT EXISTS $pii_ledger.checkpoints $on_cluster
(
    until DateTime64(6, 'UTC') COMMENT 'The moment, as entries have it',
    entries UInt64 COMMENT 'How many entries there were up to it',
    asked UInt64 COMMENT 'Of how many subjects the retirement had been requested up to it',
    nameless UInt64 COMMENT 'Requests up to it whose subject is no opaque id',
    unsettled Array(String) COMMENT 'Whoever had a request that was not plainly done with',
    noted_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ${replicated}MergeTree
ORDER BY noted_at
TTL toDateTime(noted_at) + INTERVAL 2 DAY;
