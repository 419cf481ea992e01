"""What can go wrong in the service, beside what the engine and the store refuse; each text is one sentence."""

DAMAGED_TYPE = "urn:paretopath:damaged"


class AppError(Exception):
    """Base of all intended errors of the service and the command line."""


class Forbidden(AppError):
    """Something that this service's operator does not allow."""


class Lacking(AppError):
    """Something that this installation lacks."""


class Refused(AppError):
    """The server asked said no, or nothing."""


class ExposureRefused(AppError):
    """The service would be reachable from other machines without a token."""


class AddressTaken(AppError):
    """The service cannot listen where it should."""
