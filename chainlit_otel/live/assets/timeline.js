// The life of a session, drawn: above when it was connected, in the middle its turns, below
// what went wrong. The table of its events says the same in words.

import { el, svg } from "./dom.js";
import { age, clock } from "./format.js";

const MARKS = {
  undelivered: { path: "M-4-4 4 4M4-4-4 4", css: "mark-lost", title: "answer not seen" },
  data_layer_error: { path: "M0-5 5 0 0 5-5 0Z", css: "mark-error", title: "data layer failed" },
  callback_error: { path: "M0-5 5 0 0 5-5 0Z", css: "mark-error", title: "callback failed" },
};
const OUTCOMES = { ok: "turn-ok", error: "turn-error", cancelled: "turn-cancelled" };

/** Return the drawing. */
export function lane({ row, events, turns, now }) {
  const from = row.started;
  const over = events.findLast((event) => event.kind === "end")?.at;
  const to = Math.max(over ?? (row.state === "ended" ? from + (row.seconds ?? 0) : now), from + 1);
  const part = (at) => `${(Math.min(1, Math.max(0, (at - from) / (to - from))) * 100).toFixed(3)}%`;
  const width = (a, b) => `${(Math.max(0, Math.min(b, to) - Math.max(a, from)) / (to - from) * 100).toFixed(3)}%`;

  const drawing = svg("svg", {
    class: "lane",
    role: "img",
    "aria-label": `From ${clock(from)} for ${age(to - from)}: ${stretches(events, from, to).filter(([, , there]) => !there).length} times away, ${turns.length} turns. The table below has it all.`,
  });
  for (const [a, b, there] of stretches(events, from, to)) {
    drawing.append(
      svg("rect", { class: there ? "there" : "away", x: part(a), width: width(a, b), y: "4", height: "12", rx: "2" },
        svg("title", {}, `${there ? "connected" : "disconnected"} for ${age(b - a)}`)),
    );
  }
  for (const { number, started, seconds, outcome } of turns) {
    const end = seconds === null ? now : started + seconds;
    // A short turn of a long session is still to be seen.
    drawing.append(
      svg("svg", { x: part(started), y: "22", width: width(started, end), height: "14", class: "at" },
        svg("rect", { class: OUTCOMES[outcome] ?? "turn-ok", width: "100%", height: "14" }),
        svg("rect", { class: OUTCOMES[outcome] ?? "turn-ok", width: "3", height: "14" }),
        svg("title", {}, `turn ${number}: ${outcome}`)),
    );
  }
  for (const { at, kind, detail } of events) {
    const mark = MARKS[kind];
    if (mark === undefined) continue;
    drawing.append(
      svg("svg", { x: part(at), y: "48", class: "at" },
        svg("path", { d: mark.path, class: mark.css }), svg("title", {}, `${mark.title} ${detail}`)),
    );
  }
  return el(
    "div",
    { class: "lane-box" },
    drawing,
    el("div", { class: "lane-ends", "aria-hidden": "true" }, el("span", {}, clock(from)), el("span", {}, age(to - from)), el("span", {}, over || row.state === "ended" ? clock(to) : "now")),
    el("ul", { class: "lane-legend", "aria-hidden": "true" },
      ...[["there", "connected"], ["away", "away"], ["turn-ok", "answered"], ["turn-error", "failed"], ["turn-cancelled", "stopped"]].map(([css, text]) =>
        el("li", {}, svg("svg", { width: "14", height: "10" }, svg("rect", { class: css, x: "1", y: "1", width: "12", height: "8", rx: "1" })), ` ${text}`)),
      ...[["undelivered", "not seen"], ["callback_error", "error"]].map(([name, text]) =>
        el("li", {}, svg("svg", { width: "14", height: "10", viewBox: "-7 -6 14 12" }, svg("path", { d: MARKS[name].path, class: MARKS[name].css })), ` ${text}`)),
    ),
  );
}

/** When it was connected, and when not: `[from, to, connected]` each. */
function stretches(events, from, to) {
  const found = [];
  let since = from;
  let there = true;
  for (const { at, kind } of events) {
    const next = kind === "drop" ? false : kind === "reconnect" || kind === "connect" ? true : there;
    if (next === there) continue;
    found.push([since, at, there]);
    [since, there] = [at, next];
  }
  found.push([since, to, there]);
  return found.filter(([a, b]) => b > a);
}
