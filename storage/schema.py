"""Which tables a database has, and bringing them up to date."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from storage.errors import SchemaMismatch

FOLDER = Path(__file__).parent / "migrations"


def config(connection: Connection | None = None) -> Config:
    """Alembic's settings, to work on an open connection."""
    settings = Config()
    settings.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


def migrate(connection: Connection) -> None:
    """Bring the tables to this version, keeping what they hold.

    Raises
    ------
    SchemaMismatch
        If the database was made by a newer version.
    """
    refuse_newer(revision(connection))
    command.upgrade(config(connection), "head")


def check(connection: Connection) -> None:
    """Do nothing where the tables are those of this version.

    Raises
    ------
    SchemaMismatch
        If they are not; the text tells what to run.
    """
    found, head = revision(connection), ScriptDirectory.from_config(config()).get_current_head()
    refuse_newer(found)
    if found != head:
        state = f"at revision {found}" if found else "empty"
        raise SchemaMismatch(f"the database is {state}, this version needs {head}; run `paretopath migrate`")


def revision(connection: Connection) -> str | None:
    """The database's revision, None where it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def refuse_newer(found: str | None) -> None:
    """Refuse tables of a revision that this version does not know.

    Raises
    ------
    SchemaMismatch
    """
    known = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"the database is at revision {found}, which this version does not know (it knows {', '.join(known)}); "
            "upgrade paretopath"
        )
