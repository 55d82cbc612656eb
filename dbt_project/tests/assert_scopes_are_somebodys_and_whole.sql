-- Scopes of nobody, of an empty name, and scopes without what they are about.
{{ config(group='pii') }}

with

nobody as (

    select scope from {{ ref('viewer_scopes') }}(viewer = '')

),

malformed as (

    select scope from {{ ref('int_viewers_scoped') }}
    where
        viewer = ''
        or (scope = 'course') != (course_key != '')
        or (scope = 'org') != (course_key = '' and org != '')

)

select scope from nobody
union all
select scope from malformed
