-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('xapi', 'xapi_events_all') }}
    {{ exact_scan() }}

),

renamed as (

    select
        event_id,
        emission_time,
        toString(event) as event
    from source

)

select * from renamed
