// The page of a study: looks again every two seconds while a job is under way, and has the buttons of all its jobs.

import { call, paced, tell } from "./api.js";
import { query, redraw } from "./fronts.js";
import { refresh, remember } from "./patch.js";

const by = (id) => document.getElementById(id);
const api = `/api/v1/studies/${by("main").dataset.study}`;
const UNDER_WAY = new Set(["queued", "running"]);
const INTERVAL = 2000;

const problem = (text) => tell(by("problem"), text);
const standing = () => by("status").outerHTML;

async function update() {
  const before = standing();
  try {
    await refresh();
  } catch {
    return tell(by("connection"), "The service does not answer; what is shown may be old. Trying again…");
  }
  tell(by("connection"), "");
  if (standing() !== before) await redraw();
}

const soon = paced(update, 0);

function look() {
  if (document.visibilityState === "visible" && UNDER_WAY.has(by("status").dataset.state)) soon();
}

async function choose() {
  const url = `${location.pathname}?${query()}`;
  if (!by("plot")) return void (location.href = url);
  history.replaceState(null, "", url);
  await redraw();
  if (by("problem").hidden) await refresh();
}

async function ask(button, wanted) {
  button.disabled = true;
  try {
    await call("POST", `${api}/${wanted}`);
    problem("");
  } catch (error) {
    problem(error.message);
  }
  await update();
  button.disabled = false;
}

document.addEventListener("click", (event) => {
  const wanted = event.target.dataset?.request;
  if (wanted) ask(event.target, wanted);
  if (event.target.id === "delete") by("confirm").showModal();
});

by("confirm").addEventListener("close", async () => {
  if (by("confirm").returnValue !== "yes") return;
  try {
    await call("DELETE", api);
    location.href = "/";
  } catch (error) {
    problem(error.message);
  }
});

by("objectives").addEventListener("change", choose);
remember();
redraw();
setInterval(look, INTERVAL);
