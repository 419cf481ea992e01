"""Ways to run workers: processes beside the service, or none of its own."""

from app.executors.base import Executor

__all__ = ["Executor"]
