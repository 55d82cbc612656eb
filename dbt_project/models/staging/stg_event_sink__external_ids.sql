-- .. pii: Which anonymous id in the events is which user, without retired or restricted subjects.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

withheld as (

    select user_id from {{ ref('stg_pii_ledger__withheld') }}

),

visible as (

    select * from {{ ref('base_event_sink__external_ids') }}
    where
        {{ 'true' if pii_enabled() else 'false' }}
        and external_id_type = 'xapi'
        and user_id not in (select user_id from withheld)

),

-- By external id, so that an actor is one subject at most.
latest as (

    select
        user_id,
        external_user_id
    from visible
    order by time_last_dumped desc, user_id desc
    limit 1 by external_user_id

)

select * from latest
