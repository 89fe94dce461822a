"""The small application of tables.py as SQLAlchemy's ORM maps it, its link filled by the database."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

import psycopg
from sqlalchemy import DateTime, Engine, FetchedValue, ForeignKey, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.pool import NullPool


class Base(MappedAsDataclass, DeclarativeBase):
    """What the models share."""

    type_annotation_map: ClassVar[dict[type, type[Text]]] = {str: Text}


class Flow(Base):
    """A master."""

    __tablename__ = "flow"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    created_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue(), init=False
    )


class Parent(Base):
    """A row whose link the application knows, or the transaction's setting."""

    __tablename__ = "parent"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    flow: Mapped[int | None] = mapped_column(
        server_default=FetchedValue(), server_onupdate=FetchedValue(), default=None
    )
    note: Mapped[str | None] = mapped_column(default=None)


class Child(Base):
    """A row whose link is its parent's."""

    __tablename__ = "child"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    parent: Mapped[int | None] = mapped_column(ForeignKey("parent.id", ondelete="CASCADE"), default=None)
    flow: Mapped[int | None] = mapped_column(
        server_default=FetchedValue(), server_onupdate=FetchedValue(), default=None
    )
    note: Mapped[str | None] = mapped_column(default=None)


class Grandchild(Base):
    """A row whose link is its child's, mapped as people map it who know nothing of triggers."""

    __tablename__ = "grandchild"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    child: Mapped[int | None] = mapped_column(ForeignKey("child.id", ondelete="CASCADE"), default=None)
    flow: Mapped[int | None] = mapped_column(default=None)
    note: Mapped[str | None] = mapped_column(default=None)


class Event(Base):
    """A row that probes find by time."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    flow: Mapped[int | None] = mapped_column(default=None)
    status: Mapped[str | None] = mapped_column(server_default="live", init=False)
    note: Mapped[str | None] = mapped_column(default=None)


class Probe(Base):
    """A row whose link is that of the event nearest in time."""

    __tablename__ = "probe"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int | None]
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    flow: Mapped[int | None] = mapped_column(
        server_default=FetchedValue(), server_onupdate=FetchedValue(), default=None
    )
    note: Mapped[str | None] = mapped_column(default=None)


def engine_for(dsn: str) -> Engine:
    """Connect SQLAlchemy by psycopg 3, without a pool: no connection outlives its use."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
