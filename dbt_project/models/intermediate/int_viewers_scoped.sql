-- .. pii: Who may see which course's learners, by user name, or by a keyed digest of it where PII is off.
-- .. pii_types: id, username
-- .. pii_retirement: consumer_api
with

restrictions as (

    select user_id from {{ ref('stg_pii_ledger__restrictions') }}

),

{% if pii_enabled() %}
roles as (

    select * from {{ ref('stg_event_sink__course_access') }}
    where role in {{ viewer_roles() }}

),

-- Whoever is restricted logs in all the same: their name stays theirs, and goes to nobody else with an old copy.
taken as (

    select argMax(base.username, (base.time_last_dumped, base.profile_id)) as username
    from {{ ref('base_event_sink__user_profiles') }} as base
    where base.user_id in (select user_id from restrictions)
    group by base.user_id

),

-- The name as the profile has it, the one that is copied with every change. One that would fit two people, as when an
-- account was renamed and another took the name before it was copied again, is nobody's.
people as (

    select
        username as viewer,
        any(user_id) as user_id
    from {{ ref('stg_event_sink__user_profiles') }}
    where username != '' and username not in (select username from taken)
    group by username
    having count() = 1

),

held as (

    select
        people.viewer as viewer,
        roles.org as org,
        roles.course_key as course_key
    from roles
    inner join people on roles.user_id = people.user_id

),
{% else %}
roles as (

    select
        *,
        min(user_id) over (partition by viewer) as first_user,
        max(user_id) over (partition by viewer) as last_user
    from {{ ref('stg_event_sink__course_access_keyed') }}

),

taken as (

    select viewer from {{ ref('base_event_sink__course_access_keyed') }}
    where user_id in (select user_id from restrictions)

),

-- As with names: a digest of two people is nobody's.
held as (

    select
        viewer,
        org,
        course_key
    from roles
    where
        first_user = last_user
        and role in {{ viewer_roles() }}
        and viewer not in (select viewer from taken)

),
{% endif %}

scoped as (

    select distinct
        viewer,
        multiIf(course_key != '', 'course', org != '', 'org', 'global') as scope,
        org,
        course_key
    from held

)

select * from scoped
