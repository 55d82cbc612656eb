-- The tables that `sync` fills, with the column names of upstream Aspects.
-- Not partitioned and ordered by user: what an erasure costs follows the number of parts and the bytes rewritten.
-- Text columns are Strings, empty where the LMS has NULL, as upstream has them, so that models work on both.
-- Replaced and erased parts leave the disk within seconds instead of ClickHouse's default of eight minutes.

-- .. pii: A learner's profile, as the LMS has it.
-- .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
-- .. pii_retirement: consumer_api
CREATE TABLE IF NOT EXISTS $event_sink.user_profile $on_cluster
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
    time_last_dumped DateTime64(6, 'UTC')
)
ENGINE = ${replicated}ReplacingMergeTree(time_last_dumped)
ORDER BY user_id
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;

-- .. pii: Which anonymous id in the events is which user.
-- .. pii_types: id, username
-- .. pii_retirement: consumer_api
CREATE TABLE IF NOT EXISTS $event_sink.external_id $on_cluster
(
    external_user_id UUID,
    external_id_type LowCardinality(String),
    username String,
    user_id Int64,
    dump_id UUID,
    time_last_dumped DateTime64(6, 'UTC')
)
ENGINE = ${replicated}ReplacingMergeTree(time_last_dumped)
ORDER BY (user_id, external_id_type, external_user_id)
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;

-- .. pii: Who may see which course: staff and instructors. An empty course is a whole organisation, both empty all courses.
-- .. pii_types: id, username
-- .. pii_retirement: consumer_api
CREATE TABLE IF NOT EXISTS $event_sink.course_access $on_cluster
(
    user_id Int64,
    username String,
    org String,
    course_key String,
    role LowCardinality(String),
    dump_id UUID,
    time_last_dumped DateTime64(6, 'UTC')
)
ENGINE = ${replicated}ReplacingMergeTree(time_last_dumped)
ORDER BY (user_id, org, course_key, role)
SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0;
