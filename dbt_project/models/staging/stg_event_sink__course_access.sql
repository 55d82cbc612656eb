-- .. pii: Which user has which role in which course, without retired or restricted subjects.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

withheld as (

    select user_id from {{ ref('stg_pii_ledger__withheld') }}

),

visible as (

    select * from {{ ref('base_event_sink__course_access') }}
    where {{ 'true' if pii_enabled() else 'false' }} and user_id not in (select user_id from withheld)

),

latest as (

    select
        user_id,
        org,
        course_key,
        role
    from visible
    order by time_last_dumped desc
    limit 1 by user_id, org, course_key, role

)

select * from latest
