// The page of several fronts: the plot, and tables that follow the axes that are chosen.

import { tell } from "./api.js";
import { refresh, remember } from "./patch.js";
import { draw, theme } from "./plot.js";

const by = (id) => document.getElementById(id);
const form = by("asked");
const dark = matchMedia("(prefers-color-scheme: dark)");
let latest = 0;

const query = () => new URLSearchParams(new FormData(form));

async function plot() {
  const turn = ++latest;
  const element = by("plot");
  const { plotly, figure } = await draw(element, `/compare/figure.json?${query()}&log_x=${by("log_x").checked}&theme=${theme()}`);
  if (turn !== latest) return;
  const isFirst = !element.data;
  await plotly.react(element, figure.data, figure.layout, figure.config);
  if (isFirst) element.on("plotly_click", (event) => (location.href = event.points[0].customdata));
}

async function redraw() {
  if (!by("plot")) return;
  try {
    await plot();
    tell(by("problem"), "");
  } catch (error) {
    tell(by("problem"), error.message);
  }
}

async function choose() {
  if (!by("plot")) return form.requestSubmit();
  const url = `/compare?${query()}`;
  history.replaceState(null, "", url);
  await redraw();
  if (by("problem").hidden) await refresh(url);
}

by("objectives").addEventListener("change", choose);
by("log_x").addEventListener("change", redraw);
dark.addEventListener("change", redraw);
remember();
redraw();
