"""The memory: jobs, points, weights, events and uploads in SQLite or PostgreSQL."""

from storage.errors import (
    Conflict,
    Corrupt,
    InvalidArray,
    InvalidDatabase,
    LeaseLost,
    NotFound,
    SchemaMismatch,
    StorageError,
    Unavailable,
)
from storage.records import ENDED, Event, Job, JobState, Lease, Request, Upload, Wanted
from storage.store import Store

__all__ = [
    "ENDED",
    "Conflict",
    "Corrupt",
    "Event",
    "InvalidArray",
    "InvalidDatabase",
    "Job",
    "JobState",
    "Lease",
    "LeaseLost",
    "NotFound",
    "Request",
    "SchemaMismatch",
    "StorageError",
    "Store",
    "Unavailable",
    "Upload",
    "Wanted",
]
