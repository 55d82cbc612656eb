-- .. no_pii: SHA-256 digests, by which statements are left out and nobody is shown.
with

restrictions as (

    select user_id from {{ ref('stg_pii_ledger__restrictions') }}

),

-- Of retired subjects the statements themselves are changed.
profiles as (

    select email from {{ ref('base_event_sink__user_profiles') }}
    where user_id in (select user_id from restrictions) and email != ''

),

-- What events call them, where the LMS names actors by e-mail address: as it was typed, or in lower case.
named as (

    select
        arrayJoin([
            lower(concat('mailto:', email)),
            lower(hex(SHA1(concat('mailto:', email)))),
            lower(hex(SHA1(concat('mailto:', lower(email)))))
        ]) as actor
    from profiles

)

select distinct lower(hex(SHA256(actor))) as digest from named
