// One network's details beside the plot, and its downloads.

import { call, tell } from "./api.js";
import { draw, theme } from "./plot.js";

export class Details {
  constructor(element, job) {
    Object.assign(this, { element, job, latest: 0 });
    element.addEventListener("click", (event) => this.clicked(event));
    element.addEventListener("change", (event) => this.changed(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawLayers());
  }

  async show(index) {
    const turn = ++this.latest;
    this.element.setAttribute("aria-busy", "true");
    try {
      const html = await (await call("GET", `/jobs/${this.job}/points/${index}`)).text();
      if (turn === this.latest) this.fill(html);
    } catch (error) {
      if (turn === this.latest) this.fail(error);
    } finally {
      this.element.removeAttribute("aria-busy");
    }
  }

  fill(html) {
    this.element.innerHTML = html;
    this.drawLayers();
  }

  fail(error) {
    const text = document.createElement("p");
    text.textContent = error.message;
    text.className = "problem";
    this.element.replaceChildren(text);
  }

  async drawLayers() {
    const target = this.element.querySelector("[data-figure]");
    if (!target) return;
    const { plotly, figure } = await draw(target, `${target.dataset.figure}?theme=${theme()}`);
    await plotly.react(target, figure.data, figure.layout, { ...figure.config, displayModeBar: false });
  }

  clicked(event) {
    if (event.target.id === "share") this.share(event.target);
    const link = event.target.closest("[data-download]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.download(link);
  }

  changed(event) {
    if (event.target.id !== "compact") return;
    for (const link of this.element.querySelectorAll("[data-download]")) {
      link.search = event.target.checked ? "?compact=true" : "";
    }
  }

  async share(button) {
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copy it from the address bar";
    }
  }

  async download(link) {
    const answer = this.element.querySelector("#download-answer");
    tell(answer, `Making and checking the ${link.dataset.download} file…`);
    try {
      const response = await call("GET", link.href);
      const name = await save(response);
      tell(answer, [`Saved ${name}`, ...facts(response.headers)].join(" · "));
    } catch (error) {
      tell(answer, error.message);
    }
  }
}

// What was measured while the file was made.
function facts(headers) {
  const prefix = "x-paretopath-";
  const measured = [...headers].filter(([name]) => name.startsWith(prefix));
  return measured.map(([name, value]) => `${name.slice(prefix.length).replaceAll("-", " ")} ${value}`);
}

async function save(response) {
  const named = /filename="?([^";]+)"?/.exec(response.headers.get("Content-Disposition") ?? "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = named ? named[1] : "network";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return link.download;
}
