// The buttons that pause, cancel, go on with and delete a job, or all jobs of a study.

import { call, leave, stay, tell } from "./api.js";

const by = (id) => document.getElementById(id);

// `api` is the address of what is steered; `update` brings the page up to date after each request.
export function steer(api, update) {
  const refused = (text) => tell(by("problem"), text);

  async function request(button, wanted) {
    button.disabled = true;
    try {
      await call("POST", `${api}/${wanted}`);
      refused("");
    } catch (error) {
      refused(error.message);
    }
    await update();
    button.disabled = false;
  }

  async function remove() {
    await leave();
    try {
      await call("DELETE", api);
      location.href = "/";
    } catch (error) {
      stay();
      refused(error.message);
    }
  }

  document.addEventListener("click", (event) => {
    const wanted = event.target.dataset?.request;
    if (wanted) request(event.target, wanted);
    if (event.target.id === "delete") by("confirm").showModal();
  });
  by("confirm").addEventListener("close", () => {
    if (by("confirm").returnValue === "yes") remove();
  });
}
