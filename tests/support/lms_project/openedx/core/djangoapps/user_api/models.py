"""How far each retirement is."""

from django.contrib.auth.models import User
from django.db import models


class RetirementState(models.Model):
    """A state that the operator has configured."""

    state_name = models.CharField(max_length=30, unique=True)
    state_execution_order = models.SmallIntegerField(unique=True)
    is_dead_end_state = models.BooleanField(default=False, db_index=True)
    required = models.BooleanField(default=False)

    class Meta:
        app_label = "user_api"


class UserRetirementRequest(models.Model):
    """That a user asked for it; stays for good unless it is cancelled."""

    created = models.DateTimeField(auto_now_add=True)
    modified = models.DateTimeField(auto_now=True)
    user = models.OneToOneField(User, on_delete=models.CASCADE)

    class Meta:
        app_label = "user_api"


class UserRetirementStatus(models.Model):
    """Where it stands, and who the user was; goes when the operator cleans up."""

    created = models.DateTimeField(auto_now_add=True)
    modified = models.DateTimeField(auto_now=True)
    user = models.OneToOneField(User, on_delete=models.CASCADE)
    original_username = models.CharField(max_length=150, db_index=True)
    original_email = models.EmailField(db_index=True)
    original_name = models.CharField(max_length=255, blank=True, db_index=True)
    retired_username = models.CharField(max_length=150, db_index=True)
    retired_email = models.EmailField(db_index=True)
    current_state = models.ForeignKey(RetirementState, related_name="current_state", on_delete=models.CASCADE)
    last_state = models.ForeignKey(RetirementState, related_name="last_state", blank=True, on_delete=models.CASCADE)
    responses = models.TextField()

    class Meta:
        app_label = "user_api"
