"""What the command line shows: tables on standard output, progress on standard error."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.documents import Document
from app.wording import MERITS, counts, duration, label, part, scale, show

OUT_WIDTH = 140
MEASURED = ("validation_accuracy", "test_accuracy", "validation_loss", "test_loss")


def out() -> Console:
    """Standard output; wide where it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=OUT_WIDTH)


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """A document as JSON, byte for byte what it says (no markup, no wrapping)."""
    out().out(json.dumps(document, indent=2, allow_nan=False), highlight=False)


def say(text: str) -> None:
    """A sentence on standard output."""
    out().print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A sentence on standard error."""
    err().print(text, markup=False)


def print_front(document: Document, as_json: bool) -> None:
    """A front document, or its table and a sentence."""
    if as_json:
        print_json(document)
    else:
        out().print(front_table(document["points"]))
        say(summary(document))


def print_comparison(document: Document, as_json: bool) -> None:
    """A comparison, or its tables and a sentence."""
    if as_json:
        print_json(document)
        return
    out().print(compare_table(document))
    out().print(coverage_table(document))
    say(scale(document))


def watch(points: Iterable[Mapping[str, Any]], total: int | None, done: int = 0) -> None:
    """Show points as they come after those that are there: a bar on a terminal, lines elsewhere."""
    console = err()
    if not console.is_terminal:
        for point in points:
            console.print(_line(point), markup=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("tracing", total=total, completed=done)
        for point in points:
            progress.update(task, advance=1, description=_line(point))


def watch_study(standings: Iterable[Document]) -> None:
    """Show how a study stands: a bar on a terminal, elsewhere a line for each job that begins or ends."""
    console = err()
    if not console.is_terminal:
        for line in _changes(standings):
            console.print(line, markup=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("points")
        for study in standings:
            done = study["progress"]
            said = f"{counts(done['states'])}, points"
            progress.update(task, total=done["expected"], completed=done["points"], description=said)


def _changes(standings: Iterable[Document]) -> Iterator[str]:
    """A line for each job whose state is another than before, but for those that wait."""
    before: dict[int, str] = {}
    for study in standings:
        for job in study["jobs"]:
            if job["state"] not in ("queued", before.get(job["id"])):
                yield standing(job)
            before[job["id"]] = job["state"]


def standing(job: Document) -> str:
    """One job of a study in a line."""
    spec = job["spec"]
    made_of = " · ".join(part(spec[kind]) for kind in ("network", "penalty", "method"))
    n_points = job["progress"]["points"]
    with_points = f" with {n_points} points" if n_points else ""
    why = f": {job['reason']}" if job["reason"] else ""
    return f"job {job['id']} ({made_of} · seed {spec['seed']}) {job['state']}{with_points}{why}"


def study_summary(study: Document) -> str:
    """A study in one sentence."""
    done = study["progress"]
    worked = f"{done['points']} points after {duration(done['seconds'])} of work in all"
    return f"study {study['id']} {study['state']}: {counts(done['states'])}; {worked}"


def front_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Points as rows, sparse networks last."""
    measured = [name for name in MEASURED if any(name in p["metrics"] for p in points)]
    names = ["index", "n_nonzero", "sparsity", "penalty", "loss", *measured, "lam", "residual"]
    table = _table(*(label(name) if name != "index" else "point" for name in names))
    for point in sorted(points, key=lambda p: -p["n_nonzero"]):
        values = {**point, **point["metrics"]}
        table.add_row(*(show(name, values.get(name)) for name in names))
    return table


def jobs_table(jobs: Sequence[Document]) -> Table:
    """Jobs as rows."""
    table = _table("job", "state", "points", "network", "data", "name", "why it ended")
    for job in jobs:
        progress, spec = job["progress"], job["spec"]
        points = f"{progress['points']}/{progress['expected'] or spec.get('points')}"
        table.add_row(
            str(job["id"]), job["state"], points, part(spec["network"]), part(spec["data"]), job["name"], job["reason"]
        )
    return table


def studies_table(studies: Sequence[Document]) -> Table:
    """Studies as rows."""
    table = _table("study", "state", "jobs", "points", "network", "data", "name")
    for study in studies:
        done, spec = study["progress"], study["spec"]
        points = f"{done['points']}/{done['expected']}"
        networks = ", ".join(map(part, spec["networks"]))
        row = (str(study["id"]), study["state"], counts(done["states"]), points)
        table.add_row(*row, networks, part(spec["data"]), study["name"])
    return table


def compare_table(document: Document) -> Table:
    """Figures of merit and cost, one row for each front of a comparison."""
    table = _table("job", "name", "group", "seed", "points", *map(label, MERITS), "epochs", "work")
    for entry in document["fronts"]:
        job, cost = entry["job"], entry["cost"]
        group = document["groups"][entry["group"]]["label"]
        figures = (show(name, entry[name]) for name in MERITS)
        row = (job["id"], job["name"], group, job["spec"].get("seed"), len(entry["points"]), *figures)
        table.add_row(*map(str, row), show("effort", cost["effort"]), duration(cost["seconds"]))
    return table


def coverage_table(document: Document) -> Table:
    """How much of each front, in columns, every front, in rows, equals or beats."""
    ids = [str(entry["job"]["id"]) for entry in document["fronts"]]
    table = _table("covers", *ids)
    for job_id, row in zip(ids, document["coverage"], strict=True):
        table.add_row(job_id, *(show("coverage", share) for share in row))
    return table


def datasets_table(uploads: Sequence[Document]) -> Table:
    """Uploaded data sets as rows."""
    table = _table("name", "shapes", "bytes", "SHA-256")
    for upload in uploads:
        shapes = ", ".join(f"{name} {value}" for name, value in upload["shapes"].items() if name.startswith(("X", "y")))
        table.add_row(upload["name"], shapes, f"{upload['size']:,}", upload["digest"][:16])
    return table


def summary(document: Document) -> str:
    """A front in one sentence."""
    job, points = document["job"], document["points"]
    worked = f" after {duration(points[-1]['seconds'])} of work" if points else ""
    why = f": {job['reason']}" if job["reason"] else ""
    return f"job {job['id']} {job['state']} with {len(points)} points{worked}{why}"


def _line(point: Mapping[str, Any]) -> str:
    values = (f"{name} {show(name, point[name])}" for name in ("sparsity", "loss"))
    return f"point {point['index']}: " + ", ".join(values)


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, justify="left" if header in ("name", "state", "network", "data", "group") else "right")
    return table
