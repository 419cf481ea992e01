// The list of jobs: looks again every two seconds while a job is under way, every ten otherwise, never unseen.

import { tell } from "./api.js";
import { refresh, remember } from "./patch.js";

const ACTIVE = ["queued", "running"].map((state) => `[data-state=${state}]`).join(", ");
const INTERVAL = 2000;
const IDLE_TURNS = 5;
let turn = 0;

async function look() {
  turn += 1;
  if (document.visibilityState === "hidden") return;
  if (!document.querySelector(ACTIVE) && turn % IDLE_TURNS) return;
  const ticked = [...document.querySelectorAll("#jobs input:checked")].map((box) => box.id);
  try {
    await refresh();
    for (const box of ticked.map((id) => document.getElementById(id))) if (box) box.checked = true;
    tell(document.getElementById("connection"), "");
  } catch {
    tell(document.getElementById("connection"), "The service does not answer; this list may be old. Trying again…");
  }
}

remember();
setInterval(look, INTERVAL);
document.addEventListener("visibilitychange", look);
