"""How the LMS announces a retirement to the apps in its process."""

from django.dispatch import Signal

# With the user, at the end of `retire_misc`.
USER_RETIRE_LMS_MISC = Signal()
# With e-mail addresses old and new, and the user.
USER_RETIRE_MAILINGS = Signal()
# With the user, and since 2026 with `retired_username` and `retired_email`; before the account itself is saved.
USER_RETIRE_LMS_CRITICAL = Signal()
