// The form of a new job or study: shows the settings of what is chosen, sends what differs from the defaults.

import { call, tell } from "./api.js";

const by = (id) => document.getElementById(id);
const form = by("job");
const LISTS = { integers: Number, numbers: Number, texts: String };

function settings(part) {
  const chosen = part.querySelector("select").value;
  return [...part.querySelectorAll("[data-settings]")].find((fieldset) => fieldset.dataset.settings === chosen);
}

function show(part) {
  const select = part.querySelector("select");
  const chosen = settings(part);
  for (const fieldset of part.querySelectorAll("[data-settings]")) fieldset.hidden = fieldset.disabled = fieldset !== chosen;
  by(`${part.dataset.part}-summary`).textContent = select.selectedOptions[0]?.dataset.summary ?? "";
}

const text = (input) => (input.type === "checkbox" ? String(input.checked) : input.value.trim());

function value(input) {
  const { kind } = input.dataset;
  if (kind === "boolean") return input.checked;
  if (kind in LISTS) return text(input).split(/[\s,]+/).filter(Boolean).map((x) => number(x, LISTS[kind]));
  return kind === "integer" || kind === "number" ? Number(text(input)) : text(input);
}

function number(entry, convert) {
  const converted = convert(entry);
  return Number.isNaN(converted) ? entry : converted;
}

function given(inputs) {
  const changed = [...inputs].filter((input) => input.required || text(input) !== input.dataset.default);
  return Object.fromEntries(changed.filter((input) => text(input) !== "" || input.dataset.kind in LISTS).map((input) => [input.name, value(input)]));
}

function part(kind) {
  const element = form.querySelector(`[data-part=${kind}]`);
  const chosen = settings(element);
  return { name: by(kind).value, params: given(chosen ? chosen.querySelectorAll("[data-kind]") : []) };
}

function body() {
  const named = (names) => names.map(by).filter(Boolean);
  const parts = Object.fromEntries(["network", "data", "penalty", "method"].map((kind) => [kind, part(kind)]));
  const budget = given(form.querySelectorAll("input[id^=budget-]"));
  return { ...parts, loss: by("loss").value, budget, ...given(named(["points", "seed", "device", "name", "tags"])) };
}

// What is asked for once for each seed and method: a study; null where there is but one of each.
function study() {
  const { network, penalty, method, seed = 0, ...common } = body();
  const count = Number(text(by("seeds")));
  const ticked = [...form.querySelectorAll("input[name=further]:checked")].map((box) => box.value);
  const methods = [method, ...ticked.filter((name) => name !== method.name)];
  if (count < 2 && methods.length < 2) return null;
  const seeds = Array.from({ length: count }, (_, i) => seed + i);
  return { ...common, networks: [network], penalties: [penalty], methods, seeds };
}

function refuse(sentences) {
  const list = document.createElement("ul");
  for (const sentence of sentences) list.append(Object.assign(document.createElement("li"), { textContent: sentence }));
  const title = Object.assign(document.createElement("p"), { textContent: "The job was not started:" });
  by("problem").replaceChildren(title, list);
  by("problem").hidden = false;
  by("problem").focus();
}

function invalid() {
  const input = form.querySelector(":invalid:not(fieldset)");
  if (!input) return false;
  input.closest("details")?.setAttribute("open", "");
  input.reportValidity();
  return true;
}

async function submit(event) {
  event.preventDefault();
  by("problem").hidden = true;
  if (invalid()) return;
  busy("Checking that network and data fit…");
  try {
    const several = study();
    const kind = several ? "studies" : "jobs";
    const response = await call("POST", `/api/v1/${kind}`, { json: several ?? body() });
    location.href = `/${kind}/${(await response.json()).id}`;
  } catch (error) {
    busy("");
    refuse(error.sentences ?? [error.message]);
  }
}

function busy(message) {
  by("submit").disabled = message !== "";
  by("submitting").textContent = message;
}

async function upload() {
  const [file] = by("upload").files;
  if (!file) return;
  tell(by("upload-answer"), `Uploading ${file.name}…`);
  const data = new FormData();
  data.append("file", file);
  try {
    const stored = await (await call("POST", "/api/v1/datasets", { form: data })).json();
    choose(stored.name);
    tell(by("upload-answer"), `${stored.name} is uploaded and chosen.`);
  } catch (error) {
    tell(by("upload-answer"), error.message);
  }
}

function choose(name) {
  const known = [...by("data").options].some((option) => option.value === name);
  if (!known) by("uploaded").append(new Option(name, name));
  by("data").value = name;
  show(by("data").closest("[data-part]"));
}

for (const element of form.querySelectorAll("[data-part]")) {
  element.querySelector("select").addEventListener("change", () => show(element));
  show(element);
}
form.addEventListener("submit", submit);
by("upload").addEventListener("change", upload);
addEventListener("pageshow", () => busy(""));
