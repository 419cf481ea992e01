// The page of a study: looks again every two seconds while a job is under way, and has the buttons of all its jobs.

import { paced, tell } from "./api.js";
import { query, redraw } from "./fronts.js";
import { refresh, remember } from "./patch.js";
import { steer } from "./steering.js";

const by = (id) => document.getElementById(id);
const UNDER_WAY = new Set(["queued", "running"]);
const INTERVAL = 2000;

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

steer(`/api/v1/studies/${by("main").dataset.study}`, update);
by("objectives").addEventListener("change", choose);
remember();
redraw();
setInterval(look, INTERVAL);
