"""What an Aspects installation does to a ClickHouse, as statements: facts of its releases, each with where it is from.

Names of databases stand as in our migrations (`$event_sink`). Queries are written anew and mean the same; DDL has the
names, types, keys and engines of the original.
"""

from __future__ import annotations

# aspects-dbt 8.0.0, models/users, as dbt-clickhouse 1.9.4 and 1.10.3 send them. Each `dbt run` does so again.
DBT_USERS = (
    """
    CREATE OR REPLACE DICTIONARY $event_sink.user_pii
    (user_id Int32, external_user_id String, username String, name String, email String)
    PRIMARY KEY (user_id, external_user_id)
    SOURCE(CLICKHOUSE(QUERY "
        SELECT e.user_id AS user_id, p.username AS username, p.name AS name, p.email AS email,
            if(empty(e.external_user_id), 'mailto:' || p.email, toString(e.external_user_id)) AS external_user_id
        FROM (SELECT user_id, max(time_last_dumped) AS at FROM $event_sink.user_profile GROUP BY user_id) AS latest
        LEFT JOIN $event_sink.external_id AS e ON e.user_id = latest.user_id
        LEFT JOIN $event_sink.user_profile AS p ON p.user_id = latest.user_id AND p.time_last_dumped = latest.at"))
    LAYOUT(COMPLEX_KEY_SPARSE_HASHED())
    LIFETIME(120)
    """,
    """
    CREATE OR REPLACE VIEW $reporting.dim_user_pii AS
    SELECT external_user_id, username, name, email FROM $event_sink.user_pii
    """,
)

_PROFILE = """(
    id Int32 NOT NULL, user_id Int32 NOT NULL, name String NOT NULL, meta String NOT NULL, courseware String NOT NULL,
    language String NOT NULL, location String NOT NULL, year_of_birth String NOT NULL, gender String NOT NULL,
    level_of_education String NOT NULL, mailing_address String NOT NULL, city String NOT NULL, country String NOT NULL,
    state String NOT NULL, goals String NOT NULL, bio String NOT NULL, profile_image_uploaded_at String NOT NULL,
    phone_number String NOT NULL, dump_id UUID NOT NULL, time_last_dumped String NOT NULL
)"""

# tutor-contrib-aspects 6.1.0, alembic; 0027 is the same since 1.0.0. Those of the tables that `init` makes too.
MIGRATIONS = {
    "0002": (
        """
        CREATE TABLE IF NOT EXISTS $xapi.xapi_events_all
        (event_id UUID NOT NULL, emission_time DateTime64(6) NOT NULL, event String NOT NULL, event_str String NOT NULL)
        ENGINE ReplacingMergeTree ORDER BY (emission_time, event_id) PRIMARY KEY (emission_time, event_id)
        """,
    ),
    "0007": (
        """
        CREATE TABLE IF NOT EXISTS $event_sink.course_overviews
        (
            org String NOT NULL, course_key String NOT NULL, display_name String NOT NULL, course_start String NOT NULL,
            course_end String NOT NULL, enrollment_start String NOT NULL, enrollment_end String NOT NULL,
            self_paced BOOL NOT NULL, course_data_json String NOT NULL, created String NOT NULL, modified String NOT NULL,
            dump_id UUID NOT NULL, time_last_dumped String NOT NULL
        ) ENGINE = ReplacingMergeTree PRIMARY KEY (org, course_key, modified, time_last_dumped)
        ORDER BY (org, course_key, modified, time_last_dumped)
        """,
    ),
    "0016": (
        f"CREATE TABLE IF NOT EXISTS $event_sink.user_profile {_PROFILE} ENGINE = ReplacingMergeTree "
        "PRIMARY KEY (id, time_last_dumped) ORDER BY (id, time_last_dumped)",
    ),
    "0026": (
        """
        CREATE TABLE IF NOT EXISTS $event_sink.external_id
        (external_user_id UUID NOT NULL, external_id_type String, username String, user_id Int32, dump_id UUID NOT NULL,
            time_last_dumped String NOT NULL)
        ENGINE = ReplacingMergeTree PRIMARY KEY (external_user_id, time_last_dumped) PARTITION BY user_id MOD 100
        ORDER BY (external_user_id, time_last_dumped)
        """,
    ),
    "0027": (
        "RENAME TABLE $event_sink.user_profile TO $event_sink.old_user_profile",
        f"CREATE OR REPLACE TABLE $event_sink.user_profile {_PROFILE} ENGINE = ReplacingMergeTree "
        "PARTITION BY user_id MOD 100 PRIMARY KEY (id, time_last_dumped) ORDER BY (id, time_last_dumped)",
        "INSERT INTO $event_sink.user_profile SELECT * FROM $event_sink.old_user_profile",
        "DROP TABLE $event_sink.old_user_profile",
    ),
    "0029": ("ALTER TABLE $xapi.xapi_events_all DROP COLUMN event, RENAME COLUMN event_str TO event",),
    "0031": ("ALTER TABLE $event_sink.user_profile ADD COLUMN IF NOT EXISTS email String DEFAULT '' AFTER name",),
    "0032": (
        "RENAME TABLE $xapi.xapi_events_all TO $xapi.old_xapi_events_all",
        """
        CREATE TABLE IF NOT EXISTS $xapi.xapi_events_all
        (event_id UUID NOT NULL, emission_time DateTime64(6) NOT NULL, event String NOT NULL)
        ENGINE ReplacingMergeTree ORDER BY (emission_time, event_id) PARTITION BY toYYYYMM(emission_time)
        PRIMARY KEY (emission_time, event_id)
        """,
        "INSERT INTO $xapi.xapi_events_all SELECT event_id, emission_time, event FROM $xapi.old_xapi_events_all",
        "DROP TABLE $xapi.old_xapi_events_all",
    ),
    "0036": (
        """
        CREATE TABLE IF NOT EXISTS $event_sink.course_enrollment
        (
            id Int32 NOT NULL, course_key String NOT NULL, created String NOT NULL, is_active Bool NOT NULL,
            mode LowCardinality(String) NOT NULL, username String NOT NULL, user_id Int32 NOT NULL, dump_id UUID NOT NULL,
            time_last_dumped String NOT NULL
        ) ENGINE ReplacingMergeTree ORDER BY (course_key, user_id, time_last_dumped)
        """,
    ),
    "0040": ("ALTER TABLE $event_sink.user_profile ADD COLUMN IF NOT EXISTS username String DEFAULT '' AFTER name",),
    "0041": (),
}

# clickhouse-sqlalchemy 0.2, alembic/dialect.py: where alembic keeps how far it is, in RALPH_DATABASE (`xapi`).
VERSION_TABLE = """
CREATE TABLE IF NOT EXISTS $xapi.alembic_version (dt DateTime DEFAULT now(), version_num String)
ENGINE = ReplacingMergeTree(dt) ORDER BY tuple()
"""

# platform-plugin-aspects 2.1.0, sinks: parameters of the request, and rows by position, every text in quotes.
SINK_SETTINGS = {"input_format_allow_errors_num": 1, "input_format_allow_errors_ratio": 0.1}
SINK_ROWS = {
    "user_profile": '101,{user_id},"{name}","{username}","{username}@example.com","","","","","1990","f","b","","","ES","",'
    '"","","","","8a7f5d1c-6a0e-4c56-9d3a-0d6d6b3d6c01","{at}"',
    "external_id": '"00000000-0000-4000-8000-00000000000{user_id}","xapi","{username}",{user_id},'
    '"8a7f5d1c-6a0e-4c56-9d3a-0d6d6b3d6c01","{at}"',
}
ENROLMENT_ROW = (
    '{id},"course-v1:Org+Demo+2026","2026-01-01 00:00:00+00:00",True,"audit","{username}",{user_id},'
    '"8a7f5d1c-6a0e-4c56-9d3a-0d6d6b3d6c01","2026-01-31 10:00:00.123456+00:00"'
)
