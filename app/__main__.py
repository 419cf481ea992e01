"""The command line ``paretopath``. What a command needs is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.backend import Backend
    from app.documents import Document
    from app.settings import Settings

# Torch's threads must not spin while they wait: two workers on two cores would be a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BAD_INPUT = 2
DAMAGED = 3
INTERRUPTED = 130
STDIN = 0
ENDS = {"completed": 0, "cancelled": INTERRUPTED}


class Commands(TyperGroup):
    """Commands whose refusals become one sentence and exit code 2, or 3 where stored data is damaged."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            sentence = _refusal(error)
            if sentence is None:
                raise
            typer.echo(f"paretopath: {sentence}", err=True)
            damaged = isinstance(error, _loaded("storage.errors", "Corrupt"))
            raise typer.Exit(DAMAGED if damaged else BAD_INPUT) from error


app = typer.Typer(
    name="paretopath",
    cls=Commands,
    help="Trace the whole trade-off between a network's loss and its sparsity in one job.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
datasets_app = typer.Typer(help="Your own data sets.", no_args_is_help=True)
app.add_typer(datasets_app, name="datasets")

Database = Annotated[str | None, typer.Option(help="sqlite:///file.db or postgresql://user@host/name.")]
Server = Annotated[str | None, typer.Option(envvar="PARETOPATH_SERVER", help="Ask this service instead, by its URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the document as JSON.")]
JobArgument = Annotated[int, typer.Argument(help="Number of the job.", metavar="JOB")]
Objectives = Annotated[str, typer.Option(help="Two names, with a comma.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="127.0.0.1 by default; others need PARETOPATH_TOKEN.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 by default; 0 takes a free one.")] = None,
    database_url: Database = None,
    demo: Annotated[bool, typer.Option("--demo", help="Queue a demonstration job if there is no job.")] = False,
    allow_paths: Annotated[
        bool | None, typer.Option("--allow-paths", help="Let jobs name files and import paths.")
    ] = None,
) -> None:
    """Run the service with its pages, and workers beside it."""
    from app import logs, serving

    logs.configure()
    try:
        serving.serve(_settings(host=host, port=port, database_url=database_url, allow_paths=allow_paths), demo)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def trace(  # noqa: PLR0913 (each is an option)
    network: Annotated[str | None, typer.Option("--network", "-n", help="Such as mlp:20,20.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="A name, an upload or a file.")] = None,
    points: Annotated[int | None, typer.Option(help="Networks wanted on the front; 40 by default.")] = None,
    penalty: Annotated[str | None, typer.Option(help="l1 by default.")] = None,
    method: Annotated[str | None, typer.Option(help="continuation by default.")] = None,
    loss: Annotated[str | None, typer.Option(help="Chosen by the data by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="0 by default.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the job.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="network.activation=tanh, data.validation=0.2, budget.seconds=60.")
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="A job as JSON, as the service takes it; - is standard input.")
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Trace a front, showing points as they come; prints the front."""
    from app.composing import compose

    given: dict[str, Any] = {
        "network": network,
        "data": data,
        "points": points,
        "penalty": penalty,
        "method": method,
        "loss": loss,
    }
    given |= {"seed": seed, "device": device, "name": name, "tags": tag}
    body = compose(spec, given, setting or [])
    _trace(lambda backend: backend.submit(body), as_json, server, database_url)


@app.command()
def study(  # noqa: PLR0913 (each is an option)
    network: Annotated[list[str] | None, typer.Option("--network", "-n", help="May be given several times.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="A name, an upload or a file.")] = None,
    seeds: Annotated[str | None, typer.Option(help="How many, such as 5, or which: 0,7,8; 3 by default.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    penalty: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    points: Annotated[int | None, typer.Option(help="Networks wanted on each front; 40 by default.")] = None,
    loss: Annotated[str | None, typer.Option(help="Chosen by the data by default.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the study and its jobs.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="What all jobs share: data.validation=0.2, budget.seconds=60.")
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="A study as JSON, as the service takes it; - is standard input.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time; one on each GPU or core by default. Not with --server.")
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Trace a front for each seed, network, penalty and method, side by side; prints the comparison."""
    from app import composing

    given: dict[str, Any] = {"networks": network, "data": data, "methods": method, "penalties": penalty}
    given |= {"seeds": composing.seeds(seeds), "points": points, "loss": loss, "device": device}
    given |= {"name": name, "tags": tag}
    body = composing.compose(spec, given, setting or [], composing.COMMON_PARTS)
    _study(body, workers, as_json, server, database_url)


@app.command()
def refit(  # noqa: PLR0913 (each is an option)
    job: JobArgument,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data per network.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the new job.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times; those of JOB by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="That of JOB by default.")] = None,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Train as many weights as a job's networks have, without the penalty; prints the new job's front."""
    given = {"epochs": epochs, "name": name, "tags": tag or None, "seed": seed}
    body = {key: value for key, value in given.items() if value is not None}
    _trace(lambda backend: backend.refit(job, body), as_json, server, database_url)


@app.command()
def extend(  # noqa: PLR0913 (each is an option)
    job: JobArgument,
    points: Annotated[int | None, typer.Option(help="How many more: in the widest gaps, or where said.")] = None,
    between: Annotated[
        tuple[int, int] | None, typer.Option(help="The two points between which they are wanted.")
    ] = None,
    end: Annotated[float | None, typer.Option(help="Sparsity to go on to, such as 0.995.")] = None,
    epochs: Annotated[float | None, typer.Option(help="More passes over the data for a method cut short.")] = None,
    seconds: Annotated[float | None, typer.Option(help="More seconds of work for a method cut short.")] = None,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Go on with a job that has ended or is paused: more points, further, finer or for longer; prints its front."""
    given = {"points": points, "between": between and list(between), "end": end, "epochs": epochs, "seconds": seconds}
    body = {key: value for key, value in given.items() if value is not None}
    _trace(lambda backend: backend.extend(job, body), as_json, server, database_url)


@app.command()
def solve(  # noqa: PLR0913 (each is an option)
    job: JobArgument,
    nonzeros: Annotated[int | None, typer.Option(help="Exactly so many nonzero weights.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="At least this share of zeros.")] = None,
    lam: Annotated[float | None, typer.Option("--lambda", help="Stationary at this strength of the penalty.")] = None,
    loss: Annotated[float | None, typer.Option(help="At most this training loss.")] = None,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Find the network of a job at exactly one target, from the nearest it has; prints its front."""
    given = {"nonzeros": nonzeros, "sparsity": sparsity, "lam": lam, "loss": loss}
    body = {key: value for key, value in given.items() if value is not None}
    _trace(lambda backend: backend.solve(job, body), as_json, server, database_url)


@app.command()
def jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """List jobs, newest first."""
    from app import terminal

    with _backend(server, database_url) as backend:
        found = backend.jobs(state, tag, limit)
    terminal.print_json(found) if as_json else terminal.out().print(terminal.jobs_table(found))


@app.command()
def studies(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """List studies, newest first."""
    from app import terminal

    with _backend(server, database_url) as backend:
        found = backend.studies(limit)
    terminal.print_json(found) if as_json else terminal.out().print(terminal.studies_table(found))


@app.command()
def front(
    job: JobArgument,
    objectives: Objectives = "penalty,loss",
    nondominated: Annotated[bool, typer.Option("--nondominated", help="Only points that no other beats.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Print the front of a job."""
    from app import terminal

    with _backend(server, database_url) as backend:
        document = backend.front(job, objectives.split(","), nondominated)
    terminal.print_front(document, as_json)


@app.command()
def select(  # noqa: PLR0913 (each is an option)
    job: JobArgument,
    sparsity: Annotated[float | None, typer.Option(help="At least this fraction of zeros.")] = None,
    max_nonzero: Annotated[int | None, typer.Option(help="At most so many nonzero weights.")] = None,
    max_loss: Annotated[float | None, typer.Option(help="At most this training loss.")] = None,
    min_metric: Annotated[str | None, typer.Option(help="accuracy:0.9, on the validation data.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Where the front bends most.")] = False,
    weights: Annotated[str | None, typer.Option(help="0.7,0.3: how much each objective matters.")] = None,
    objectives: Objectives = "penalty,loss",
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Pick one network by exactly one criterion."""
    from app import terminal
    from app.choosing import Choice

    choice = Choice(sparsity, max_nonzero, max_loss, min_metric, knee, weights)
    with _backend(server, database_url) as backend:
        point = backend.select(job, choice, objectives.split(","))
    terminal.print_json(point) if as_json else terminal.out().print(terminal.front_table([point]))


@app.command()
def export(
    job: JobArgument,
    index: Annotated[int, typer.Argument(help="Number of the point.", metavar="INDEX")],
    form: Annotated[str, typer.Option("--format", "-f", help="onnx, safetensors, state_dict, …")] = "safetensors",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Leave out neurons, channels and heads that are dead.")
    ] = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Write one network to a file."""
    from app import terminal

    with _backend(server, database_url) as backend:
        download = backend.export(job, index, form, compact)
    path = output or Path(download.filename)
    try:
        path.write_bytes(download.payload)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {str(path)!r}: {error.strerror}") from error
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in download.facts.items())
    terminal.say(f"{path}: {facts}")


@app.command()
def compare(
    job: Annotated[list[int] | None, typer.Argument(help="Numbers of the jobs.", metavar="JOB…")] = None,
    study: Annotated[int | None, typer.Option(help="All jobs of this study.")] = None,
    objectives: Objectives = "l1,loss",
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Compare fronts of several methods, seeds or networks on one scale."""
    from app import terminal

    if bool(job) == (study is not None):
        raise typer.BadParameter("give the numbers of jobs, or --study and the number of one")
    names = objectives.split(",")
    with _backend(server, database_url) as backend:
        document = backend.compare(job or [], names) if study is None else backend.study_front(study, names)
    terminal.print_comparison(document, as_json)


@app.command()
def worker(
    job: Annotated[int | None, typer.Option(help="Work on this job only; else on all, oldest first.")] = None,
    name: Annotated[str | None, typer.Option(help="Unique; made up by default.")] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when no job waits.")] = False,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="End after so many jobs.")] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
    database_url: Database = None,
) -> None:
    """Work on queued jobs until a signal to stop comes."""
    from app import logs
    from app.executors.runs import NOT_HAD
    from app.service import open_store
    from app.tracing import worker_of

    settings = _settings(database_url=database_url)
    logs.configure()
    faulthandler.enable()
    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, args=(settings.grace_seconds,), daemon=True).start()
    with open_store(settings) as store:
        found = worker_of(store, settings, name)
        if job is None:
            found.pull(until_idle=until_idle, max_jobs=max_jobs)
        elif (lease := found.claim(job)) is not None:
            for _ in found.work(lease):
                pass
        else:
            raise typer.Exit(NOT_HAD)


@app.command()
def migrate(database_url: Database = None) -> None:
    """Bring the database's tables to this version."""
    from app import terminal
    from storage.store import Store

    settings = _settings(database_url=database_url)
    with Store(settings.url) as store:
        store.migrate()
        store.check_schema()
    terminal.say("the database has this version's tables")


@app.command()
def thin(
    job: JobArgument,
    keep: Annotated[int | None, typer.Option(help="Keep so many well-spread points of the front.")] = None,
    nondominated: Annotated[bool, typer.Option("--nondominated", help="Keep all points that no other beats.")] = False,
    objectives: Objectives = "penalty,loss",
    as_json: AsJson = False,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Delete points of a job that has ended, with their weights; it cannot go on afterwards."""
    from app import terminal

    body = {"keep": keep, "nondominated": nondominated, "objectives": objectives.split(",")}
    with _backend(server, database_url) as backend:
        document = backend.thin(job, body)
    left = document["job"]["progress"]["points"]
    said = f"job {job}: {document['dropped']} points dropped, {left} left; {document['bytes']:,} bytes of weights freed"
    terminal.print_json(document) if as_json else terminal.say(said)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only tell.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Rewrite the tables; others wait, and it needs room.")] = False,
    database_url: Database = None,
) -> None:
    """Free what nobody refers to, and give empty pages back to the file system."""
    from app import terminal
    from app.service import open_store

    with open_store(_settings(database_url=database_url)) as store:
        found = store.gc(dry_run, full)
    would = "would be " if dry_run else ""
    blobs = f"{found.n_blobs} arrays that nobody refers to, {found.n_bytes:,} bytes, {would}deleted"
    terminal.say(f"{blobs}; {'about ' * dry_run}{found.disk_bytes:,} bytes {would}freed on disk")


@app.command()
def verify(database_url: Database = None) -> None:
    """Read everything stored, and name what is damaged."""
    from app import terminal
    from app.service import open_store

    with open_store(_settings(database_url=database_url)) as store:
        found = store.verify()
    for damage in found:
        terminal.say(f"{damage.what}: {damage.why}")
    terminal.say(f"{len(found)} damages found" if found else "everything stored is as it was written")
    raise typer.Exit(DAMAGED if found else 0)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    database_url: Database = None,
) -> None:
    """Write a SQLite database to one file, while others use it."""
    from app import terminal
    from storage.store import Store

    with Store(_settings(database_url=database_url).url) as store:
        store.back_up(file, force)
    terminal.say(f"{file}: {file.stat().st_size:,} bytes")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What backup wrote.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Replace the database if it exists.")] = False,
    database_url: Database = None,
) -> None:
    """Make a SQLite database what a backup holds; stop the service and its workers first."""
    from app import terminal
    from storage.store import Store

    with Store(_settings(database_url=database_url).url) as store:
        store.restore(file, force)
    terminal.say(f"the database is what {file} holds")


@app.command()
def bench(
    network: Annotated[str, typer.Option("--network", "-n", help="Such as mlp:20,20.")] = "mlp:32",
    data: Annotated[str, typer.Option("--data", "-d", help="A name or a file.")] = "digits",
    points: Annotated[int, typer.Option(help="Networks wanted on each front.")] = 40,
    seeds: Annotated[int, typer.Option(help="Runs of each rival.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Only go through everything once: no measurement.")] = False,
) -> None:
    """Compare the continuation with what you could run instead (in a checkout)."""
    from importlib.util import find_spec

    from app.errors import Lacking

    if find_spec("benchmarks") is None:
        raise Lacking("the benchmarks come with the source code, not with the package; run this in a checkout")
    if find_spec("sklearn") is None:
        raise Lacking("one of the rivals is scikit-learn's; install it with: pip install scikit-learn")
    given = {"network": network, "data": data, "points": points, "seeds": seeds, "threads": threads}
    options = [f"--{name}={value}" for name, value in given.items()] + ["--quick"] * quick
    raise typer.Exit(subprocess.run([sys.executable, "-m", "benchmarks", *options], check=False).returncode)


@datasets_app.command()
def add(
    file: Annotated[Path, typer.Argument(help="An .npz, .csv, .parquet or .txt file.")],
    name: Annotated[str | None, typer.Option(help="The file's stem by default.")] = None,
    server: Server = None,
    database_url: Database = None,
) -> None:
    """Store a data file, to be named by jobs."""
    from app import terminal

    with _backend(server, database_url) as backend:
        added = backend.add_dataset(file, name)
    terminal.out().print(terminal.datasets_table([added]))


@datasets_app.command("list")
def listed(as_json: AsJson = False, server: Server = None, database_url: Database = None) -> None:
    """List stored data sets."""
    from app import terminal

    with _backend(server, database_url) as backend:
        found = backend.datasets()
    terminal.print_json(found) if as_json else terminal.out().print(terminal.datasets_table(found))


def main() -> None:
    """Entry point of the console script."""
    app()


def _trace(submit: Callable[[Backend], Document], as_json: bool, server: str | None, database_url: str | None) -> None:
    """Trace the job that `submit` stores, here or through a service; the exit code tells how it ended."""
    from app import tracing

    if server:
        with _backend(server, None) as backend:
            state = tracing.there(backend, submit, as_json)
    else:
        state = tracing.here(_settings(database_url=database_url), submit, as_json)
    raise typer.Exit(ENDS.get(state, 1))


def _study(
    body: dict[str, Any], workers: int | None, as_json: bool, server: str | None, database_url: str | None
) -> None:
    """Run a study here or through a service; the exit code tells how it ended."""
    from app import studying

    settings = _settings(database_url=database_url)
    if server and workers is not None:
        raise typer.BadParameter("--workers is for studies run here; the service at --server has slots of its own")
    if server:
        with _backend(server, None) as backend:
            state = studying.there(backend, body, settings.poll_seconds, as_json)
    else:
        state = studying.here(settings, body, workers, as_json)
    raise typer.Exit(ENDS.get(state, 1))


def _settings(**given: Any) -> Settings:
    from app.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def _backend(server: str | None, database_url: str | None) -> Iterator[Backend]:
    settings = _settings(database_url=database_url)
    backend = _remote(server, settings) if server else _local(settings)
    try:
        yield backend
    finally:
        backend.close()


def _remote(server: str, settings: Settings) -> Backend:
    from app.client import Remote

    return Remote(server, settings.token.get_secret_value() if settings.token else None)


def _local(settings: Settings) -> Backend:
    from app.service import Service, open_store

    return Service(open_store(settings), allow_paths=True, poll_seconds=settings.poll_seconds)


def _end_with_stdin(grace_seconds: float) -> None:
    """Stop this process when its parent is gone: gracefully, then at once."""
    while os.read(STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os._exit(1)


def _refusal(error: Exception) -> str | None:
    """The sentence of an intended error; None for a fault of ours. Looks only where an error can come from."""
    if isinstance(error, _loaded("pydantic", "ValidationError")):
        from app.schemas import refusal

        return refusal(error)  # type: ignore[arg-type]
    intended = (("engine.errors", "EngineError"), ("storage.errors", "StorageError"), ("app.errors", "AppError"))
    return str(error) if any(isinstance(error, _loaded(*place)) for place in intended) else None


def _loaded(module: str, name: str) -> type[Exception] | tuple[()]:
    return getattr(sys.modules[module], name) if module in sys.modules else ()


if __name__ == "__main__":
    main()
