// The page of one job: news over server-sent events, the picked point in the address (#point=12), and the buttons.

import { call, paced, tell } from "./api.js";
import { Details } from "./details.js";
import { refresh, remember } from "./patch.js";
import { FrontPlot } from "./plot.js";
import { steer } from "./steering.js";

const by = (id) => document.getElementById(id);
const job = by("main").dataset.job;
const api = `/api/v1/jobs/${job}`;
const ENDED = new Set(["completed", "failed", "cancelled"]);

const problem = (text) => tell(by("problem"), text);
const plot = new FrontPlot(by("plot"), by("view"), job, (index) => pick(index), problem);
const details = new Details(by("details"), job);

const picked = () => new URLSearchParams(location.hash.slice(1)).get("point");
const state = () => by("status").dataset.state;

function pick(index) {
  if (index === undefined) return;
  location.hash = `point=${index}`;
}

function follow() {
  const index = picked();
  if (index === null || !/^\d+$/.test(index)) return;
  plot.mark(Number(index));
  highlight();
  reveal();
  details.show(Number(index));
}

function highlight() {
  for (const link of document.querySelectorAll("#points a[aria-current]")) link.removeAttribute("aria-current");
  by(`pick-${picked()}`)?.setAttribute("aria-current", "true");
  const current = by(`pick-${picked()}`) ?? document.querySelector("#points a");
  for (const link of document.querySelectorAll("#points a")) link.tabIndex = link === current ? 0 : -1;
}

function reveal() {
  const row = by(`row-${picked()}`);
  const frame = row?.closest(".scroll");
  if (!row) return;
  const [top, bottom] = [row.offsetTop - row.offsetHeight * 2, row.offsetTop + row.offsetHeight - frame.clientHeight];
  frame.scrollTop = Math.min(Math.max(frame.scrollTop, bottom), top);
}

async function update() {
  try {
    await refresh();
  } catch {
    return tell(by("connection"), "The service does not answer; what is shown may be old. Trying again…");
  }
  tell(by("connection"), "");
  by("plot").hidden = by("waiting").dataset.points === "0";
  offer();
  highlight();
  plot.update();
  if (ENDED.has(state())) stop();
}

function offer() {
  const points = by("points").children.length;
  for (const name of ["x", "y"]) for (const option of by(name).options) option.disabled = points > 0 && !known(option.value);
  for (const button of document.querySelectorAll(".pick button")) button.disabled = points === 0;
}

function known(name) {
  const measured = by("waiting").dataset.names.split(" ");
  return measured.includes(name);
}

// ---- news

const soon = paced(update, 120);
let source;

function listen() {
  if (source || ENDED.has(state())) return;
  source = new EventSource(`${api}/events?after=${by("main").dataset.seen}`);
  for (const kind of ["state", "point", "log"]) source.addEventListener(kind, soon);
  source.addEventListener("open", () => tell(by("connection"), ""));
  source.addEventListener("error", () => lost());
}

function lost() {
  if (source.readyState !== EventSource.CLOSED) return tell(by("connection"), "The connection is lost; trying again…");
  source = undefined;
  soon();
  setTimeout(listen, 3000);
}

// What no event tells, such as a worker that has gone silent.
setInterval(() => {
  if (!ENDED.has(state()) && document.visibilityState === "visible") soon();
}, 10000);

function stop() {
  source?.close();
  source = undefined;
}

// ---- buttons

steer(api, async () => {
  await update();
  listen();
});

document.addEventListener("click", (event) => {
  if (event.target.id === "refit") refit(event.target);
});

// The new job opens on what a refit improves: the loss over the number of nonzero weights.
async function refit(button) {
  button.disabled = true;
  try {
    const { id } = await (await call("POST", `${api}/refit`, { json: {} })).json();
    location.href = `/jobs/${id}?x=n_nonzero`;
  } catch (error) {
    problem(error.message);
  } finally {
    button.disabled = false;
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form.ask")) return;
  event.preventDefault();
  more(event.target);
});

async function more(form) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    await call("POST", `${api}/${form.dataset.path}`, { json: asked(form) });
    tell(by("ask-answer"), "");
  } catch (error) {
    tell(by("ask-answer"), error.message);
  }
  await update();
  button.disabled = false;
  listen();
}

// What a form asks for: its target, or its fields; the two ends of a stretch as one.
function asked(form) {
  const { target, value, low, high } = form.elements;
  const chosen = target?.selectedOptions[0];
  if (chosen) return { [chosen.value]: scaled(value, chosen) };
  const fields = [...form.elements].filter((field) => field.name && field !== low && field !== high);
  const body = Object.fromEntries(fields.map((field) => [field.name, scaled(field, field)]));
  const ends = [low, high].filter((field) => field?.value).map((field) => field.valueAsNumber);
  return ends.length ? { ...body, between: ends } : body;
}

function scaled(field, unit) {
  return Number((field.valueAsNumber * Number(unit.dataset.scale ?? 1)).toPrecision(12));
}

// ---- choosing

for (const form of document.querySelectorAll("form.pick")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    choose(form);
  });
}

async function choose(form) {
  const { query, value, scale } = form.dataset;
  const asked = value ?? form.querySelector("input").valueAsNumber * Number(scale);
  try {
    const { index } = await (await call("GET", `${api}/select?${new URLSearchParams({ [query]: asked })}`)).json();
    tell(by("pick-answer"), `Picked point ${index}.`);
    pick(index);
  } catch (error) {
    tell(by("pick-answer"), error.message);
  }
}

by("points").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !event.target.closest("a")) row.querySelector("a").click();
});

by("points").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const links = [...document.querySelectorAll("#points a")];
  const next = links[links.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.click();
});

addEventListener("hashchange", follow);
remember();
offer();
highlight();
plot.redraw();
follow();
listen();
