"""The small application of tables.py as what a template database is filled with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TypeAlias

from engine import tables
from engine.postgres import Connection

Fill: TypeAlias = Callable[[Connection], None]
"""Puts into a database with the engine what tests begin with."""
Template: TypeAlias = Callable[[Fill], str]
"""The fixture `template`: the name of a database that was filled so, made once."""
Copy: TypeAlias = Callable[[Fill], Connection]
"""The fixture `copy`: a connection to a new copy of it."""


@cache
def small_application(mode: str) -> Fill:
    """Give what puts the small application, guarded in a mode, into a database."""
    return partial(tables.guarded, mode=mode)
