"""The pages: jinja2 templates over the store, and the files they load; all of it from this service alone."""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import plotly
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from app import wording
from app.comparing import COMPARED, Compared, axes, compare_document
from app.documents import progress, study_progress
from app.forms import Field, fields, stands_alone, typed
from app.plots import CONFIG, THEMES, View, compare_figure, difference_figure, front_figure, layers_figure, sparkline
from app.routes.fronts import job_ids
from app.schemas import MOST_JOBS, JobIn, described, settings_model
from app.service import Service
from engine.errors import EngineError
from engine.front import Front, ParetoPoint
from engine.goals.base import GOAL
from storage.errors import NotFound
from storage.records import Job, JobState, Study, Upload
from storage.store import Store

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

PAGE_SIZE = 30
RECENT_STUDIES = 3
LOG_LINES = 100
FIRST_JOB: Mapping[str, Any] = {
    "network": {"name": "mlp", "params": {"hidden": [32]}},
    "data": {"name": "digits", "params": {}},
}
RUN_FIELDS = ("points", "seed", "device", "name", "tags")
SEEDS = Field(
    "seeds", "Seeds", "So many, from the seed on; three or more show a band.", "integer", "1", True, 1, MOST_JOBS
)
PARTS = {"network": "networks", "data": "datasets", "penalty": "penalties", "method": "methods"}

_HERE = Path(__file__).parents[1]
_templates = Jinja2Templates(_HERE / "templates")
_static = StaticFiles(directory=_HERE / "static")


@dataclass(frozen=True)
class Axes:
    """In which objectives to compare.

    Parameters
    ----------
    objectives : str
        Two names with a comma.
    """

    objectives: Annotated[str, Query(max_length=200)] = ",".join(COMPARED)

    @property
    def names(self) -> list[str]:
        """The objectives."""
        return [name.strip() for name in self.objectives.split(",")]


@dataclass(frozen=True)
class Asked(Axes):
    """Which jobs to compare, and in which objectives.

    Parameters
    ----------
    objectives : str
        Two names with a comma.
    jobs : list of str
        Numbers of jobs, any of them with commas between.
    """

    jobs: Annotated[list[str] | None, Query(max_length=200)] = None

    @property
    def ids(self) -> list[int]:
        """The numbers of the jobs."""
        return job_ids(self.text)

    @property
    def text(self) -> str:
        """The numbers with commas between."""
        return ",".join(self.jobs or [])


@router.get("/")
def jobs(request: Request, before: Annotated[int | None, Query(ge=1)] = None) -> Response:
    """The jobs, newest first, below the newest studies."""
    store = _store(request)
    found = store.jobs(before=before, limit=PAGE_SIZE)
    fronts = store.fronts([job.id for job in found], layers=False)
    sparks = {job.id: sparkline(fronts.get(job.id, Front(()))) for job in found}
    older = found[-1].id if len(found) == PAGE_SIZE else None
    recent = store.studies(limit=RECENT_STUDIES) if before is None else ()
    return _page(request, "jobs.html", here="jobs", jobs=found, sparks=sparks, older=older, studies=recent)


@router.get("/studies")
def studies(request: Request, before: Annotated[int | None, Query(ge=1)] = None) -> Response:
    """The studies, newest first."""
    found = _store(request).studies(before, PAGE_SIZE)
    older = found[-1].id if len(found) == PAGE_SIZE else None
    return _page(request, "studies.html", here="studies", studies=found, older=older)


@router.get("/jobs/new")
def new(request: Request, like: Annotated[int | None, Query(alias="from", ge=1)] = None) -> Response:
    """The form, filled in like the job `from` or with a small first trace."""
    try:
        spec = _alone(_store(request).job(like).spec) if like is not None else FIRST_JOB
    except NotFound as error:
        return _missing(request, error)
    return _page(request, "new.html", here="new", spec=spec, **_form(_store(request), spec))


@router.get("/compare")
def compare(request: Request, asked: Annotated[Asked, Depends()]) -> Response:
    """Fronts of several jobs in one plot, with their figures of merit and what they cost."""
    try:
        found = _service(request).compared(asked.ids, asked.names) if asked.jobs else None
    except NotFound as error:
        return _missing(request, error)
    except EngineError as error:
        return _page(request, "compare.html", status=422, asked=asked, offered=axes(()), refused=str(error))
    if found is None:
        return _page(request, "compare.html", asked=asked, offered=axes(()))
    return _page(request, "compare.html", asked=asked, offered=axes(found.fronts), document=compare_document(found))


@router.get("/compare/figure.json")
def compare_plot(
    request: Request, asked: Annotated[Asked, Depends()], log_x: bool = True, theme: str = "light"
) -> Response:
    """The figure of several fronts, ready for ``Plotly.react``."""
    found = _service(request).compared(asked.ids, asked.names)
    return _figure_response(compare_figure(found, log_x, THEMES.get(theme)))


@router.get("/compare/difference.json")
def difference_plot(
    request: Request,
    asked: Annotated[Asked, Depends()],
    pair: Annotated[int, Query(ge=0)] = 0,
    log_x: bool = True,
    theme: str = "light",
) -> Response:
    """The figure of where one group of seeds attains more often than another; `pair` counts the pairs of groups."""
    found = _service(request).compared(asked.ids, asked.names)
    if pair >= len(found.pairs):
        raise NotFound(f"there is no pair {pair} of groups of three seeds or more among these jobs")
    return _figure_response(difference_figure(found, found.pairs[pair], log_x, THEMES.get(theme)))


@router.get("/studies/{study_id:int}")
def study(request: Request, study_id: int, asked: Annotated[Axes, Depends()]) -> Response:
    """One study: its jobs, and their fronts in one plot with bands over seeds."""
    try:
        found = _store(request).study(study_id)
        fronts = _fronts(request, found, asked)
    except NotFound as error:
        return _missing(request, error)
    except EngineError as error:
        return _study_page(request, found, asked, status=422, offered=axes(()), refused=str(error))
    return _study_page(request, found, asked, offered=axes(fronts.fronts), document=compare_document(fronts))


@router.get("/studies/{study_id:int}/figure.json")
def study_plot(
    request: Request, study_id: int, asked: Annotated[Axes, Depends()], log_x: bool = True, theme: str = "light"
) -> Response:
    """The figure of a study's fronts, ready for ``Plotly.react``."""
    found = _fronts(request, _store(request).study(study_id), asked)
    return _figure_response(compare_figure(found, log_x, THEMES.get(theme)))


@router.get("/jobs/{job_id:int}")
def job(request: Request, job_id: int, view: Annotated[View, Depends()]) -> Response:
    """One job: its live front, its points and what can be done with them."""
    store = _store(request)
    seen = store.last_seq()
    try:
        found, front, log = store.job(job_id), store.front(job_id, layers=False), store.logs(job_id, limit=LOG_LINES)
    except NotFound as error:
        return _missing(request, error)
    seen = seen if len(front) else 0
    return _page(request, "job.html", job=found, view=view, seen=seen, log=log, **_points(front))


@router.get("/jobs/{job_id:int}/figure.json")
def figure(request: Request, job_id: int, view: Annotated[View, Depends()]) -> Response:
    """The front's figure, ready for ``Plotly.react``."""
    return _figure_response(front_figure(_store(request).front(job_id, layers=False), view))


@router.get("/jobs/{job_id:int}/points/{index:int}")
def point(request: Request, job_id: int, index: int) -> Response:
    """The details of one point, as a fragment of the job's page."""
    found = _store(request).point(job_id, index)
    names = ["penalty", "loss", "lam", "residual", *(name for name in found.metrics)]
    values: dict[str, Any] = {
        "job_id": job_id,
        "point": found,
        "names": names,
        "certificate": wording.certificate(found),
    }
    return _page(request, "point.html", exports=described("exports"), **values)


@router.get("/jobs/{job_id:int}/points/{index:int}/layers.json")
def layers(request: Request, job_id: int, index: int, theme: str = "light") -> Response:
    """The figure of one network's layers."""
    theme = theme if theme in THEMES else "light"
    return _figure_response(layers_figure(_store(request).point(job_id, index), theme))


@router.get("/static/plotly.min.js")
def plotly_js(request: Request) -> Response:
    """The plotly.js that belongs to the installed plotly; its URL carries the version, so it never goes stale."""
    packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    headers |= {"Content-Encoding": "gzip"} if packed else {}
    return Response(_bundle(packed), media_type="text/javascript", headers=headers)


@router.get("/static/{path:path}")
async def static(request: Request, path: str) -> Response:
    """Scripts, styles and drawings; browsers ask each time whether they changed."""
    answer = await _static.get_response(path, request.scope)
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _fronts(request: Request, found: Study, asked: Axes) -> Compared:
    return _service(request).compared([job.id for job in found.jobs], asked.names)


def _study_page(request: Request, found: Study, asked: Axes, status: int = 200, **values: Any) -> Response:
    return _page(request, "study.html", status=status, study=found, done=study_progress(found), asked=asked, **values)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    return _templates.TemplateResponse(request, template, values, status_code=status)


def _missing(request: Request, error: NotFound) -> Response:
    return _page(request, "missing.html", status=404, reason=str(error))


def _figure_response(figure: Any) -> Response:
    document = f'{{"config": {json.dumps(CONFIG)}, {figure.to_json()[1:]}'
    return Response(document, media_type="application/json", headers={"Cache-Control": "no-cache"})


@lru_cache
def _bundle(packed: bool) -> bytes:
    source = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()
    return gzip.compress(source, 9, mtime=0) if packed else source


def _points(front: Front) -> dict[str, Any]:
    names = list(dict.fromkeys(name for p in front for name in p.metrics if name != GOAL))
    best = {p.index for p in front.non_dominated()}
    known = front.points[0].names() if len(front) else []
    values = {"columns": _columns(names), "groups": _groups(names), "names": [*known, *names]}
    return {"points": front.points, "best": best, **values}


def _columns(metrics: list[str]) -> list[str]:
    wanted = ("loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    shown = [name for name in wanted if name == "loss" or name in metrics]
    return ["n_nonzero", "sparsity", "penalty", "lam", *shown]


def _groups(metrics: list[str]) -> dict[str, list[str]]:
    known = {name for names in wording.GROUPS.values() for name in names}
    others = [name for name in metrics if name not in known]
    groups = {group: list(names) for group, names in wording.GROUPS.items()}
    return {**groups, "Other": others} if others else groups


def _form(store: Store, spec: Mapping[str, Any]) -> dict[str, Any]:
    schema = JobIn.model_json_schema()
    top = {field.name: field for field in fields(schema)}
    return {
        "groups": {kind: _choices(store, kind, spec) for kind in PARTS},
        "losses": described("losses"),
        "run": [top[name] for name in RUN_FIELDS],
        "seeds": SEEDS,
        "budget": fields(schema["$defs"]["BudgetIn"]),
        "values_of": {name: typed(spec[name]) for name in RUN_FIELDS if name in spec},
        "budget_values": {name: typed(value) for name, value in spec.get("budget", {}).items()},
    }


def _alone(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The spec with the usual method where its own goes on from another job."""
    name = spec["method"]["name"] if "method" in spec else _default_part("method")
    alone = name in {part["name"] for part in described("methods") if stands_alone(part["schema"])}
    return spec if alone else {**spec, "method": {"name": _default_part("method"), "params": {}}}


def _choices(store: Store, kind: str, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    chosen = spec.get(kind, {"name": _default_part(kind), "params": {}})
    known = [part for part in described(PARTS[kind]) if stands_alone(part["schema"])]
    parts = [{**part, "fields": fields(part["schema"]), "uploaded": False} for part in known]
    parts += _uploaded(store.uploads()) if kind == "data" else []
    return [{**part, **_given(part["fields"], part["name"], chosen)} for part in parts]


def _default_part(kind: str) -> str:
    return str(JobIn.model_fields[kind].get_default())


def _uploaded(uploads: Iterable[Upload]) -> list[dict[str, Any]]:
    return [
        {
            "name": upload.name,
            "summary": f"Uploaded, {_size(upload.size)}.",
            "fields": fields(settings_model("datasets", upload.name).model_json_schema()),
            "uploaded": True,
        }
        for upload in uploads
    ]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1024**2:.1f} MB" if n_bytes >= 1024**2 else f"{max(1, n_bytes // 1024)} kB"


def _given(entries: tuple[Field, ...], name: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    mine = chosen["params"] if chosen["name"] == name else {}
    values = {field.name: typed(mine[field.name]) for field in entries if field.name in mine}
    return {"chosen": chosen["name"] == name, "values": values}


def _expected(job: Job) -> int:
    return int(progress(job)["expected"] or job.spec.get("points") or 0)


def _sentence(spec: Mapping[str, Any]) -> str:
    parts = {kind: wording.part(spec[kind]) for kind in PARTS if kind in spec}
    means = " · ".join(parts[kind] for kind in ("penalty", "method") if kind in parts)
    return f"{parts['network']} on {parts['data']}" + (f" · {means}" if means else "")


def _asked_sentence(spec: Mapping[str, Any]) -> str:
    """What a study asks for, in a line."""
    parts = [", ".join(map(wording.part, spec[kind])) for kind in ("networks", "penalties", "methods")]
    seeds = f"seeds {', '.join(map(str, spec['seeds']))}" if len(spec["seeds"]) > 1 else f"seed {spec['seeds'][0]}"
    return " · ".join([f"{parts[0]} on {wording.part(spec['data'])}", *parts[1:], seeds])


def _standing(job: Job) -> str:
    """How far a job is, in one line."""
    if job.state == JobState.QUEUED and not job.n_points:
        return "waiting for a worker"
    counted = f"{job.n_points} of {_expected(job)} points" if job.state == JobState.RUNNING else _counted(job.n_points)
    worked = f"{wording.number(job.effort)} epochs, {wording.duration(job.seconds)}" if job.n_points else ""
    return " · ".join(x for x in (counted, worked, job.reason) if x)


def _counted(n_points: int) -> str:
    return f"{n_points} point{'' if n_points == 1 else 's'}"


def _remaining(job: Job) -> str:
    """A guess from the pace so far; empty where there is none."""
    seconds = progress(job)["remaining_seconds"]
    return f"about {wording.duration(seconds)} left" if seconds and job.state == JobState.RUNNING else ""


def _value(point: ParetoPoint, name: str) -> str:
    return wording.show(name, point.value(name) if name in point.names() else None)


def _show(value: float | None, name: str) -> str:
    return wording.show(name, value)


def _certified(point: ParetoPoint) -> str:
    found = wording.certificate(point)
    return wording.show("residual", found.relative)


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), indent=2, ensure_ascii=False)


def _ago(then: datetime) -> str:
    return wording.ago(then, datetime.now(UTC))


_templates.env.filters.update(
    ago=_ago,
    asked_sentence=_asked_sentence,
    done=study_progress,
    certified=_certified,
    counts=wording.counts,
    duration=wording.duration,
    expected=_expected,
    label=wording.label,
    number=wording.number,
    percent=wording.percent,
    pretty=_pretty,
    remaining=_remaining,
    sentence=_sentence,
    short=wording.short,
    standing=_standing,
    scale=wording.scale,
    show=_show,
    value=_value,
)
_templates.env.globals.update(plotly_url=f"/static/plotly.min.js?v={plotly.__version__}")
