-- .. pii: How learners are shown: how to reach them, or, while PII is off, the key of their pseudonyms.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

{% if pii_enabled() %}
profiles as (

    select * from {{ ref('stg_event_sink__user_profiles') }}

),

-- One id a subject, or a subject with two would count twice.
external_ids as (

    select
        user_id,
        toNullable(max(stg.external_user_id)) as external_user_id
    from {{ ref('stg_event_sink__external_ids') }} as stg
    group by user_id

),

-- Left: where the LMS names its actors by e-mail address, nobody has an external id.
shown as (

    select
        profiles.user_id as user_id,
        external_ids.external_user_id as external_user_id,
        profiles.username as username,
        profiles.name as name,
        profiles.email as email,
        '' as inner_pad,
        '' as outer_pad
    from profiles
    left join external_ids on profiles.user_id = external_ids.user_id

)
{% else %}
keys as (

    select * from {{ ref('stg_pii_ledger__pseudonym_keys') }}

),

-- Everybody is user 0. Without a key there is no row: a pseudonym without one could be computed by anybody.
shown as (

    select
        toInt64(0) as user_id,
        cast(null as Nullable(UUID)) as external_user_id,
        '' as username,
        '' as name,
        '' as email,
        inner_pad,
        outer_pad
    from keys

)
{% endif %}

select * from shown
