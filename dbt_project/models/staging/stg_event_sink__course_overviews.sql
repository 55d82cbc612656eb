-- .. no_pii: courses, not people.
with

source as (

    select * from {{ source('event_sink', 'course_overviews') }}
    {{ exact_scan() }}

),

latest as (

    select * from source
    order by time_last_dumped desc, modified desc
    limit 1 by course_key

),

renamed as (

    select
        course_key,
        org,
        display_name as course_name,
        {{ course_run('course_key') }} as course_run
    from latest

)

select * from renamed
