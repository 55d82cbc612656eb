"""The anonymous ids under which users appear in events."""

import uuid

from django.contrib.auth.models import User
from django.db import models


class ExternalIdType(models.Model):
    """What an id is for."""

    created = models.DateTimeField(auto_now_add=True)
    modified = models.DateTimeField(auto_now=True)
    name = models.CharField(max_length=32, unique=True, db_index=True)
    description = models.TextField()

    class Meta:
        app_label = "external_user_ids"


class ExternalId(models.Model):
    """One user's id of one type."""

    created = models.DateTimeField(auto_now_add=True)
    modified = models.DateTimeField(auto_now=True)
    external_user_id = models.UUIDField(default=uuid.uuid4, editable=False, unique=True)
    external_id_type = models.ForeignKey(ExternalIdType, on_delete=models.CASCADE)
    user = models.ForeignKey(User, on_delete=models.CASCADE)

    class Meta:
        app_label = "external_user_ids"
        unique_together = (("user", "external_id_type"),)
