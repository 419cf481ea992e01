"""What can go wrong in the memory.

::

    StorageError
    ├── NotFound         no such job, point or upload
    ├── Conflict         the request does not fit what is stored
    ├── LeaseLost        another worker has the job, or it has ended: stop working on it
    ├── SchemaMismatch   the database was made by another version
    ├── Corrupt          stored bytes are not what was written
    ├── InvalidArray     an array that cannot be stored
    ├── InvalidDatabase  a database address that cannot work
    └── Unavailable      the database does not answer; asking again later may help
        ├── Full         it has no room for more
        └── ReadOnly     it takes no writes
"""


class StorageError(Exception):
    """Base of all intended errors; its text is one sentence fit for a user."""


class NotFound(StorageError):
    """No such job, point or upload."""


class Conflict(StorageError):
    """The request does not fit what is stored."""


class LeaseLost(StorageError):
    """The worker's lease was taken over, or the job has ended; nothing was written."""


class SchemaMismatch(StorageError):
    """The database's tables are not those of this version; the text tells what to run."""


class Corrupt(StorageError):
    """Stored bytes are not what was written."""


class InvalidArray(StorageError):
    """An array that cannot be stored; the text names its type and those that can."""


class InvalidDatabase(StorageError):
    """A database address that cannot work; the text names those that do."""


class Unavailable(StorageError):
    """The database does not answer, or stayed locked for too long; asking again later may help."""


class Full(Unavailable):
    """The database has no room for more; nothing was written."""


class ReadOnly(Unavailable):
    """The database takes no writes."""
