-- Learners that are shown to a viewer without a name.
{{ config(group='pii') }}

select
    course_key,
    count() as learners
from {{ ref('enrolled_learners') }}
where {{ visible_to("''", ref('viewer_scopes')) }}
group by course_key
