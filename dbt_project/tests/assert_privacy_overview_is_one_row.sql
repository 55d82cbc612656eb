-- Whether the overview is anything but one row.
{{ config(group='pii') }}

select count() as overviews
from {{ ref('privacy_overview') }}
having count() != 1
