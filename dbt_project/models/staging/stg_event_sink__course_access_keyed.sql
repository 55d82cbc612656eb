-- .. pii: Which user has which role in which course, by a keyed digest, without retired or restricted subjects.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

withheld as (

    select user_id from {{ ref('stg_pii_ledger__withheld') }}

),

-- Empty while PII is on: then names count, and what was stored of digests may be old.
visible as (

    select * from {{ ref('base_event_sink__course_access_keyed') }}
    where {{ 'false' if pii_enabled() else 'true' }} and user_id not in (select user_id from withheld)

),

latest as (

    select
        user_id,
        viewer,
        org,
        course_key,
        role
    from visible
    order by time_last_dumped desc
    limit 1 by user_id, org, course_key, role

)

select * from latest
