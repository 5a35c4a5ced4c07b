// Puts the page together: what the source brings goes to the views, what the address says, too.

import { Charts } from "./charts.js";
import { setText } from "./dom.js";
import { age, clock, count, plural } from "./format.js";
import { Headline } from "./headline.js";
import { Health } from "./health.js";
import { History } from "./history.js";
import { onRoute, route, tell } from "./route.js";
import { Rows } from "./rows.js";
import { sessions } from "./sessions.js";
import { get, Source } from "./source.js";
import { turns } from "./turns.js";

const byId = (id) => document.getElementById(id);

const source = new Source();
const now = () => source.now();
const histories = { 1: new History(1, 15 * 60), 60: new History(60, 24 * 60) };
const stores = { sessions: new Rows(), turns: new Rows() };
const headline = new Headline();
const charts = new Charts(histories);
const listings = { sessions: sessions(stores.sessions, now), turns: turns(stores.turns, now) };
const health = new Health(now);

// --- what was before -----------------------------------------------------------------------

async function history(step) {
  const { last } = histories[step];
  // The last value of the day is that of a minute which was not over.
  const since = last === null ? "" : `&since=${last}`;
  histories[step].load(await get(`history?step=${step}${since}`));
}

async function about() {
  const { service, chainlit, status, probes } = await get("health");
  setText(byId("service"), service.name || "Chainlit");
  setText(byId("release"), [service.version, chainlit && `Chainlit ${chainlit}`].filter(Boolean).join(" · "));
  const failing = Object.values(probes).filter((probe) => probe.state === "failing").length;
  title();
  setText(byId("count-health"), status === "ok" ? "" : failing ? `◆ ${failing}` : "▲");
}

const LISTS = {
  sessions: ({ open, ended }) => [...open, ...ended],
  turns: ({ rows }) => rows,
};

async function rows(name) {
  stores[name].expect();
  stores[name].replace(LISTS[name](await get(name)));
}

// The stream is open by now: what happens while all this is asked for is put aside.
source.addEventListener("open", async () => {
  try {
    await Promise.all([
      rows("sessions"),
      rows("turns"),
      history(1),
      history(60),
      about(),
    ]);
  } catch (error) {
    source.fail(error);
    return;
  }
  byId("denied").hidden = true;
  byId("main").hidden = false;
  show();
});

source.addEventListener("step", () => Object.values(histories).forEach((of) => of.clear()));

source.addEventListener("denied", ({ detail }) => {
  byId("main").hidden = true;
  byId("denied").hidden = false;
  setText(byId("denied-text"), detail);
});

// --- what happens --------------------------------------------------------------------------

const MOST_ADDED = 500;
let minute = 0;

source.addEventListener("tick", ({ detail: { at, figures, headline: first, loop } }) => {
  histories[1].add(at, figures);
  headline.draw(first, histories[1]);
  blocked(loop);
  title();
  for (const listing of Object.values(listings)) listing.tick();
  if (histories[1].length && charts.step === 1) draw();
  // A minute's value is made by the server, and it is over some time before it is asked for.
  if (Math.floor((at - 2) / 60) > minute) {
    if (minute) history(60).then(draw, () => {});
    minute = Math.floor((at - 2) / 60);
  }
});

for (const [name, store] of Object.entries(stores)) {
  source.addEventListener(name, ({ detail }) => store.update(detail.rows));
  store.addEventListener("change", ({ detail }) => {
    listings[name].update();
    listings[name].changed(detail);
    counts();
    // The server does not tell of each row that it keeps no longer. What it keeps is asked for
    // now and then, so that a page that stays open for days holds no more than a new one.
    if (store.added > MOST_ADDED) rows(name).catch((error) => source.fail(error));
  });
}

function draw() {
  if (route().view === "overview" && !document.hidden) charts.draw();
}

charts.dispatch = () => charts.step === 60 && history(60).then(draw, () => {});

function counts() {
  let open = 0;
  for (const row of stores.sessions.values()) open += row.state !== "ended";
  setText(byId("count-sessions"), count(open));
  setText(byId("count-turns"), count(stores.turns.size));
}

function blocked({ blocked: is, seconds, where }) {
  const banner = byId("banner");
  banner.hidden = !is;
  if (!is) {
    setText(byId("banner-text"), "");
    return;
  }
  // It is said once, and not again with each second.
  setText(byId("banner-text"), `The event loop of the app is blocked${where ? ` at ${where}` : ""}.`);
  setText(byId("banner-more"), `For ${age(seconds)}: nobody is answered meanwhile.`);
}

function title() {
  const { critical, warning } = headline.levels;
  const sign = critical ? `◆ ${critical} · ` : warning ? `▲ ${warning} · ` : "";
  const text = `${sign}${byId("service").textContent}, live`;
  if (document.title !== text) document.title = text;
}

// --- whether it is live --------------------------------------------------------------------

const WORDS = { connecting: "Connecting", live: "Live", lost: "Not live", paused: "Paused" };

function state() {
  const place = byId("state");
  place.dataset.state = source.state;
  setText(byId("state-text"), WORDS[source.state]);
  let more = "";
  if (source.state === "lost") {
    const wait = Math.max(0, Math.ceil((source.next - Date.now()) / 1000));
    more = `since ${clock(source.since / 1000)}, ${wait ? `again in ${plural(wait, "second")}` : "trying"}`;
    if (source.why && byId("denied").hidden) more += `. ${source.why}`;
  }
  setText(byId("state-more"), more);
}

source.addEventListener("status", state);
setInterval(() => source.state === "lost" && state(), 1000);

// --- what is looked at ---------------------------------------------------------------------

const links = [...document.querySelectorAll("nav a[data-view]")];

function show(now = route()) {
  for (const section of document.querySelectorAll("main > section")) {
    section.hidden = section.dataset.view !== now.view && section.id !== now.view;
  }
  for (const link of links) {
    if (link.dataset.view !== now.view) {
      link.removeAttribute("aria-current");
      continue;
    }
    link.setAttribute("aria-current", "page");
    // Whoever comes back finds it as it was left.
    link.href = location.hash || `#${now.view}`;
  }
  document.body.dataset.view = now.view;
  listings[now.view]?.follow(now);
  if (now.view === "health") health.start();
  else health.stop();
  draw();
}

onRoute(show);

addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const listing = listings[route().view];
  if (listing === undefined) return;
  listing.focusFilter();
  event.preventDefault();
});

// The link that skips to the content has an address of its own, which is no view.
document.querySelector(".skip").addEventListener("click", (event) => {
  byId("main").focus();
  event.preventDefault();
});

tell();
source.start();
