-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('xapi', 'xapi_events_all') }}
    {{ exact_scan() }}

),

-- One pass over the JSON; what is absent comes out empty.
parsed as (

    select
        event_id,
        emission_time,
        toString(event) as event,
        JSONExtract(
            event,
            'Tuple(
                verb Tuple(id String),
                actor Tuple(account Tuple(name String), mbox String, mbox_sha1sum String),
                object Tuple(id String),
                context Tuple(contextActivities Tuple(
                    parent Array(Tuple(id String, definition Tuple(type String))),
                    grouping Array(Tuple(id String, definition Tuple(type String)))
                ))
            )'
        ) as statement,
        statement.context.contextActivities as activities,
        -- The first that is a course; parents come before what they are grouped in.
        arrayFirst(
            activity -> activity.definition.type = {{ xapi_activity('course') }},
            arrayConcat(activities.parent, activities.grouping)
        ) as course
    from source

),

renamed as (

    select
        event_id,
        statement.verb.id as verb_id,
        coalesce(
            nullIf(statement.actor.account.name, ''), nullIf(statement.actor.mbox, ''), statement.actor.mbox_sha1sum
        ) as actor_id,
        statement.object.id as object_id,
        if(course.id != '', course.id, object_id) as course_id,
        emission_time,
        event
    from parsed

),

shown as (

    select * from renamed
    where {{ is_no_restricted_actor('actor_id', 'event', ref('stg_event_sink__restricted_actors')) }}

)

select * from shown
