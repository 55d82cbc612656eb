-- Tables that an Aspects installation already has: made here, in upstream's shape, only where they are missing.

-- .. no_pii: xAPI statements whose actor is an anonymous id.
CREATE TABLE IF NOT EXISTS $xapi.xapi_events_all $on_cluster
(
    event_id UUID,
    emission_time DateTime64(6),
    event String
)
ENGINE = ${replicated}MergeTree
PARTITION BY toYYYYMM(emission_time)
ORDER BY (emission_time, event_id);

-- .. pii: Enrolments with the learner's username.
-- .. pii_types: id, username
-- .. pii_retirement: consumer_api
CREATE TABLE IF NOT EXISTS $event_sink.course_enrollment $on_cluster
(
    id Int32,
    course_key String,
    created String,
    is_active Bool,
    mode LowCardinality(String),
    username String,
    user_id Int32,
    dump_id UUID,
    time_last_dumped String
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (course_key, id, time_last_dumped);

-- .. no_pii: courses, not people.
CREATE TABLE IF NOT EXISTS $event_sink.course_overviews $on_cluster
(
    org String,
    course_key String,
    display_name String,
    course_start String,
    course_end String,
    enrollment_start String,
    enrollment_end String,
    self_paced Bool,
    course_data_json String,
    created String,
    modified String,
    dump_id UUID,
    time_last_dumped String
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (org, course_key, modified, time_last_dumped);
