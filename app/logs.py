"""Logs as JSON lines on standard error, those of the standard library included."""

import logging
import sys
from contextlib import suppress

import structlog
from structlog.typing import Processor

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


class StandardError(logging.Handler):
    """Writes to whatever standard error is at the moment; to nobody where the process that read it is gone."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            sys.stderr.write(self.format(record) + "\n")


def configure(level: int = logging.INFO) -> None:
    """Send everything logged in this process to standard error, one JSON object a line."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, StandardError)]:
        root.removeHandler(handler)
    root.addHandler(_handler())
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))


def _handler() -> logging.Handler:
    handler = StandardError()
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=last))
    return handler
