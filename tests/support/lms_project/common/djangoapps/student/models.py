"""Profiles and roles, with the columns of the LMS."""

from django.contrib.auth.models import User
from django.db import models
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver


class UserProfile(models.Model):
    """What a learner has told about herself."""

    user = models.OneToOneField(User, related_name="profile", on_delete=models.CASCADE)
    name = models.CharField(blank=True, max_length=255, db_index=True)
    meta = models.TextField(blank=True)
    courseware = models.CharField(blank=True, max_length=255, default="course.xml")
    language = models.CharField(blank=True, max_length=255, db_index=True)
    location = models.CharField(blank=True, max_length=255, db_index=True)
    year_of_birth = models.IntegerField(blank=True, null=True, db_index=True)
    gender = models.CharField(blank=True, null=True, max_length=6)
    level_of_education = models.CharField(blank=True, null=True, max_length=6)
    mailing_address = models.TextField(blank=True, null=True)
    city = models.TextField(blank=True, null=True)
    country = models.CharField(blank=True, null=True, max_length=2)
    state = models.CharField(blank=True, null=True, max_length=2)
    goals = models.TextField(blank=True, null=True)
    bio = models.CharField(blank=True, null=True, max_length=3000)
    profile_image_uploaded_at = models.DateTimeField(null=True, blank=True)
    phone_number = models.CharField(blank=True, null=True, max_length=50)

    class Meta:
        app_label = "student"
        db_table = "auth_userprofile"


@receiver(pre_save, sender=UserProfile)
def remember_changes(sender, instance, **_):
    """What the LMS's receiver does: the former values of the fields that differ; none of a new profile."""
    old = sender.objects.filter(pk=instance.pk).first()
    names = [field.name for field in sender._meta.get_fields() if not field.is_relation] if old else []
    former = {name: (getattr(old, name), getattr(instance, name)) for name in names}
    instance._changed_fields = {name: was for name, (was, now) in former.items() if was != now}


@receiver(post_save, sender=UserProfile)
def forget_changes(sender, instance, **_):
    """What the LMS's receiver does, once it has told its trackers."""
    del instance._changed_fields


class CourseAccessRole(models.Model):
    """Who may do what in which course."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    org = models.CharField(max_length=64, db_index=True, blank=True)
    course_id = models.CharField(max_length=255, db_index=True, blank=True)
    role = models.CharField(max_length=64, db_index=True)

    class Meta:
        app_label = "student"
        unique_together = ("user", "org", "course_id", "role")


class CourseEnrollment(models.Model):
    """Who takes which course."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    course_id = models.CharField(max_length=255, db_index=True)
    created = models.DateTimeField(auto_now_add=True, null=True)
    is_active = models.BooleanField(default=True)
    mode = models.CharField(default="audit", max_length=100)

    class Meta:
        app_label = "student"
        unique_together = ("user", "course_id")
