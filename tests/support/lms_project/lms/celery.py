"""The LMS's own Celery application."""

from celery import Celery

APP = Celery("lms")
APP.config_from_object("django.conf:settings", namespace="CELERY")
