// What chainlit-otel itself is doing: probes, exporters, settings, versions, memory.

import { el, facts, table } from "./dom.js";
import { age, bytes, clock, count } from "./format.js";
import { get } from "./source.js";

const EVERY = 10_000;
const STATES = { on: "✓ on", off: "◌ off", failing: "◆ failing" };
const STATUSES = { ok: "✓ ok", degraded: "▲ degraded" };

export class Health {
  #place = document.getElementById("health");
  #timer = 0;
  #said = "";

  constructor(now) {
    this.now = now;
  }

  /** Ask again and again, as long as somebody looks. */
  start() {
    if (this.#timer) return;
    this.#timer = setInterval(() => document.hidden || this.load(), EVERY);
    this.load();
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  async load() {
    let answer;
    try {
      answer = await get("health");
    } catch (error) {
      if (!this.#said) this.#place.replaceChildren(el("p", { class: "notice" }, error.message));
      return;
    }
    // What has not changed is not built again: somebody may be reading or marking it.
    const said = JSON.stringify({ ...answer, memory: null });
    if (said === this.#said) return;
    this.#said = said;
    this.#place.replaceChildren(...this.#content(answer));
  }

  #content(answer) {
    const { service, probes, settings, links, memory = {} } = answer;
    const exporters = answer.exporters.filter((exporter) => exporter.destination || exporter.lost);
    return [
      part(
        "State",
        facts([
          ["Status", STATUSES[answer.status] ?? answer.status],
          ["Service", [service.name, service.version].filter(Boolean).join(" ")],
          ["Instance", service.instance],
          ["Observed since", answer.started && `${clock(answer.started)}, ${age(this.now() - answer.started)}`],
          ["chainlit-otel", answer.version],
          ["Chainlit", answer.chainlit],
          ["OpenTelemetry", answer.opentelemetry],
          ["Python", answer.python],
          ["Series", answer.series && count(answer.series)],
          ...Object.entries(memory).map(([name, value]) => [`Memory: ${name.replaceAll("_", " ")}`, bytes(value)]),
        ]),
        el("ul", { class: "links" }, ...links.map(({ title, url }) => el("li", {}, link(title, url)))),
      ),
      part(
        "Probes",
        table("Probes", ["Probe", "State", "Why"], Object.entries(probes).map(([name, { state, reason }]) => [name, STATES[state] ?? state, reason])),
      ),
      part(
        "Exporters",
        exporters.length
          ? table(
              "Exporters",
              ["Signal", "Destination", "Lost", "Why"],
              exporters.map(({ signal, destination, lost, reasons }) => [
                signal,
                destination,
                lost ? `◆ ${count(lost)}` : "0",
                Object.entries(reasons).map(([reason, n]) => `${reason}: ${count(n)}`).join(", "),
              ]),
            )
          : el("p", { class: "nothing" }, "Nothing is sent anywhere; the metrics are there to be scraped."),
      ),
      part(
        "Settings",
        table(
          "Settings",
          ["Setting", "Value", "Environment variable"],
          settings.map(({ name, env, value, is_default: isDefault }) => [
            el("code", {}, name),
            isDefault ? el("span", { class: "muted" }, String(value), " (default)") : el("strong", {}, String(value)),
            el("code", {}, env),
          ]),
        ),
      ),
    ];
  }
}

const part = (title, ...content) => el("section", { class: "panel", "aria-label": title }, el("h2", {}, title), ...content);

function link(title, url) {
  // A path stands below the page's own address, which may be below another one.
  if (!/^(https?:\/\/|[\w./-]+$)/i.test(url)) return title;
  return el("a", { href: url, rel: "noopener noreferrer" }, title);
}
