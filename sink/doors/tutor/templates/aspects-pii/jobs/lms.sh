{%- if ASPECTS_PII_WEB_JWT_USERS -%}
# The LMS refuses this while users are being retired; then the states stay as they are, and the driver says so.
./manage.py lms populate_retirement_states || echo "The retirement states were not changed. Run this when no retirement is under way: ./manage.py lms populate_retirement_states" >&2
{%- else -%}
echo "No user of a retirement driver is named in ASPECTS_PII_WEB_JWT_USERS: the retirement states stay as they are."
{%- endif %}
