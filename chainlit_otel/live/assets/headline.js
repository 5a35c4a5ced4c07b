// The first row: a few numbers, each with its curve and its level.

import { el, setText, svg } from "./dom.js";
import { measured } from "./format.js";

// Never by colour alone: a sign and a word.
const LEVELS = { ok: "", warning: "▲ warning", critical: "◆ critical" };
const POINTS = 90;
const WIDTH = 100;
const HEIGHT = 28;

export class Headline {
  #tiles = new Map();
  #place = document.getElementById("tiles");
  #help = document.getElementById("tiles-help");
  #words = document.getElementById("tiles-words");

  /** How many figures are at each level. */
  levels = { warning: 0, critical: 0 };

  /** Show the figures of a tick, with curves from the history of the last 15 minutes. */
  draw(headline, history) {
    this.levels = { warning: 0, critical: 0 };
    for (const figure of headline) {
      const tile = this.#tiles.get(figure.name) ?? this.#make(figure);
      const [value, unit] = measured(figure.value, figure.unit);
      setText(tile.value, value);
      setText(tile.unit, unit);
      const level = figure.level in LEVELS ? figure.level : "ok";
      if (level in this.levels) this.levels[level] += 1;
      if (tile.item.dataset.level !== level) {
        tile.item.dataset.level = level;
        setText(tile.level, LEVELS[level]);
      }
      tile.curve.setAttribute("d", path(history.values(figure.curve)));
    }
  }

  #make({ name, title, help }) {
    const tile = {
      value: el("span", { class: "number" }),
      unit: el("span", { class: "unit" }),
      level: el("span", { class: "level" }),
      curve: svg("path"),
    };
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      tile.curve,
    );
    tile.item = el(
      "li",
      { class: "tile", "data-level": "", "data-name": name, title: help },
      el("span", { class: "title" }, title),
      el("span", { class: "figure" }, tile.value, " ", tile.unit),
      tile.level,
      drawing,
    );
    this.#place.append(tile.item);
    this.#tiles.set(name, tile);
    if (help) {
      this.#help.hidden = false;
      this.#words.append(el("div", {}, el("dt", {}, title), el("dd", {}, help)));
    }
    return tile;
  }
}

/** The highest value of each stretch, from the left to the right; a gap where nothing is known. */
function path(values) {
  if (values === null) return "";
  const each = Math.max(1, Math.ceil(values.length / POINTS));
  const points = [];
  // Stretches are counted from the end, which is now.
  for (let end = values.length; end > 0; end -= each) {
    const known = values.slice(Math.max(0, end - each), end).filter((value) => value !== null);
    points.unshift(known.length ? Math.max(...known) : null);
  }
  const top = Math.max(...points.filter((point) => point !== null));
  let pen = "M";
  return points
    .map((point, i) => {
      if (point === null) {
        pen = "M";
        return "";
      }
      const x = points.length > 1 ? (i / (points.length - 1)) * WIDTH : WIDTH;
      const y = HEIGHT - 2 - (top > 0 ? point / top : 0) * (HEIGHT - 4);
      const text = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
      return text;
    })
    .join("");
}
