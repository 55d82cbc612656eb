-- Retirements that are listed more than once.
{{ config(group='pii') }}

select
    subject,
    request,
    count() as times_listed
from {{ ref('privacy_retirements') }}
group by subject, request
having count() != 1
