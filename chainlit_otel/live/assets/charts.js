// The charts: their figures over 15 minutes or a day, with one cursor for all of them.

import { el, setText } from "./dom.js";
import { bytes, clock, count, minute, NOTHING, seconds } from "./format.js";
import { colour } from "./colours.js";

/* global uPlot */

// The second and third line are told apart by their dashes, too.
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

const line = (figure, label, hue) => ({ figure, label, hue });

const CHARTS = [
  ["Sessions", "count", line("connected", "connected", "blue"), line("disconnected", "disconnected", "orange"), line("peak", "peak", "grey")],
  ["Session starts and ends, a minute", "count", line("starts", "starts", "green"), line("ends", "ends", "grey"), line("reconnects", "reconnects", "orange"), line("refused", "refused", "red")],
  ["Turns, a minute", "count", line("turns_ok", "answered", "green"), line("turns_error", "failed", "red"), line("turns_cancelled", "stopped", "orange")],
  ["Turns in progress", "count", line("turns_active", "in progress", "blue")],
  ["Turn duration", "seconds", line("turn_p50", "median", "blue"), line("turn_p95", "95th percentile", "orange")],
  ["First token", "seconds", line("first_token_p50", "median", "blue"), line("first_token_p95", "95th percentile", "orange")],
  ["Answers, a minute", "count", line("chunks", "chunks sent", "blue"), line("undelivered", "never seen", "red")],
  ["Data layer duration", "seconds", line("data_layer_p95", "95th percentile", "orange")],
  ["Data layer operations, a minute", "count", line("data_layer_operations", "operations", "blue"), line("data_layer_errors", "failed", "red")],
  ["Access, a minute", "count", line("access_attempts", "attempts", "blue"), line("access_denied", "denied", "red")],
  ["Event loop lag", "seconds", line("loop_lag", "worst", "purple")],
  ["Memory", "bytes", line("memory", "resident", "purple")],
  // An app that counts none has no such chart.
  ["Tokens, a minute", "count", line("tokens_input", "read", "blue"), line("tokens_output", "written", "green")],
].map(([title, unit, ...lines]) => ({ title, unit, lines, optional: lines[0].figure.startsWith("tokens") }));

/** A time as the axis has it: in one unit, and without digits that say nothing. */
function round(value) {
  if (value < 1) return `${Number((value * 1000).toFixed(1))} ms`;
  return value < 60 ? `${Number(value.toFixed(2))} s` : `${Number((value / 60).toFixed(2))} min`;
}

const UNITS = {
  count: { format: count, axis: count, steps: [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5, 6].map((e) => n * 10 ** e)).sort((a, b) => a - b), least: 4 },
  seconds: { format: seconds, axis: round, steps: null, least: 0.01 },
  bytes: { format: bytes, axis: bytes, steps: Array.from({ length: 40 }, (_, i) => 2 ** i), least: 1024 },
};

// A history that has just begun fills the width, but not with a few seconds.
const LEAST_SPAN = 120;

class Chart {
  #plot = null;
  #times = [];
  #values = [];
  #hidden = new Set();
  #legend = [];

  constructor({ title, unit, lines, optional }, owner) {
    this.lines = lines;
    this.unit = UNITS[unit];
    this.optional = optional;
    this.owner = owner;
    this.place = el("div", { class: "plot", "aria-hidden": "true" });
    this.nothing = el("p", { class: "nothing", hidden: true }, "Nothing in this time");
    const legend = el("ul", { class: "legend" });
    this.figure = el("figure", { class: "chart" }, el("figcaption", {}, title), legend, this.place, this.nothing);
    lines.forEach((each, i) => legend.append(this.#entry(each, i)));
  }

  /** A button that takes the line out, with the value under the cursor. */
  #entry({ label, hue }, i) {
    const sample = el("span", { class: `sample hue-${hue} dash-${i}`, "aria-hidden": "true" });
    const value = el("span", { class: "value" }, NOTHING);
    const button = el("button", { type: "button", class: "quiet", "aria-pressed": "true" }, sample, `${label} `, value);
    button.addEventListener("click", () => {
      const show = this.#hidden.delete(i);
      if (!show) this.#hidden.add(i);
      button.setAttribute("aria-pressed", String(show));
      this.#plot?.setSeries(i + 1, { show });
    });
    this.#legend.push(value);
    return el("li", {}, button);
  }

  draw(history) {
    const found = this.lines.map(({ figure }) => history.values(figure));
    const nothing = found.every((values) => values === null);
    this.figure.hidden = nothing && this.optional;
    this.nothing.hidden = !nothing;
    this.place.hidden = nothing;
    this.#times = nothing ? [] : history.times();
    this.#values = found.map((values) => values ?? this.#times.map(() => null));
    if (!nothing) {
      this.#plot ??= this.#make();
      this.#plot.setData([this.#times, ...this.#values]);
    }
    this.say();
  }

  /** Write the values under the cursor, or the last ones, into the legend. */
  say() {
    const at = this.#plot?.cursor.idx ?? null;
    this.#legend.forEach((place, i) => {
      const values = this.#values[i];
      const value = at === null ? values.findLast((each) => each !== null) : values[at];
      setText(place, this.unit.format(value));
    });
  }

  /** What the legend says. */
  get words() {
    return this.lines.map(({ label }, i) => `${label} ${this.#legend[i].textContent}`).join(", ");
  }

  /** Put the cursor at a time, or take it away. */
  point(time) {
    if (this.#plot === null) return;
    const left = time === null ? -10 : this.#plot.valToPos(time, "x");
    this.#plot.setCursor({ left, top: time === null ? -10 : 1 });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (this.#plot !== null && width && (width !== this.#plot.width || height !== this.#plot.height)) {
      this.#plot.setSize({ width, height });
    }
  }

  repaint() {
    this.#plot?.redraw(false, true);
  }

  #make() {
    const size = parseFloat(getComputedStyle(this.place).fontSize);
    const axis = {
      stroke: () => colour("muted"),
      font: `${size}px system-ui, sans-serif`,
      grid: { stroke: () => colour("line"), width: 1 },
      ticks: { show: false },
    };
    const options = {
      width: this.place.clientWidth || 300,
      height: this.place.clientHeight || 140,
      legend: { show: false },
      padding: [size * 0.8, size * 0.5, 0, 0],
      cursor: {
        y: false,
        drag: { x: false, y: false },
        sync: { key: "history", scales: ["x", null] },
        points: { size: 7 },
      },
      scales: {
        x: { range: () => this.owner.range() },
        y: { range: (_, low, high) => [0, uPlot.rangeNum(0, Math.max(high ?? 0, this.unit.least), 0.05, true)[1]] },
      },
      axes: [
        { ...axis, size: size * 2, gap: 4, space: size * 5.5, values: (_, splits, axis, space, step) => splits.map(step < 60 ? clock : minute) },
        {
          ...axis,
          size: size * 5,
          gap: 6,
          space: size * 2.6,
          values: (_, splits) => splits.map((value) => (value === 0 ? "0" : this.unit.axis(value))),
          ...(this.unit.steps && { incrs: this.unit.steps }),
        },
      ],
      series: [
        {},
        ...this.lines.map(({ hue }, i) => ({
          stroke: () => colour(hue),
          width: 1.75,
          dash: DASHES[i],
          points: { show: false },
          show: !this.#hidden.has(i),
        })),
      ],
      hooks: { setCursor: [() => this.say()] },
    };
    return new uPlot(options, [this.#times, ...this.#values], this.place);
  }
}

/** All charts, the switch between both histories, and the moment that is looked at. */
export class Charts {
  #charts = [];
  #moment = null;

  /** @param histories the histories by their step */
  constructor(histories) {
    this.histories = histories;
    this.step = 1;
    this.place = document.getElementById("charts");
    this.slider = document.getElementById("moment");
    this.text = document.getElementById("moment-text");
    this.#charts = CHARTS.map((each) => new Chart(each, this));
    this.place.append(...this.#charts.map((chart) => chart.figure));
    this.buttons = [...document.querySelectorAll("button[data-step]")];
    for (const button of this.buttons) {
      button.addEventListener("click", () => this.#show(Number(button.dataset.step)));
    }
    this.slider.addEventListener("input", () => this.#look());
    new ResizeObserver(() => this.#charts.forEach((chart) => chart.resize())).observe(this.place);
    document.addEventListener("themechange", () => this.#charts.forEach((chart) => chart.repaint()));
  }

  get history() {
    return this.histories[this.step];
  }

  /** What the time axis shows: all there is, up to 15 minutes or a day. */
  range() {
    const { last, step, shown } = this.history;
    const times = this.history.times();
    const span = Math.max(LEAST_SPAN * (step > 1 ? 15 : 1), last - times[0]);
    return [last - Math.min(span, step * shown), last];
  }

  draw() {
    if (!this.place.clientWidth) return;
    for (const chart of this.#charts) chart.draw(this.history);
    this.#slide();
  }

  #show(step) {
    this.step = step;
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.step) === step));
    }
    this.#moment = null;
    this.dispatch?.();
    this.draw();
    for (const chart of this.#charts) chart.point(null);
  }

  #look() {
    const times = this.history.times();
    const index = Number(this.slider.value);
    // The end of the slider is now, and stays now.
    this.#moment = index >= times.length - 1 ? null : times[index];
    for (const chart of this.#charts) chart.point(this.#moment);
    this.#slide();
  }

  // The moment stays where it is while time goes on.
  #slide() {
    const times = this.history.times();
    const end = Math.max(1, times.length - 1);
    const index = this.#moment === null ? end : Math.max(0, times.findIndex((time) => time >= this.#moment));
    if (this.slider.max !== String(end)) this.slider.max = String(end);
    if (document.activeElement !== this.slider || this.#moment !== null) this.slider.value = String(index);
    const text = this.#moment === null ? "now" : clock(this.#moment);
    setText(this.text, text);
    if (this.#moment !== null) for (const chart of this.#charts) chart.point(this.#moment);
    // The first chart is read out with the time; the legends have the values of the others.
    this.slider.setAttribute("aria-valuetext", `${text}: ${this.#charts[0].words}`);
  }
}
