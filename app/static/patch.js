// Brings parts of this page up to date from a fresh copy of it, leaving alone what has not changed.

const rendered = new WeakMap();

export async function refresh(url = location.pathname + location.search) {
  const response = await fetch(url, { headers: { Accept: "text/html" } });
  if (!response.ok) throw new Error(`The page answered ${response.status}.`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const focused = document.activeElement?.id;
  for (const current of document.querySelectorAll("[data-patch]")) patch(current, fresh.getElementById(current.id));
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
}

export function remember() {
  for (const element of document.querySelectorAll("[data-patch=replace], [data-patch=children] > *")) source(element);
}

function patch(current, fresh) {
  if (!fresh) return;
  if (current.dataset.patch === fresh.dataset.patch && fresh.dataset.patch === "children") children(current, fresh);
  else swap(current, fresh);
}

function children(current, fresh) {
  const wanted = new Set([...fresh.children].map((child) => child.id));
  for (const child of [...current.children]) if (!wanted.has(child.id)) child.remove();
  [...fresh.children].forEach((child, position) => place(current, child, position));
}

function place(parent, fresh, position) {
  const current = document.getElementById(fresh.id);
  if (current) swap(current, fresh);
  else {
    rendered.set(fresh, fresh.outerHTML);
    parent.insertBefore(fresh, parent.children[position] ?? null);
  }
}

function swap(current, fresh) {
  const html = fresh.outerHTML;
  if (source(current) === html) return;
  rendered.set(fresh, html);
  current.replaceWith(fresh);
}

function source(element) {
  if (!rendered.has(element)) rendered.set(element, element.outerHTML);
  return rendered.get(element);
}
