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
        {{ course_key_part('course_key', 'run') }} as course_run,
        -- Upstream writes 0 where the LMS knows of none.
        nullIf(JSONExtract(course_data_json, 'lowest_passing_grade', 'Nullable(Float64)'), 0) as passing_grade
    from latest

)

select * from renamed
