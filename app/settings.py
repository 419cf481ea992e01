"""What an operator can set, from the environment: ``PARETOPATH_HOST``, ``PARETOPATH_DATABASE_URL`` and so on."""

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ExposureRefused

MEBIBYTE = 1024**2


class Settings(BaseSettings):
    """Settings of the service, the worker and the command line.

    Parameters
    ----------
    data_dir : Path
        Folder of the default database and of downloaded data sets.
    database_url : str
        ``sqlite:///file.db`` or ``postgresql://user@host/name``; a SQLite file in `data_dir` by default.
    host, port
        Where the service listens; port 0 takes a free one.
    token : str, optional
        Asked of every caller once set (``Authorization: Bearer``, or as the password of HTTP Basic);
        needed to listen on other than a loopback address.
    allowed_hosts : list of str
        Names the service answers to beside its own address; ``["*"]`` for any.
    allow_paths : bool
        Let callers of the service name files as data and import paths as networks.
    executor : {"local", "ray", "none"}
        ``local`` starts workers beside the service; ``ray`` starts them on a Ray cluster; ``none`` leaves the jobs to
        ``paretopath worker``.
    slots : int, optional
        Jobs at a time; one per GPU of this machine by default, one without a GPU. On Ray as many as the cluster takes.
    threads : int, optional
        CPU threads that each worker may take; all cores shared among the slots by default, on Ray one.
    max_memory_bytes : int, optional
        Memory that a worker may take beside what it shares; a job that needs more fails.
    ray_address : str
        Of the cluster, as ``ray.init`` takes it.
    ray_gpus : float, optional
        GPUs of each job on the cluster; one by default where it has any.
    max_upload_bytes : int
        Largest accepted request body.
    lease_seconds, heartbeat_seconds : float
        A worker that has not renewed its lease for `lease_seconds` is taken for dead; it renews every
        `heartbeat_seconds`, which is also how soon it learns of a cancellation.
    patience_seconds : float
        How long a worker with a network in hand waits for a database that does not answer, is full or takes no writes.
    grace_seconds : float
        How long a worker may go on after a cancellation before it is killed. One that is to give its job back may
        spend half of it on finishing the point it is at.
    poll_seconds : float
        How often the service looks for news in the database.
    """

    model_config = SettingsConfigDict(env_prefix="PARETOPATH_", extra="ignore")

    data_dir: Path = Path("data")
    database_url: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    token: SecretStr | None = Field(default=None, min_length=16)
    allowed_hosts: list[str] = []
    allow_paths: bool = False
    executor: Literal["local", "ray", "none"] = "local"
    slots: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    max_memory_bytes: int | None = Field(default=None, ge=1)
    ray_address: str = "auto"
    ray_gpus: float | None = Field(default=None, ge=0)
    max_upload_bytes: int = Field(default=512 * MEBIBYTE, ge=1)
    lease_seconds: float = Field(default=20.0, gt=0)
    heartbeat_seconds: float = Field(default=0.5, gt=0)
    patience_seconds: float = Field(default=600.0, ge=0)
    grace_seconds: float = Field(default=20.0, gt=0)
    poll_seconds: float = Field(default=0.25, gt=0)

    @property
    def url(self) -> str:
        """The database; makes the data folder where the default needs it."""
        if self.database_url:
            return self.database_url
        self.data_dir.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{self.data_dir.absolute() / 'paretopath.db'}"

    def for_worker(self, threads: int) -> dict[str, str]:
        """The variables by which a worker that this process starts elsewhere gets the same settings."""
        names = ("lease_seconds", "heartbeat_seconds", "grace_seconds", "patience_seconds", "max_memory_bytes")
        given = {name: getattr(self, name) for name in names}
        given |= {"database_url": self.url, "data_dir": self.data_dir, "threads": threads}
        return {f"PARETOPATH_{name.upper()}": str(value) for name, value in given.items() if value is not None}

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check_exposure(self) -> None:
        """Refuse to be reachable from other machines without a token.

        Raises
        ------
        ExposureRefused
        """
        if not self.on_loopback and self.token is None:
            raise ExposureRefused(
                f"listening on {self.host!r}, which other machines can reach, needs a token:"
                " set PARETOPATH_TOKEN to a secret of at least 16 characters, or listen on 127.0.0.1"
            )
