-- .. pii: Who a learner is, the latest version only, without retired or restricted subjects.
-- .. pii_types: id, name, username, email_address, location, birth_date, gender, other
-- .. pii_retirement: consumer_api
with

withheld as (

    select user_id from {{ ref('stg_pii_ledger__withheld') }}

),

visible as (

    select * from {{ ref('base_event_sink__user_profiles') }}
    where {{ 'true' if pii_enabled() else 'false' }} and user_id not in (select user_id from withheld)

),

-- Not FINAL: upstream's table never replaces a version, and a unit test puts a CTE in the place of the table.
latest as (

    select
        user_id,
        username,
        name,
        email,
        country,
        state,
        gender,
        level_of_education,
        year_of_birth
    from visible
    order by time_last_dumped desc, profile_id desc
    limit 1 by user_id

)

select * from latest
