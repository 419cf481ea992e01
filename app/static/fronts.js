// The plot of several fronts on the axes that a form names; a click opens a network.

import { tell } from "./api.js";
import { draw, theme } from "./plot.js";

const by = (id) => document.getElementById(id);
const form = by("asked");
let latest = 0;

export const query = () => new URLSearchParams(new FormData(form));

async function plot(element) {
  const turn = ++latest;
  const asked = new URLSearchParams([...query(), ["log_x", by("log_x").checked], ["theme", theme()]]);
  const { plotly, figure } = await draw(element, `${form.dataset.figure}?${asked}`);
  if (turn !== latest) return;
  const isFirst = !element.data;
  await plotly.react(element, figure.data, figure.layout, figure.config);
  if (isFirst) element.on("plotly_click", (event) => (location.href = event.points[0].customdata));
}

export async function redraw() {
  if (!by("plot")) return;
  try {
    await plot(by("plot"));
    tell(by("problem"), "");
  } catch (error) {
    tell(by("problem"), error.message);
  }
}

by("log_x").addEventListener("change", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
