-- .. pii: What events call restricted subjects, where the LMS names actors by e-mail address.
-- .. pii_types: email_address
-- .. pii_retirement: consumer_api
with

restrictions as (

    select user_id from {{ ref('stg_pii_ledger__restrictions') }}

),

-- Of retired subjects the statements themselves are changed.
profiles as (

    select email from {{ ref('base_event_sink__user_profiles') }}
    where user_id in (select user_id from restrictions) and email != ''

),

-- An LMS writes addresses as they were typed, or in lower case.
named as (

    select
        arrayJoin([
            lower(concat('mailto:', email)),
            lower(hex(SHA1(concat('mailto:', email)))),
            lower(hex(SHA1(concat('mailto:', lower(email)))))
        ]) as actor_id
    from profiles

)

select distinct actor_id from named
