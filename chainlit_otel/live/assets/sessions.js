// The sessions: which there are, what each does at this moment, and what has become of one.

import { el, facts, setText, table } from "./dom.js";
import { age, clock, count, NOTHING, plural } from "./format.js";
import { Listing } from "./listing.js";
import { address } from "./route.js";
import { get } from "./source.js";
import { lane } from "./timeline.js";

const FIRST_KEPT = 16;
const STATES = { connected: "● connected", disconnected: "◌ disconnected", ended: "■ ended" };

const ageOf = (row, now) => (row.state === "ended" && row.seconds !== null ? row.seconds : now - row.started);
const isOpen = (row) => row.state !== "ended";

/** What it does: `idle`, or where its turn is, and since when. */
function doing(row, now) {
  if (!isOpen(row)) return row.reason ? `ended: ${row.reason}` : "";
  if (row.doing === null) return row.state === "disconnected" ? `away for ${age(now - row.left)}` : "idle";
  const { callback, step, since } = row.doing;
  const lasts = Math.max(0, now - since);
  return [lasts < 60 ? `${lasts.toFixed(1)} s` : age(lasts), [callback, step].filter(Boolean).join(" › ")].filter(Boolean).join(" · ");
}

const number = (id, title, css = "", help) => ({
  id,
  title,
  css: `number ${css}`,
  help,
  text: (row) => (row[id] ? count(row[id]) : "0"),
  sort: (row) => row[id],
});
const word = (id, title, css) => ({ id, title, css, text: (row) => row[id] || NOTHING, sort: (row) => row[id] });

const COLUMNS = [
  { id: "state", title: "State", text: (row) => STATES[row.state] ?? row.state, sort: (row) => row.state },
  { id: "id", title: "Session", css: "code", text: (row) => row.id, sort: (row) => row.id },
  { id: "doing", title: "Doing now", css: "grow", text: doing, sort: (row, now) => (row.doing ? now - row.doing.since : null) },
  { id: "age", title: "Age", css: "number", text: (row, now) => age(ageOf(row, now)), sort: ageOf },
  number("turns", "Turns"),
  number("errors", "Failed", "wide"),
  number("reconnects", "Reconnects", "wider"),
  number("undelivered", "Unseen", "wider", "Messages that were sent while nobody was connected, and not fetched since"),
  word("profile", "Profile", "wide"),
  word("client", "Client", "wide"),
  word("mode", "Mode", "wider"),
];

const plain = (name) => ({ kind: "word", get: (row) => row[name] });
const figure = (name) => ({ kind: "number", get: (row) => row[name] });
const FIELDS = {
  state: {
    kind: "choice",
    choices: ["open", "connected", "disconnected", "ended"],
    get: (row) => (isOpen(row) ? ["open", row.state] : [row.state]),
  },
  doing: {
    kind: "word",
    get: (row) => (!isOpen(row) ? "" : row.doing === null ? "idle" : `turn ${row.doing.callback} ${row.doing.step}`),
  },
  age: { kind: "duration", get: ageOf, timed: true },
  turns: figure("turns"),
  errors: figure("errors"),
  cancelled: figure("cancelled"),
  reconnects: figure("reconnects"),
  undelivered: figure("undelivered"),
  id: plain("id"),
  profile: plain("profile"),
  client: plain("client"),
  origin: plain("origin"),
  mode: { kind: "choice", choices: ["websocket", "http"], get: (row) => [row.mode] },
  reason: plain("reason"),
};

export function sessions(rows, now) {
  return new Listing({
    view: "sessions",
    title: "Sessions",
    rows,
    now,
    columns: COLUMNS,
    fields: FIELDS,
    free: (row) => [row.id, row.profile, row.client],
    filter: "state:open",
    sort: "age",
    chips: [
      ["Open", "state:open"],
      ["In a turn", "doing:turn"],
      ["Disconnected", "state:disconnected"],
      ["With failures", "errors:>0"],
      ["Ended", "state:ended"],
      ["All", ""],
    ],
    examples: [
      ["state:disconnected turns:>5", "both must hold; state is open, connected, disconnected or ended"],
      ["doing:tool", "the callback or the step of its turn; also doing:idle and doing:turn"],
      ["age:>10m", "older than that: 30s, 10m, 2h, 1d"],
      ["errors:>0 reconnects:>=2 undelivered:>0", "numbers, also of turns and cancelled"],
      ["profile:\"GPT 4\" client:webapp origin:thread_resume mode:http reason:timeout", "parts of names; quotation marks around blanks"],
      ["3f9a -state:ended", "a word alone is looked for in id, profile and client; a minus before it takes away what matches"],
    ],
    detail: new SessionDetail(now),
  });
}

class SessionDetail {
  #key = null;
  #known = null;
  #asked = 0;
  #busy = false;
  #again = false;
  #late = false;

  constructor(now) {
    this.now = now;
    this.place = el("div");
  }

  show(key, row, close) {
    this.#key = key;
    this.title = el("h2", { tabindex: "-1" }, "Session ", el("code", {}, row?.id ?? key));
    this.body = el("div", {}, el("p", { class: "nothing" }, "Asking for it…"));
    this.place.replaceChildren(
      el("div", { class: "bar" }, this.title, el("button", { type: "button", class: "quiet", onclick: close }, "Close")),
      this.body,
    );
    this.#load();
  }

  /** The row has changed: something has happened to it. */
  update(row) {
    if (row === undefined) return;
    if (this.#busy) this.#again = true;
    else this.#load();
  }

  /** A second has passed: it is older, and what it does lasts longer. */
  tick() {
    if (this.#late && !this.#isMarked()) {
      this.#late = false;
      this.#load();
      return;
    }
    if (this.#known === null || !isOpen(this.#known.row)) return;
    if (!this.#isMarked()) this.body.firstChild.replaceWith(this.#moment(this.#known));
  }

  clear() {
    this.#key = this.#known = null;
    this.#asked += 1;
    this.#busy = this.#again = this.#late = false;
    this.place.replaceChildren();
  }

  /** Whoever marks a text to copy it keeps it: what is new is shown when nothing is marked. */
  #isMarked() {
    const selection = getSelection();
    return !selection.isCollapsed && this.body.contains(selection.anchorNode);
  }

  async #load() {
    const asked = (this.#asked += 1);
    this.#busy = true;
    let known = null;
    let content;
    try {
      known = await get(`sessions/${encodeURIComponent(this.#key)}`);
      content = this.#content(known);
    } catch (error) {
      content = [el("p", { class: "notice" }, error.message)];
    }
    // Somebody has gone on to another one meanwhile.
    if (asked !== this.#asked) return;
    if (this.#isMarked()) {
      this.#busy = this.#again = false;
      this.#late = true;
      return;
    }
    this.#known = known;
    const within = () => [...this.body.querySelectorAll("a, [tabindex]")];
    const focused = within().indexOf(document.activeElement);
    this.body.replaceChildren(...content);
    // What is new comes at the end: whoever has got somewhere by keyboard stays there.
    within()[focused]?.focus({ preventScroll: true });
    this.#busy = false;
    if (this.#again) {
      this.#again = false;
      this.#load();
    }
  }

  #content(known) {
    const { row, events, turns, skipped = 0 } = known;
    setText(this.title.lastChild, row.id);
    const keys = new Map(turns.map((turn) => [turn.number, turn.key]));
    const lines = events.map((event) => [clock(event.at), kind(event), described(event, keys)]);
    if (skipped) {
      // The beginning is kept, and what came last.
      lines.splice(FIRST_KEPT, 0, ["…", `${plural(skipped, "event")} not kept`, ""]);
    }
    return [
      this.#moment(known),
      el("h3", {}, "What happened"),
      table(`Events of session ${row.id}`, ["Time", "What", "Detail"], lines),
    ];
  }

  #moment({ row, events, turns }) {
    const now = this.now();
    return el(
      "div",
      {},
      facts([
        ["State", STATES[row.state]],
        ["Doing now", isOpen(row) ? doing(row, now) : ""],
        ["End", row.reason],
        ["Started", clock(row.started)],
        [isOpen(row) ? "Age" : "Duration", age(ageOf(row, now))],
        ["Turns", count(row.turns)],
        ["Failed", some(row.errors)],
        ["Stopped", some(row.cancelled)],
        ["Reconnects", some(row.reconnects)],
        ["Never seen", some(row.undelivered)],
        ["Profile", row.profile],
        ["Client", row.client],
        ["Origin", row.origin],
        ["Mode", row.mode],
      ]),
      lane({ row, events, turns, now }),
    );
  }
}

const some = (n) => (n ? count(n) : "");

const KINDS = {
  connect: "● connected",
  turn: "turn began",
  turn_end: "turn ended",
  drop: "◌ connection lost",
  reconnect: "● came back",
  undelivered: "✕ answer not seen",
  data_layer_error: "◆ data layer failed",
  callback_error: "◆ callback failed",
  end: "■ ended",
};

const kind = ({ kind: name }) => KINDS[name] ?? name;

function described({ kind: name, detail }, keys) {
  if (name !== "turn") return String(detail ?? "");
  const key = keys.get(Number(detail));
  const text = `number ${detail}`;
  return key === undefined ? text : el("a", { href: address({ view: "turns", filter: "", key }) }, text);
}
