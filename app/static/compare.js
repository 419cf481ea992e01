// The page of several fronts: the plot, and tables that follow the axes that are chosen.

import { query, redraw } from "./fronts.js";
import { refresh, remember } from "./patch.js";

const by = (id) => document.getElementById(id);
const form = by("asked");

async function choose() {
  if (!by("plot")) return form.requestSubmit();
  const url = `${form.action}?${query()}`;
  history.replaceState(null, "", url);
  await redraw();
  if (by("problem").hidden) await refresh(url);
}

by("objectives").addEventListener("change", choose);
remember();
redraw();
