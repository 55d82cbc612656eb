-- User names of enrolments go as soon as they come. Aspects' sink writes them whether PII is on or off, and nobody reads them.
-- ClickHouse has nothing that empties a value on its way into a table: a DEFAULT gives way to what is inserted, and a column
-- that is not stored has no place in an INSERT by position. A TTL that has always expired empties it in the next merge, which
-- comes at once where none has to be waited for. `id * 0` is there because a TTL has to depend on a column.
-- Only the table that we have made is changed. Upstream's is sorted otherwise, and the sweep empties it while PII is off.

-- .. pii: Enrolments with a user name that goes within seconds.
-- .. pii_types: id, username
-- .. pii_retirement: consumer_api
-- only where: event_sink.course_enrollment is sorted by course_key, id, time_last_dumped
ALTER TABLE $event_sink.course_enrollment $on_cluster MODIFY SETTING
    merge_with_ttl_timeout = 0,
    old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;

-- What is there already is emptied as well: ALTER applies a new TTL to old parts.
-- only where: event_sink.course_enrollment is sorted by course_key, id, time_last_dumped
ALTER TABLE $event_sink.course_enrollment $on_cluster
    MODIFY COLUMN username String TTL toDateTime('2000-01-01 00:00:00', 'UTC') + toIntervalSecond(id * 0);
