"""A job with the jobs whose networks it builds on: what was done, whatever the seed, and what all of it cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from app.wording import part
from storage.errors import NotFound
from storage.records import Job
from storage.store import Store

PARTS = ("network", "penalty", "method")
NO_PART: Mapping[str, Any] = {"name": "", "params": {}}
BY_CHANCE = frozenset({"seed", "name", "tags", "device"})
SOURCE = "job"


@final
@dataclass(frozen=True)
class Lineage:
    """A job and, one after another, the jobs whose networks it goes on from, as far as they still exist.

    Parameters
    ----------
    jobs : tuple of Job
        At least one.
    """

    jobs: tuple[Job, ...]

    @property
    def job(self) -> Job:
        """The job itself."""
        return self.jobs[0]

    @property
    def effort(self) -> float:
        """Passes over the training data that all of it took."""
        return sum(job.effort for job in self.jobs)

    @property
    def seconds(self) -> float:
        """Seconds of work that all of it took."""
        return sum(job.seconds for job in self.jobs)

    @cached_property
    def recipe(self) -> str:
        """How it was traced, but for chance: equal texts are seeds of one experiment."""
        return json.dumps([self._kept(i) for i in range(len(self.jobs))], sort_keys=True)

    def part(self, kind: str) -> Mapping[str, Any]:
        """The job's network, penalty or method; a method that goes on from another is named with it."""
        if kind != "method":
            found: Mapping[str, Any] = self.job.spec.get(kind, NO_PART)
            return found
        methods = [self._method(i) for i in range(len(self.jobs))]
        return {"name": " of ".join(method["name"] for method in methods), "params": methods[0]["params"]}

    def _kept(self, position: int) -> Mapping[str, Any]:
        """A spec without what chance decides, and without what the source decides where that is among `jobs`."""
        left_out = BY_CHANCE | {"points"} if self._has_source(position) else BY_CHANCE
        spec = self.jobs[position].spec
        return {**{k: v for k, v in spec.items() if k not in left_out}, "method": self._method(position)}

    def _method(self, position: int) -> Mapping[str, Any]:
        method: Mapping[str, Any] = self.jobs[position].spec.get("method", NO_PART)
        left_out = {SOURCE} if self._has_source(position) else frozenset()
        return {**method, "params": {k: v for k, v in method["params"].items() if k not in left_out}}

    def _has_source(self, position: int) -> bool:
        return position + 1 < len(self.jobs)


def lineage(store: Store, job: Job) -> Lineage:
    """The job and what it builds on; a deleted source ends it."""
    jobs, follows = [job], job.facts.get("follows")
    while follows is not None:
        try:
            jobs.append(store.job(follows))
        except NotFound:
            break
        follows = jobs[-1].facts.get("follows")
    return Lineage(tuple(jobs))


def labels(lineages: Sequence[Lineage]) -> list[str]:
    """What sets each apart from the others; the method where nothing does."""
    kinds = {kind: [found.part(kind) for found in lineages] for kind in PARTS}
    telling = [kind for kind, parts in kinds.items() if any(found != parts[0] for found in parts)] or ["method"]
    texts = [" · ".join(words) for words in zip(*(_told_apart(kinds[kind]) for kind in telling), strict=True)]
    return [_unique(text, texts, found.job) for text, found in zip(texts, lineages, strict=True)]


def _told_apart(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of `parts`, with the settings of those that share their name with another."""
    names = {part(found): found["name"] for found in parts}
    alone = {said for said, name in names.items() if list(names.values()).count(name) == 1}
    return [names[said] if said in alone else said for said in map(part, parts)]


def _unique(text: str, texts: Sequence[str], job: Job) -> str:
    return text if text and texts.count(text) == 1 else f"{text} as in job {job.id}".strip()
