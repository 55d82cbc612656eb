-- Who may see which course while PII is off: no name is stored, so a viewer is known by a keyed digest of theirs.

-- .. pii: Course roles as in `course_access`, with a keyed digest (HMAC-SHA256) in the place of the user name.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
CREATE TABLE IF NOT EXISTS $event_sink.course_access_keyed $on_cluster
(
    user_id Int64,
    viewer String COMMENT 'Digest of the user name under the key of the pseudonyms, in lower-case hexadecimal',
    org String,
    course_key String,
    role LowCardinality(String),
    dump_id UUID,
    time_last_dumped DateTime64(6, 'UTC')
)
ENGINE = ${replicated}ReplacingMergeTree(time_last_dumped)
ORDER BY (user_id, org, course_key, role)
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;
