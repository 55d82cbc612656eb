-- Times as upstream's sinks send them, `2026-01-31 10:00:00.123456+00:00`: ClickHouse before 26.5 does not read that into a
-- DateTime64 and, told to pass over bad rows as upstream tells it, answers 200 and stores nothing. So the column is a text,
-- as in upstream's tables, and the time of it, by which the latest version counts, is computed.
-- The type of a version cannot be altered, so each table that we have made gives way to one like it. Meanwhile the name is
-- one that the map knows: what an interruption leaves is erased as the table is.

-- .. pii: A learner's profile, as the LMS has it.
-- .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
-- .. pii_retirement: consumer_api
-- only where: event_sink.user_profile.time_last_dumped is DateTime64(6, 'UTC')
CREATE TABLE IF NOT EXISTS $event_sink.old_user_profile $on_cluster
(
    id Int64,
    user_id Int64,
    name String,
    username String,
    email String,
    meta String,
    courseware String,
    language String,
    location String,
    year_of_birth String,
    gender String,
    level_of_education String,
    mailing_address String,
    city String,
    country String,
    state String,
    goals String,
    bio String,
    profile_image_uploaded_at String,
    phone_number String,
    dump_id UUID,
    time_last_dumped String,
    dumped_at DateTime64(6, 'UTC') MATERIALIZED parseDateTime64BestEffortOrZero(time_last_dumped, 6, 'UTC')
)
ENGINE = ${replicated}ReplacingMergeTree(dumped_at)
ORDER BY user_id
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;

-- only where: event_sink.user_profile.time_last_dumped is DateTime64(6, 'UTC')
INSERT INTO $event_sink.old_user_profile SELECT * FROM $event_sink.user_profile;

-- only where: event_sink.user_profile.time_last_dumped is DateTime64(6, 'UTC')
EXCHANGE TABLES $event_sink.user_profile AND $event_sink.old_user_profile $on_cluster;

-- only where: event_sink.old_user_profile.time_last_dumped is DateTime64(6, 'UTC')
DROP TABLE IF EXISTS $event_sink.old_user_profile $on_cluster SYNC;

-- .. pii: Which anonymous id in the events is which user.
-- .. pii_types: id, username
-- .. pii_retirement: consumer_api
-- only where: event_sink.external_id.time_last_dumped is DateTime64(6, 'UTC')
CREATE TABLE IF NOT EXISTS $event_sink.old_external_id $on_cluster
(
    external_user_id UUID,
    external_id_type LowCardinality(String),
    username String,
    user_id Int64,
    dump_id UUID,
    time_last_dumped String,
    dumped_at DateTime64(6, 'UTC') MATERIALIZED parseDateTime64BestEffortOrZero(time_last_dumped, 6, 'UTC')
)
ENGINE = ${replicated}ReplacingMergeTree(dumped_at)
ORDER BY (user_id, external_id_type, external_user_id)
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;

-- only where: event_sink.external_id.time_last_dumped is DateTime64(6, 'UTC')
INSERT INTO $event_sink.old_external_id SELECT * FROM $event_sink.external_id;

-- only where: event_sink.external_id.time_last_dumped is DateTime64(6, 'UTC')
EXCHANGE TABLES $event_sink.external_id AND $event_sink.old_external_id $on_cluster;

-- only where: event_sink.old_external_id.time_last_dumped is DateTime64(6, 'UTC')
DROP TABLE IF EXISTS $event_sink.old_external_id $on_cluster SYNC;
