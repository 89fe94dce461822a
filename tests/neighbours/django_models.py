"""The small application of tables.py as Django maps it. Importing this configures Django, once in a process."""

from __future__ import annotations

import django
from django.conf import settings
from django.db import models

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}}, INSTALLED_APPS=[], USE_TZ=True)
django.setup()


class Flow(models.Model):
    """A master."""

    id = models.IntegerField(primary_key=True)
    tenant = models.IntegerField()

    class Meta:
        app_label = "neighbours"
        db_table = "flow"
        managed = False


class Parent(models.Model):
    """A row whose link the application knows, or the transaction's setting."""

    id = models.IntegerField(primary_key=True)
    tenant = models.IntegerField()
    flow = models.IntegerField(null=True, db_default=None)
    note = models.TextField(null=True)

    class Meta:
        app_label = "neighbours"
        db_table = "parent"
        managed = False


class Child(models.Model):
    """A row whose link is its parent's."""

    id = models.IntegerField(primary_key=True)
    tenant = models.IntegerField()
    parent = models.ForeignKey(Parent, models.DO_NOTHING, db_column="parent", null=True)
    flow = models.IntegerField(null=True, db_default=None)
    note = models.TextField(null=True)

    class Meta:
        app_label = "neighbours"
        db_table = "child"
        managed = False


class Event(models.Model):
    """A row that probes find by time."""

    id = models.IntegerField(primary_key=True)
    tenant = models.IntegerField()
    flow = models.IntegerField(null=True, db_default=None)
    at = models.DateTimeField()

    class Meta:
        app_label = "neighbours"
        db_table = "event"
        managed = False


class Probe(models.Model):
    """A row whose link is that of the event nearest in time."""

    id = models.IntegerField(primary_key=True)
    tenant = models.IntegerField()
    flow = models.IntegerField(null=True, db_default=None)
    at = models.DateTimeField()

    class Meta:
        app_label = "neighbours"
        db_table = "probe"
        managed = False


class PlainParent(models.Model):
    """The parent as people map it who know nothing of triggers."""

    id = models.IntegerField(primary_key=True)
    tenant = models.IntegerField()
    flow = models.IntegerField(null=True)
    note = models.TextField(null=True)

    class Meta:
        app_label = "neighbours"
        db_table = "parent"
        managed = False
