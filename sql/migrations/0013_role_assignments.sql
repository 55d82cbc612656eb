-- Who gave whom which role, and who took it: an audit trail of its own, since nothing follows from it for a retirement.

-- Appended to only, as the entries. It outlives users, courses and roles, and never holds a name.
-- .. no_pii: opaque user ids, names of roles, keys of courses.
CREATE TABLE IF NOT EXISTS $pii_ledger.role_assignments $on_cluster
(
    event UUID COMMENT 'The id of the event that told of it',
    at DateTime64(6, 'UTC') COMMENT 'When it happened, by the clock of the LMS',
    operation LowCardinality(String) COMMENT 'given or taken',
    subject String COMMENT 'The LMS user id of the one whose role it is',
    role LowCardinality(String) COMMENT 'As the LMS calls it, such as staff; where only openedx-authz has it, as that does',
    scope String COMMENT 'The key of a course or library, ORG followed by an asterisk for all of an organisation, or an asterisk',
    source LowCardinality(String) COMMENT 'Who keeps the role: openedx-authz, course_access_role (the LMS itself) or other',
    actor Nullable(String) COMMENT 'Opaque id of who did it; NULL for the system (openedx-authz), else for unknown',
    recorded_at DateTime64(6, 'UTC') DEFAULT now64(6),
    INDEX by_event event TYPE bloom_filter GRANULARITY 1,
    INDEX by_subject subject TYPE bloom_filter GRANULARITY 1,
    INDEX by_time at TYPE minmax GRANULARITY 1
)
ENGINE = ${replicated}MergeTree
ORDER BY (scope, subject, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What changed something, of what events told. Left out are events that say what was so before, those that two doors have
-- recorded at the same moment, and, where openedx-authz keeps a role, those by which the LMS announces each change a second
-- time, within the minute and without who did it.
-- .. no_pii: as the table.
CREATE OR REPLACE VIEW $pii_ledger.role_changes $on_cluster AS
SELECT
    event,
    at,
    operation,
    subject,
    role,
    scope,
    source,
    actor
FROM
(
    SELECT
        *,
        lagInFrame(toString(operation)) OVER (
            PARTITION BY subject, role, scope, source ORDER BY at, event ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS operation_before
    FROM
    (
        SELECT
            *,
            source = 'course_access_role' AND arrayExists(
                moment -> abs(moment - toUnixTimestamp64Micro(at)) <= 60000000,
                groupArrayIf(toUnixTimestamp64Micro(at), source = 'openedx-authz')
                    OVER (PARTITION BY subject, role, scope, operation)
            ) AS is_repeated
        FROM $pii_ledger.role_assignments
    )
    WHERE NOT is_repeated
)
WHERE operation_before != operation;
