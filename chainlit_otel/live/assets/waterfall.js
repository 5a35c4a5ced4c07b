// The spans of a turn, each below its parent, with a bar where its time was.

import { el, facts } from "./dom.js";
import { plural, seconds } from "./format.js";

const MOST = 500;
const SIGNS = { error: "◆ ", cancelled: "◌ " };

/** Return the list of spans; each opens what is known about it. */
export function waterfall(spans, duration) {
  if (!spans.length) return el("p", { class: "nothing" }, "No span was kept of this turn: they are while a page is open, and for 15 minutes after.");
  const end = Math.max(duration ?? 0, ...spans.map((span) => span.start + (span.seconds ?? 0)), 0.001);
  const list = el("ol", { class: "waterfall" });
  const ordered = inOrder(spans);
  for (const [span, depth] of ordered.slice(0, MOST)) list.append(line(span, depth, end));
  list.addEventListener("keydown", move);
  const parts = el("div", {}, list);
  if (ordered.length > MOST) parts.append(el("p", { class: "nothing" }, `${plural(ordered.length - MOST, "span")} more`));
  return parts;
}

function line(span, depth, end) {
  const bar = el("span", { class: "bar-of-span", "data-outcome": span.outcome });
  bar.style.left = `${(Math.max(0, span.start) / end) * 100}%`;
  bar.style.width = `${((span.seconds ?? 0) / end) * 100}%`;
  const name = el("span", { class: "name", title: span.name }, `${SIGNS[span.outcome] ?? ""}${span.name.replace(/^chainlit\./, "")}`);
  name.style.paddingInlineStart = `${Math.min(depth, 12) * 0.9}em`;
  const more = el("div", { class: "more", hidden: true });
  const button = el(
    "button",
    { type: "button", "aria-expanded": "false" },
    name,
    el("span", { class: "track", "aria-hidden": "true" }, bar),
    el("span", { class: "duration" }, seconds(span.seconds)),
  );
  button.addEventListener("click", () => {
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
    if (!more.hidden && !more.hasChildNodes()) more.append(...about(span));
  });
  return el("li", {}, button, more);
}

function about({ start, outcome, attributes, events }) {
  const parts = [facts([["Begins after", seconds(start)], ["Outcome", outcome], ...Object.entries(attributes).map(([name, value]) => [name, text(value)])])];
  for (const event of events) {
    parts.push(el("h4", {}, `${event.name}, after ${seconds(event.at)}`));
    parts.push(facts(Object.entries(event.attributes ?? {}).map(([name, value]) => [name, text(value)])));
  }
  return parts;
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Return `[span, depth]` of all spans, those without a known parent at the top. */
function inOrder(spans) {
  const known = new Set(spans.map((span) => span.id));
  const children = new Map();
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const parent = known.has(span.parent) && span.parent !== span.id ? span.parent : "";
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(span);
  }
  const found = [];
  const stack = (children.get("") ?? []).map((span) => [span, 0]).reverse();
  while (stack.length) {
    const [span, depth] = stack.pop();
    found.push([span, depth]);
    stack.push(...(children.get(span.id) ?? []).map((child) => [child, depth + 1]).reverse());
  }
  return found;
}

function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step === undefined || event.target.getAttribute("aria-expanded") === null) return;
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  buttons[buttons.indexOf(event.target) + step]?.focus();
  event.preventDefault();
}
