"""What the service asks of whatever runs its workers."""

from typing import Protocol


class Executor(Protocol):
    """Starts workers; the database stays the only truth about jobs."""

    def launch(self, job_id: int) -> None:
        """Start a worker on a job, or as soon as a slot is free."""

    def stop(self, job_id: int) -> None:
        """See to it that the job's worker is gone before long; it has been asked to stop already."""

    def slots(self) -> int:
        """How many jobs can run at a time."""
