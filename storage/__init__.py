"""The memory: jobs, points, weights, events and uploads in SQLite or PostgreSQL."""

from storage.errors import (
    Conflict,
    Corrupt,
    Full,
    InvalidArray,
    InvalidDatabase,
    LeaseLost,
    NotFound,
    ReadOnly,
    SchemaMismatch,
    StorageError,
    Unavailable,
)
from storage.records import ENDED, Damage, Event, Job, JobState, Lease, Reclaimed, Request, Thinned, Upload, Wanted
from storage.store import Store

__all__ = [
    "ENDED",
    "Conflict",
    "Corrupt",
    "Damage",
    "Event",
    "Full",
    "InvalidArray",
    "InvalidDatabase",
    "Job",
    "JobState",
    "Lease",
    "LeaseLost",
    "NotFound",
    "ReadOnly",
    "Reclaimed",
    "Request",
    "SchemaMismatch",
    "StorageError",
    "Store",
    "Thinned",
    "Unavailable",
    "Upload",
    "Wanted",
]
