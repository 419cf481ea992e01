// The page of several fronts: the plot, and tables that follow the axes that are chosen.

import { tell } from "./api.js";
import { query, redraw } from "./fronts.js";
import { refresh, remember } from "./patch.js";
import { draw, theme } from "./plot.js";

const by = (id) => document.getElementById(id);
const form = by("asked");

let latest = 0;

async function differ() {
  const section = by("differences");
  if (!section) return;
  const turn = ++latest;
  const asked = new URLSearchParams([...query(), ["pair", by("pair").value], ["log_x", by("log_x").checked], ["theme", theme()]]);
  try {
    const { plotly, figure } = await draw(by("difference"), `${section.dataset.figure}?${asked}`);
    if (turn === latest) await plotly.react(by("difference"), figure.data, figure.layout, figure.config);
  } catch (error) {
    tell(by("problem"), error.message);
  }
}

async function choose() {
  if (!by("plot")) return form.requestSubmit();
  const url = `${form.action}?${query()}`;
  history.replaceState(null, "", url);
  await redraw();
  if (!by("problem").hidden) return;
  await Promise.all([refresh(url), differ()]);
}

by("objectives").addEventListener("change", choose);
by("log_x").addEventListener("change", differ);
by("pair")?.addEventListener("change", differ);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", differ);
remember();
redraw();
differ();
