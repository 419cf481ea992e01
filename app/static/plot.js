// The front's plot: the figure is made by the service, drawn here, redrawn on news with the user's zoom kept.

import { paced } from "./api.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)");
const narrow = matchMedia("(max-width: 640px)");

export const theme = () => (dark.matches ? "dark" : "light");

export function library() {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  const script = document.getElementById("plotly");
  return new Promise((resolve, reject) => {
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => reject(new Error("The plotting library could not be loaded.")));
  });
}

export async function draw(element, url) {
  const [plotly, response] = await Promise.all([library(), fetch(url)]);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail || "The figure could not be made.");
  const figure = await response.json();
  if (coarse.matches) figure.layout.dragmode = false;
  figure.config.displayModeBar = !(coarse.matches || narrow.matches) && figure.config.displayModeBar !== false;
  return { plotly, figure };
}

// A pointer that rests on a point aims at it for so long; a finger never says that it has left.
const AIM = 10000;

export class FrontPlot {
  constructor(element, form, job, onPick, onProblem) {
    Object.assign(this, { element, form, job, onPick, onProblem, index: null, latest: 0, isAimedAt: false, isLate: false });
    this.update = paced(() => this.redraw(true), 30);
    form.addEventListener("change", () => this.changed());
    dark.addEventListener("change", this.update);
  }

  query() {
    const checked = ["log_x", "log_y", "dominated"].map((name) => [name, this.form.elements[name].checked]);
    return new URLSearchParams([["x", this.form.elements.x.value], ["y", this.form.elements.y.value], ...checked]);
  }

  changed() {
    history.replaceState(null, "", `?${this.query()}${location.hash}`);
    this.redraw();
  }

  // News wait while a point is aimed at, lest it move away from under the pointer.
  async redraw(isNews = false) {
    if (this.element.hidden || this.isHeld(isNews)) return;
    const turn = ++this.latest;
    try {
      const { plotly, figure } = await draw(this.element, `/jobs/${this.job}/figure.json?${this.query()}&theme=${theme()}`);
      if (turn === this.latest && !this.isHeld(isNews)) await this.show(plotly, figure);
    } catch (error) {
      this.onProblem(error.message);
    }
  }

  async show(plotly, figure) {
    const isFirst = !this.figure;
    this.figure = figure;
    await plotly.react(this.element, this.marked(), figure.layout, figure.config);
    if (isFirst) this.attend();
    this.onProblem("");
  }

  attend() {
    this.element.on("plotly_click", (event) => this.onPick(event.points[0].customdata));
    this.element.on("plotly_hover", () => this.aim(true));
    this.element.on("plotly_unhover", () => this.aim(false));
  }

  isHeld(isNews) {
    const isHeld = isNews && this.isAimedAt;
    this.isLate ||= isHeld;
    return isHeld;
  }

  aim(isAimedAt) {
    this.isAimedAt = isAimedAt;
    clearTimeout(this.timer);
    if (isAimedAt) this.timer = setTimeout(() => this.aim(false), AIM);
    else if (this.isLate) this.update();
    this.isLate &&= isAimedAt;
  }

  mark(index) {
    this.index = index;
    if (this.figure) window.Plotly.react(this.element, this.marked(), this.figure.layout, this.figure.config);
  }

  marked() {
    const ring = this.figure.data.flatMap((trace) => this.ringOn(trace));
    return [...this.figure.data, ...ring];
  }

  ringOn(trace) {
    const position = trace.customdata?.indexOf(this.index) ?? -1;
    if (position < 0) return [];
    const colour = this.figure.layout.font.color;
    const marker = { size: 18, color: colour, symbol: "circle-open", line: { width: 2.5, color: colour } };
    const common = { mode: "markers", hoverinfo: "skip", showlegend: false, uid: "picked", name: "picked" };
    return [{ ...common, x: [trace.x[position]], y: [trace.y[position]], marker }];
  }
}
