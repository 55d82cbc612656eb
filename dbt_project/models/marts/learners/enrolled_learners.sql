-- .. pii: Who is or was enrolled in a course and how to reach them.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

enrollments as (

    select * from {{ ref('int_enrollments_by_learner') }}

),

contacts as (

    select * from {{ ref('int_contacts_listed') }}

),

courses as (

    select * from {{ ref('stg_event_sink__course_overviews') }}

)

select
    enrollments.org as org,
    enrollments.course_key as course_key,
    courses.course_name as course_name,
    {{ course_run('enrollments.course_key') }} as course_run,
    enrollments.enrollment_mode as enrollment_mode,
    enrollments.enrollment_status as enrollment_status,
    enrollments.enrolled_at as enrolled_at,
    enrollments.status_changed_at as status_changed_at,
    enrollments.user_id as user_id,
    contacts.external_user_id as external_user_id,
    contacts.username as username,
    contacts.name as name,
    contacts.email as email
from enrollments
left join courses on enrollments.course_key = courses.course_key
{% if pii_enabled() %}inner{% else %}left{% endif %} join contacts on enrollments.user_id = contacts.user_id
