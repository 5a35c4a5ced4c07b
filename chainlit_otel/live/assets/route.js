// What is looked at is in the address, behind the `#`: it can be sent to somebody, and the
// button back works.

export const VIEWS = ["overview", "sessions", "turns", "health"];

const listeners = [];

/** Return what the address says: `{view, filter, sort, key}`; what it does not say is null. */
export function route() {
  const [name, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const values = new URLSearchParams(query);
  return {
    view: VIEWS.includes(name) ? name : "overview",
    filter: values.get("filter"),
    sort: values.get("sort"),
    key: values.get("key"),
  };
}

/** Return the address of a view. */
export function address({ view, ...values }) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return `#${view}${text && `?${text}`}`;
}

/** Change part of what the address says; `replace` leaves no step for the button back. */
export function go(changes, { replace = false } = {}) {
  const target = address({ ...route(), ...changes });
  if (target === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", target);
  tell();
}

/** Call a function with the route, whenever it has changed. */
export function onRoute(listener) {
  listeners.push(listener);
}

export function tell() {
  const now = route();
  for (const listener of listeners) listener(now);
}

addEventListener("hashchange", tell);
addEventListener("popstate", tell);
