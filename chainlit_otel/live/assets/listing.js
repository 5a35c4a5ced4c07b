// A view of many rows: a filter, a table, and beside it what is known about one of them.

import { el, setText } from "./dom.js";
import { FilterError, parse } from "./filter.js";
import { count } from "./format.js";
import { Grid } from "./grid.js";
import { go, route } from "./route.js";

export class Listing {
  #sorted = [];
  #known = new Set();
  #column = null;
  #descending = true;
  #filter = null;
  #text = null;
  #key = null;
  #opened = false;

  /**
   * @param view its name in the address, and the id of its place
   * @param rows the `Rows`
   * @param columns those of the `Grid`
   * @param fields, free, chips those of the filter; a chip is `[text, filter]`
   * @param examples lines about the filter: `[filter, what it finds]`
   * @param filter the filter when the address has none
   * @param sort the id of a column, with `-` before it if the highest comes first
   * @param detail shows one row: `place`, `show(key, row)`, `update(row)`, `clear()`
   */
  constructor({ view, title, rows, columns, fields, free, chips, examples, filter, sort, detail, now }) {
    Object.assign(this, { view, rows, fields, free, detail, now, first: { filter, sort } });
    this.grid = new Grid({
      label: title,
      columns,
      now,
      onOpen: (key) => this.#open(key),
      onSort: (id) => this.#sortBy(id),
    });
    this.input = el("input", {
      type: "search",
      id: `filter-${view}`,
      spellcheck: "false",
      autocomplete: "off",
      autocapitalize: "off",
      placeholder: `Filter: ${examples[0][0]}`,
      "aria-describedby": `mistake-${view}`,
      "aria-keyshortcuts": "/",
    });
    this.input.addEventListener("input", () => go({ filter: this.input.value }, { replace: true }));
    this.mistake = el("p", { class: "mistake", id: `mistake-${view}`, role: "status" });
    this.number = el("span", { class: "number-shown" });
    this.chips = chips.map(([text, value]) => {
      const chip = el("button", { type: "button", class: "chip", "aria-pressed": "false" }, text);
      chip.addEventListener("click", () => go({ filter: value }));
      return [chip, value];
    });
    const words = el("dl", { class: "words" });
    for (const [example, what] of examples) {
      words.append(el("div", {}, el("dt", {}, el("code", {}, example)), el("dd", {}, what)));
    }
    const place = document.getElementById(view);
    this.aside = el("section", { class: "detail", hidden: true, "aria-label": `One of the ${view}` }, detail.place);
    place.append(
      el(
        "div",
        { class: "bar" },
        el("label", { class: "hidden", for: `filter-${view}` }, `Filter of the ${view}`),
        this.input,
        el("div", { class: "chips", role: "group", "aria-label": "Filters at hand" }, ...this.chips.map(([chip]) => chip)),
        this.number,
      ),
      this.mistake,
      el("details", { class: "help" }, el("summary", {}, "What the filter understands"), words),
      el("div", { class: "listing" }, el("div", { class: "list" }, this.grid.scroller), this.aside),
    );
    place.addEventListener("keydown", (event) => this.#keys(event));
    this.place = place;
  }

  /** Do as the address says. */
  follow({ filter, sort, key }) {
    const by = sort ?? this.first.sort;
    this.#descending = by.startsWith("-");
    const id = by.replace(/^-/, "");
    const column = this.grid.columns.find((each) => each.id === id) ?? this.grid.columns[0];
    if (column !== this.#column) {
      this.#column = column;
      this.#sorted = [...this.#sorted];
    }
    this.grid.sorted(column.id, this.#descending);
    const text = filter ?? this.first.filter;
    if (text !== this.#text) {
      this.#text = text;
      // Not while somebody writes into it.
      if (this.input.value !== text) this.input.value = text;
      this.#parse(text);
      for (const [chip, value] of this.chips) chip.setAttribute("aria-pressed", String(value === text.trim()));
    }
    this.#show(key);
    this.update();
  }

  /** Show the rows as they are now. */
  update() {
    if (this.place.hidden) return;
    this.#sorted = this.#sorted.filter((row) => this.rows.has(row) || (this.#known.delete(row), false));
    for (const row of this.rows.values()) {
      if (this.#known.has(row)) continue;
      this.#known.add(row);
      this.#sorted.push(row);
    }
    const now = this.now();
    const { sort } = this.#column;
    const sign = this.#descending ? -1 : 1;
    this.#sorted.sort((a, b) => compare(sort(a, now), sort(b, now), sign) || b.started - a.started || (a.key < b.key ? -1 : 1));
    const shown = this.#sorted.filter((row) => this.#filter.test(row, now));
    setText(this.grid.empty, this.rows.size ? "None of them is as the filter wants it" : "None yet");
    this.grid.show(shown);
    setText(this.number, `${count(shown.length)} of ${count(this.rows.size)}`);
  }

  /** A second has passed: how old things are has changed, and what a filter says of that. */
  tick() {
    if (this.place.hidden) return;
    if (this.#filter.timed) this.update();
    else this.grid.refresh();
    if (this.#key !== null) this.detail.tick?.();
  }

  /** Some rows have changed. */
  changed(rows) {
    if (this.#key !== null && rows.some((row) => row.key === this.#key)) this.detail.update(this.rows.get(this.#key));
  }

  focusFilter() {
    this.input.focus();
    this.input.select();
  }

  #parse(text) {
    try {
      this.#filter = parse(text, this.fields, this.free);
      setText(this.mistake, "");
      this.input.removeAttribute("aria-invalid");
    } catch (error) {
      if (!(error instanceof FilterError)) throw error;
      // What was found before stays in sight until the filter is right again.
      this.#filter ??= parse("", this.fields, this.free);
      setText(this.mistake, error.message);
      this.input.setAttribute("aria-invalid", "true");
    }
  }

  #sortBy(id) {
    const same = id === this.#column.id;
    const descending = same ? !this.#descending : true;
    go({ sort: (descending ? "-" : "") + id }, { replace: true });
  }

  #open(key) {
    this.#opened = true;
    if (key === this.#key) this.#focus();
    else go({ key });
  }

  #close() {
    go({ key: null });
    this.grid.focus();
  }

  #show(key) {
    if (key === this.#key) return;
    this.#key = key;
    this.grid.select(key);
    this.aside.hidden = key === null;
    this.place.classList.toggle("open", key !== null);
    this.detail.clear();
    if (key === null) return;
    this.detail.show(key, this.rows.get(key), () => this.#close());
    // The focus goes along only if somebody has opened it here.
    if (this.#opened) this.#focus();
    this.#opened = false;
  }

  #focus() {
    this.#opened = false;
    this.aside.querySelector("h2")?.focus({ preventScroll: true });
    this.aside.scrollTop = 0;
  }

  #keys(event) {
    if (event.key !== "Escape") return;
    if (event.target === this.input && this.input.value) go({ filter: "" }, { replace: true });
    else if (event.target === this.input) this.grid.focus();
    else if (this.#key !== null) this.#close();
    else return;
    event.preventDefault();
  }
}

/** What has no value comes last, whichever way. */
function compare(a, b, sign) {
  const none = (value) => value === null || value === undefined || value === "";
  if (none(a) || none(b)) return none(a) - none(b);
  if (a === b) return 0;
  return (a < b ? -1 : 1) * sign;
}

/** Return the route of a view with one of its rows opened. */
export const opened = (view, key) => ({ ...(route().view === view ? route() : {}), view, key });
