// Calls to the REST interface; what the service refuses becomes an Error whose message is its sentence.

export async function call(method, url, { json, form } = {}) {
  const headers = json === undefined ? {} : { "Content-Type": "application/json" };
  const response = await reach(url, { method, headers, body: json === undefined ? form : JSON.stringify(json) });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
}

async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  const error = new Error(problem.detail || `The service answered ${response.status} ${response.statusText}.`);
  error.sentences = problem.errors?.length ? problem.errors : [error.message];
  return error;
}

export function tell(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

const running = new Set();
let isLeaving = false;

// Nothing that `paced` runs begins from now on, and what has begun is over: it could ask for what is being deleted.
export async function leave() {
  isLeaving = true;
  await Promise.allSettled(running);
}

export function stay() {
  isLeaving = false;
}

// Runs `task` soon after it is asked for, however often; never twice at a time, and at rest twice as long as it took.
export function paced(task, milliseconds) {
  let busy = false;
  let again = false;
  let rest = milliseconds;
  return async function ask() {
    if (busy) return void (again = true);
    busy = true;
    await new Promise((resolve) => setTimeout(resolve, rest));
    again = false;
    const start = performance.now();
    if (!isLeaving) await noted(task());
    rest = Math.max(milliseconds, 2 * (performance.now() - start));
    busy = false;
    if (again) ask();
  };
}

async function noted(task) {
  running.add(task);
  try {
    await task;
  } finally {
    running.delete(task);
  }
}
