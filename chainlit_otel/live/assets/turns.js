// The turns that are over: how each ended, how long it took, and where its time went.

import { el, facts, setText, table } from "./dom.js";
import { clock, count, dollars, NOTHING, seconds } from "./format.js";
import { Listing } from "./listing.js";
import { address } from "./route.js";
import { get } from "./source.js";
import { waterfall } from "./waterfall.js";

const OUTCOMES = { ok: "✓ answered", error: "◆ failed", cancelled: "◌ stopped" };
const KEPT = { failed: "because it failed", slow: "because it was slow", last: "as one of the last" };

/** What went wrong, and where. */
function failure({ error, callback }) {
  if (!error) return NOTHING;
  return callback ? `${error} in ${callback}` : error;
}

const number = (id, title, css = "") => ({
  id,
  title,
  css: `number ${css}`,
  text: (row) => count(row[id]),
  sort: (row) => row[id],
});
const time = (id, title, css = "") => ({ ...number(id, title, css), text: (row) => seconds(row[id]) });
const word = (id, title, css) => ({ id, title, css, text: (row) => row[id] || NOTHING, sort: (row) => row[id] });

// What no call has said is not known, which is not nothing.
const total = (row, ...names) => {
  const values = row.models.flatMap((model) => names.map((name) => model[name]).filter((value) => value !== undefined));
  return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
};
const tokens = (row) => total(row, "input_tokens", "output_tokens");
const cost = (row) => total(row, "cost");
const known = (row, value, shown) => (value !== null && missing(row) ? `≥${shown(value)}` : shown(value));
const missing = (row) => row.models.some((model) => model.uncounted);

const COLUMNS = [
  { id: "outcome", title: "Outcome", text: (row) => OUTCOMES[row.outcome] ?? row.outcome, sort: (row) => row.outcome },
  { id: "started", title: "Started", css: "number", text: (row) => clock(row.started), sort: (row) => row.started },
  time("seconds", "Duration"),
  time("first_token", "First token", "wide"),
  { id: "error", title: "Error", css: "grow", text: failure, sort: (row) => row.error },
  { id: "session", title: "Session", css: "code wide", text: (row) => row.session, sort: (row) => row.session },
  number("number", "Number", "wider"),
  number("chunks", "Chunks", "wider"),
  number("steps", "Steps", "wider"),
  { id: "tools", title: "Tools", css: "wider", text: (row) => row.tools.map((tool) => tool.name).join(", ") || NOTHING, sort: (row) => row.tools.length },
  { id: "tokens", title: "Tokens", css: "number wider", text: (row) => known(row, tokens(row), count), sort: tokens },
  { id: "cost", title: "Cost", css: "number wider", text: (row) => known(row, cost(row), dollars), sort: cost },
  word("profile", "Profile", "wide"),
];

const plain = (name) => ({ kind: "word", get: (row) => row[name] });
const figure = (name) => ({ kind: "number", get: (row) => row[name] });
const lasting = (name) => ({ kind: "duration", get: (row) => row[name] });
const FIELDS = {
  outcome: { kind: "choice", choices: ["ok", "error", "cancelled"], get: (row) => [row.outcome] },
  error: plain("error"),
  seconds: lasting("seconds"),
  first_token: lasting("first_token"),
  age: { kind: "duration", get: (row, now) => now - row.started, timed: true },
  tool: { kind: "word", get: (row) => row.tools.map((tool) => tool.name).join(" ") },
  model: { kind: "word", get: (row) => row.models.map((model) => model.name).join(" ") },
  tokens: { kind: "number", get: tokens },
  cost: { kind: "number", get: cost },
  callback: plain("callback"),
  source: plain("source"),
  session: plain("session"),
  profile: plain("profile"),
  client: plain("client"),
  chunks: figure("chunks"),
  steps: figure("steps"),
  number: figure("number"),
  undelivered: figure("undelivered"),
  data_layer_errors: figure("data_layer_errors"),
  trace: plain("trace_id"),
  kept: { kind: "choice", choices: ["last", "failed", "slow"], get: (row) => [row.kept] },
};

export function turns(rows, now) {
  return new Listing({
    view: "turns",
    title: "Turns",
    rows,
    now,
    columns: COLUMNS,
    fields: FIELDS,
    free: (row) => [row.session, row.profile, row.client],
    filter: "",
    sort: "-started",
    chips: [
      ["All", ""],
      ["Failed", "outcome:error"],
      ["Slow", "seconds:>10s"],
      ["Stopped", "outcome:cancelled"],
      ["Never seen", "undelivered:>0"],
    ],
    examples: [
      ["outcome:error seconds:>2s", "both must hold; outcome is ok, error or cancelled"],
      ["first_token:>500ms age:<10m", "times: 500ms, 2s, 10m, 1h; age is the time since it began"],
      ["error:ValueError callback:on_message tool:search source:voice", "parts of names; also of profile, client, session and trace"],
      ["model:gpt tokens:>2000 cost:>0.05", "tokens of input and output, US dollars"],
      ["chunks:>100 steps:>5 undelivered:>0 data_layer_errors:>0", "numbers, also the number of the turn in its session"],
      ["kept:slow", "why it is still here: as one of the last, or because it failed or was slow"],
      ["3f9a -profile:test", "a word alone is looked for in session, profile and client; a minus takes away what matches"],
    ],
    detail: new TurnDetail(),
  });
}

class TurnDetail {
  #asked = 0;

  constructor() {
    this.place = el("div");
  }

  async show(key, row, close) {
    const asked = (this.#asked += 1);
    const title = el("h2", { tabindex: "-1" }, heading(row));
    const body = el("div", {}, el("p", { class: "nothing" }, "Asking for it…"));
    this.place.replaceChildren(
      el("div", { class: "bar" }, title, el("button", { type: "button", class: "quiet", onclick: close }, "Close")),
      body,
    );
    let content;
    try {
      const answer = await get(`turns/${encodeURIComponent(key)}`);
      setText(title, heading(answer.row));
      content = this.#content(answer);
    } catch (error) {
      content = [el("p", { class: "notice" }, error.message)];
    }
    if (asked === this.#asked) body.replaceChildren(...content);
  }

  // A turn that is over changes no more.
  update() {}

  clear() {
    this.#asked += 1;
    this.place.replaceChildren();
  }

  #content({ row, spans, dropped }) {
    return [
      facts([
        ["Outcome", OUTCOMES[row.outcome]],
        ["Error", row.error && failure(row)],
        ["Duration", seconds(row.seconds)],
        ["First token", seconds(row.first_token)],
        ["Started", clock(row.started)],
        ["Session", el("a", { href: address({ view: "sessions", filter: "", key: row.session_key }) }, el("code", {}, row.session))],
        ["Source", row.source],
        ["Profile", row.profile],
        ["Client", row.client],
        ["Chunks", count(row.chunks)],
        ["Steps", count(row.steps)],
        ["Never seen", row.undelivered ? count(row.undelivered) : ""],
        ["Data layer errors", row.data_layer_errors ? count(row.data_layer_errors) : ""],
        ["Kept", KEPT[row.kept]],
        ["Trace", trace(row)],
      ]),
      row.models.length
        ? table("Models", ["Model", "Calls", "Input", "Output", "Cost"], row.models.map((model) => [
            model.name,
            model.uncounted ? `${count(model.inferences)}, ${count(model.uncounted)} uncounted` : count(model.inferences),
            count(model.input_tokens),
            count(model.output_tokens),
            model.unpriced ? `${dollars(model.cost)}, ${count(model.unpriced)} unpriced` : dollars(model.cost),
          ]))
        : null,
      row.tools.length
        ? table("Tools", ["Tool", "Duration", "Outcome"], row.tools.map((tool) => [tool.name, seconds(tool.seconds), tool.outcome === "ok" ? "✓ ok" : (OUTCOMES[tool.outcome] ?? tool.outcome)]))
        : null,
      el("h3", {}, "Where its time went"),
      waterfall(spans, row.seconds),
      dropped ? el("p", { class: "nothing" }, `${count(dropped)} more spans were not kept.`) : null,
    ].filter((part) => part !== null);
  }
}

const heading = (row) => (row ? `Turn ${row.number} of ${row.session}` : "Turn");

function trace({ trace_id: id, trace_url: url }) {
  if (!id) return "";
  // The template is the operator's; anything but a web address stays a text.
  if (!/^https?:\/\//i.test(url)) return el("code", {}, id);
  return el("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, el("code", {}, id), " (opens the trace)");
}
