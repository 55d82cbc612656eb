"""What an LMS does to users, each step in a transaction as its views are; they speak of users by id."""

import hashlib
import json
import sys
import uuid

from common.djangoapps.student.models import CourseAccessRole, CourseEnrollment, UserProfile
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from openedx.core.djangoapps.external_user_ids.models import ExternalId, ExternalIdType
from openedx.core.djangoapps.user_api.accounts.signals import (
    USER_RETIRE_LMS_CRITICAL,
    USER_RETIRE_LMS_MISC,
    USER_RETIRE_MAILINGS,
)
from openedx.core.djangoapps.user_api.models import RetirementState, UserRetirementRequest, UserRetirementStatus
from openedx_events.learning.data import CourseAccessRoleData, UserData, UserPersonalData
from openedx_events.learning.signals import COURSE_ACCESS_ROLE_ADDED, COURSE_ACCESS_ROLE_REMOVED

from tests.support.authz_events import send_assignment

STATES = (
    "PENDING",
    "RETIRING_LMS_MISC",
    "LMS_MISC_COMPLETE",
    "RETIRING_LMS",
    "LMS_COMPLETE",
    "ERRORED",
    "ABORTED",
    "COMPLETE",
)
_CLEARED = {
    **{"name": "", "meta": "", "location": "", "year_of_birth": None, "gender": None, "mailing_address": None},
    **{"city": None, "country": None, "bio": None, "phone_number": None},
}


class Refused(Exception):
    """A step that fails on purpose."""


def migrate():
    """Make the tables, and what an LMS has from the start."""
    from django.core.management import call_command

    # The accounts first: the other tables refer to them.
    call_command("migrate", verbosity=0)
    call_command("migrate", run_syncdb=True, verbosity=0)
    populate_retirement_states()


def populate_retirement_states():
    """What the command of this name does."""
    for order, name in enumerate(STATES):
        dead_end = name in ("ERRORED", "ABORTED", "COMPLETE")
        RetirementState.objects.get_or_create(
            state_name=name, state_execution_order=order, is_dead_end_state=dead_end, required=dead_end
        )
    ExternalIdType.objects.get_or_create(name="xapi", description="xAPI")


@transaction.atomic
def create_user(username, email, name="", **profile):
    """Register; returns the id."""
    user = User.objects.create(username=username, email=email, password="!")
    UserProfile.objects.create(user=user, name=name, **profile)
    ExternalId.objects.create(user=user, external_id_type=ExternalIdType.objects.get(name="xapi"))
    return user.pk


@transaction.atomic
def create_users(count, prefix):
    """Many at once, without signals, as an import does; returns their ids."""
    users = [User(username=f"{prefix}{n}", email=f"{prefix}{n}@example.com", password="!") for n in range(count)]
    User.objects.bulk_create(users)
    users = list(User.objects.filter(username__startswith=prefix).order_by("pk"))
    UserProfile.objects.bulk_create(UserProfile(user=user, name=f"Name {user.username}") for user in users)
    kind = ExternalIdType.objects.get(name="xapi")
    ExternalId.objects.bulk_create(ExternalId(user=user, external_id_type=kind) for user in users)
    return [user.pk for user in users]


@transaction.atomic
def change_profile(user_id, times=1, **fields):
    """The account page; some of its forms save the profile more than once."""
    profile = UserProfile.objects.get(user_id=user_id)
    for name, value in fields.items():
        setattr(profile, name, value)
    for _ in range(times):
        profile.save()


def change_profile_and_fail(user_id, **fields):
    """A request that is rolled back at its end."""
    try:
        with transaction.atomic():
            change_profile(user_id, **fields)
            raise Refused
    except Refused:
        return "rolled back"


@transaction.atomic
def change_profile_after_savepoint(first, second):
    """One change inside a savepoint that is rolled back, then another one."""
    change_profile_and_fail(first, goals="never")
    change_profile(second, goals="to stay")


def change_profiles(user_ids, **fields):
    """Several users in one transaction."""
    with transaction.atomic():
        for user_id in user_ids:
            change_profile(user_id, **fields)


@transaction.atomic
def change_email(user_id, email):
    """Confirming a new address saves only the account."""
    user = User.objects.get(pk=user_id)
    user.email = email
    user.save()


def log_in(user_id):
    """Saves the time of login and nothing else."""
    user = User.objects.get(pk=user_id)
    user.last_login = timezone.now()
    user.save(update_fields=["last_login"])


@transaction.atomic
def set_login_session(user_id, session_id, company=None):
    """What a login does where PREVENT_CONCURRENT_LOGINS is on; a field of the registration form may come with it."""
    profile = UserProfile.objects.get(user_id=user_id)
    meta = json.loads(profile.meta or "{}") | {"session_id": session_id}
    profile.meta = json.dumps(meta if company is None else {**meta, "company": company})
    profile.save()


@transaction.atomic
def add_role(user_id, course_id, org="", role="staff"):
    """The course team page."""
    CourseAccessRole.objects.create(user_id=user_id, org=org, course_id=course_id, role=role)


@transaction.atomic
def remove_role(user_id, course_id, role="staff"):
    """The course team page."""
    for access in CourseAccessRole.objects.filter(user_id=user_id, course_id=course_id, role=role):
        access.delete()


@transaction.atomic
def assign_role(user_id, scope, actor_id=None, event="assigned"):
    """openedx-authz's way, which tells of it after the transaction, by name."""
    username = User.objects.get(pk=user_id).username
    transaction.on_commit(lambda: send_assignment(event, username, actor_id, scope))


def assign_role_to_nobody(username, scope):
    """An event about a name that no account has."""
    send_assignment("assigned", username, None, scope)


def announce_role(user_id, course_id, event="added"):
    """The LMS's own event; without a course for a whole organisation."""
    user = User.objects.get(pk=user_id)
    pii = UserPersonalData(username=user.username, email=user.email)
    signal = COURSE_ACCESS_ROLE_ADDED if event == "added" else COURSE_ACCESS_ROLE_REMOVED
    signal.send_event(
        course_access_role_data=CourseAccessRoleData(
            user=UserData(id=user.id, is_active=True, pii=pii), org_key="Org", course_key=course_id, role="staff"
        )
    )


@transaction.atomic
def retire_from_openedx_authz(user_id, scope):
    """It takes a retired user's roles, by a name that the account has no more when the event is sent."""
    assign_role(user_id, scope, event="unassigned")
    user = User.objects.get(pk=user_id)
    user.username = _retired(user.username)
    user.save()


@transaction.atomic
def enroll(user_id, course_id):
    """Take a course."""
    CourseEnrollment.objects.create(user_id=user_id, course_id=course_id)


@transaction.atomic
def reset_external_id(user_id):
    """A new anonymous id."""
    external = ExternalId.objects.get(user_id=user_id)
    external.external_user_id = uuid.uuid4()
    external.save()
    return str(external.external_user_id)


def _retired(value):
    return f"retired__user_{hashlib.sha1(b'salt' + value.lower().encode()).hexdigest()}"


def _move(status, name):
    status.last_state, status.current_state = status.current_state, RetirementState.objects.get(state_name=name)
    status.save()


@transaction.atomic
def request_retirement(user_id):
    """The learner asks: name and username stay, the address goes."""
    user = User.objects.get(pk=user_id)
    pending = RetirementState.objects.get(state_name="PENDING")
    UserRetirementStatus.objects.create(
        user=user,
        original_username=user.username,
        original_email=user.email,
        original_name=user.profile.name,
        retired_username=_retired(user.username),
        retired_email=f"{_retired(user.email)}@retired.invalid",
        current_state=pending,
        last_state=pending,
        responses="",
    )
    UserRetirementRequest.objects.create(user=user)
    user.email = f"{_retired(user.email)}@retired.invalid"
    user.set_unusable_password()
    user.save()


@transaction.atomic
def cancel_retirement(user_id):
    """Within the time for second thoughts."""
    status = UserRetirementStatus.objects.get(user_id=user_id)
    user = User.objects.get(pk=user_id)
    user.email = status.original_email
    user.save()
    status.delete()
    UserRetirementRequest.objects.get(user_id=user_id).delete()


@transaction.atomic
def start_retirement(user_id):
    """What the driver does first, once the time for second thoughts is over."""
    _move(UserRetirementStatus.objects.get(user_id=user_id), "RETIRING_LMS_MISC")


@transaction.atomic
def retire_misc(user_id):
    """The driver's call of `retire_misc`."""
    user = User.objects.get(pk=user_id)
    status = UserRetirementStatus.objects.get(user_id=user_id)
    USER_RETIRE_LMS_MISC.send(sender="LMSAccountRetirementView", user=user)
    USER_RETIRE_MAILINGS.send(
        sender="LMSAccountRetirementView", email=status.original_email, new_email=status.retired_email, user=user
    )


@transaction.atomic
def retire(user_id, older_release=False, fail=False):
    """The driver's call of `retire`: the profile is saved twice, then the signal, then the account."""
    user = User.objects.get(pk=user_id)
    status = UserRetirementStatus.objects.get(user_id=user_id)
    _move(status, "RETIRING_LMS")
    for name, value in _CLEARED.items():
        setattr(user.profile, name, value)
    user.profile.save()
    user.profile.profile_image_uploaded_at = None
    user.profile.save()
    new = {"retired_username": status.retired_username, "retired_email": status.retired_email}
    USER_RETIRE_LMS_CRITICAL.send(sender="AccountRetirementView", user=user, **({} if older_release else new))
    if fail:
        raise Refused
    user.first_name, user.last_name, user.is_active = "", "", False
    user.username, user.email = status.retired_username, status.retired_email
    user.save()


@transaction.atomic
def send_event(event_type, user_id):
    """Send an event of openedx-events about a user."""
    from openedx_events.learning.data import UserData, UserPersonalData
    from openedx_events.tooling import OpenEdxPublicSignal

    user = User.objects.get(pk=user_id)
    pii = UserPersonalData(username=user.username, email=user.email, name=user.profile.name)
    signal = OpenEdxPublicSignal.get_signal_by_type(event_type)
    signal.send_event(user=UserData(id=user.pk, is_active=user.is_active, pii=pii))


@transaction.atomic
def complete_retirement(user_id):
    """The driver's last step."""
    _move(UserRetirementStatus.objects.get(user_id=user_id), "COMPLETE")


@transaction.atomic
def clean_up_retirement(user_id):
    """`retirement_cleanup`: the status goes, the request stays."""
    status = UserRetirementStatus.objects.get(user_id=user_id)
    status.original_username = status.original_name = status.original_email = "redacted"
    status.save()
    status.delete()


def run_retirement(user_id, **options):
    """All of the driver's steps for one user who has asked."""
    start_retirement(user_id)
    retire_misc(user_id)
    retire(user_id, **options)
    complete_retirement(user_id)


def load_fixture(path):
    """`loaddata`."""
    from django.core.management import call_command

    call_command("loaddata", path, verbosity=0)


def call_command(name, arguments=()):
    """A command from code."""
    from django.core.management import call_command

    call_command(name, "--", *arguments)


def list_modules(*names):
    """Which of these modules this process has imported."""
    return sorted(name for name in names if name in sys.modules)


def name_celery_app():
    """Celery's current application."""
    from celery import current_app

    return current_app.main


def read_setting(name):
    """A setting, as JSON has it."""
    from django.conf import settings

    return json.loads(json.dumps(getattr(settings, name, None), default=str))


def change_setting(name, value):
    """Until the end of this process."""
    from django.conf import settings

    setattr(settings, name, value)


def forget_failures():
    """As if the broker had never failed."""
    from sink.doors.plugin import sender

    sender._pause.end()
