// A table of any length: only the rows in sight, and a few around them, are in the document.
//
// Each row stands at its own place, and is laid out for itself: as a table, all of them would be
// laid out again with every step of the scroll bar. What is no table to the style sheet says by
// its roles that it is one.

import { el, setText } from "./dom.js";

const AROUND = 8;
// Paper has no scroll bar; more rows than these are no use on it.
const PRINTED = 200;

export class Grid {
  #rows = [];
  #first = 0;
  #shown = [];
  #active = null;
  #selected = null;
  #frame = 0;
  #height = 0;

  /**
   * @param label what the table is of
   * @param columns `{id, title, text(row, now), sort(row), css}` each
   * @param now returns the time at the server
   * @param onOpen called with the key of a row
   * @param onSort called with the id of a column
   */
  constructor({ label, columns, now, onOpen, onSort }) {
    this.columns = columns;
    this.now = now;
    this.onOpen = onOpen;
    this.id = `grid-${label.toLowerCase()}`;
    this.heads = new Map();
    const head = el("tr", { role: "row", "aria-rowindex": "1" });
    for (const { id, title, css = "", help } of columns) {
      const button = el("button", { type: "button", title: help, onclick: () => onSort(id) }, title, el("span", { class: "arrow", "aria-hidden": "true" }));
      const cell = el("th", { role: "columnheader", class: `col-${id} ${css}` }, button);
      this.heads.set(id, cell);
      head.append(cell);
    }
    this.body = el("tbody", { role: "rowgroup" });
    this.table = el(
      "table",
      { class: "grid", role: "grid", tabindex: "0", "aria-label": label, "aria-readonly": "true" },
      el("thead", { role: "rowgroup" }, head),
      this.body,
    );
    this.empty = el("p", { class: "nothing", hidden: true });
    this.scroller = el("div", { class: "scroller" }, this.table, this.empty);
    this.scroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    this.table.addEventListener("keydown", (event) => this.#key(event));
    this.body.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.#soon()).observe(this.scroller);
    addEventListener("beforeprint", () => this.#paint(PRINTED));
    addEventListener("afterprint", () => this.#paint());
  }

  /** Show these rows, in this order; what is at the top of the sight stays there. */
  show(rows) {
    const top = this.scroller.scrollTop;
    const anchor = top > 0 && this.#height ? this.#rows[Math.floor(top / this.#height)] : undefined;
    const before = anchor && Math.floor(top / this.#height);
    this.#rows = rows;
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    if (this.#active !== null && !rows.some((row) => row.key === this.#active)) this.#active = null;
    this.empty.hidden = rows.length > 0;
    this.#paint();
    if (anchor !== undefined) {
      const after = rows.indexOf(anchor);
      if (after >= 0 && after !== before) {
        this.scroller.scrollTop = top + (after - before) * this.#height;
        this.#paint();
      }
    }
  }

  /** Write the rows in sight again: time has passed. */
  refresh() {
    this.#paint();
  }

  /** Say by which column the rows are sorted. */
  sorted(id, descending) {
    for (const [each, cell] of this.heads) {
      if (each === id) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  /** Mark the row that is open. */
  select(key) {
    this.#selected = key;
    if (key !== null) this.#active = key;
    this.#paint();
  }

  focus() {
    this.table.focus({ preventScroll: true });
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  // Rows that stay in sight stay as they are, but for what has changed in them; one that leaves
  // at one end comes back at the other.
  #paint(all = 0) {
    if (!this.scroller.clientHeight) return;
    this.#height ||= this.#measure();
    const sight = Math.ceil(this.scroller.clientHeight / this.#height) + 2 * AROUND;
    const wanted = all || sight;
    const most = Math.max(0, this.#rows.length - wanted);
    const first = all ? 0 : Math.max(0, Math.min(most, Math.floor(this.scroller.scrollTop / this.#height) - AROUND));
    const length = Math.min(wanted, this.#rows.length);
    const shift = first - this.#first;
    if (shift > 0 && shift < this.#shown.length) {
      const leaving = this.#shown.splice(0, shift);
      this.body.append(...leaving);
      this.#shown.push(...leaving);
    } else if (shift < 0 && -shift < this.#shown.length) {
      const leaving = this.#shown.splice(shift);
      this.body.prepend(...leaving);
      this.#shown.unshift(...leaving);
    }
    while (this.#shown.length > length) this.#shown.pop().remove();
    while (this.#shown.length < length) {
      const line = this.#line();
      this.body.append(line);
      this.#shown.push(line);
    }
    this.#first = first;
    const now = this.now();
    this.#shown.forEach((line, i) => this.#write(line, first + i, now));
    const height = `${this.#rows.length * this.#height}px`;
    if (this.body.style.height !== height) this.body.style.height = height;
    const active = this.#shown.find((line) => line.dataset.key === this.#active);
    if (active === undefined) this.table.removeAttribute("aria-activedescendant");
    else this.table.setAttribute("aria-activedescendant", active.id);
  }

  #line() {
    return el("tr", { role: "row" }, ...this.columns.map(({ id, css = "" }) => el("td", { role: "gridcell", class: `col-${id} ${css}` })));
  }

  #write(line, index, now) {
    const row = this.#rows[index];
    const id = `${this.id}-${index}`;
    if (line.id !== id) {
      line.id = id;
      line.setAttribute("aria-rowindex", String(index + 2));
      line.style.transform = `translateY(${index * this.#height}px)`;
    }
    if (line.dataset.key !== row.key) line.dataset.key = row.key;
    const state = row.state ?? row.outcome;
    if (line.dataset.state !== state) line.dataset.state = state;
    line.classList.toggle("active", row.key === this.#active);
    const selected = String(row.key === this.#selected);
    if (line.getAttribute("aria-selected") !== selected) line.setAttribute("aria-selected", selected);
    this.columns.forEach(({ text }, i) => setText(line.cells[i], text(row, now)));
  }

  #measure() {
    const line = this.#line();
    this.body.append(line);
    const { height } = line.getBoundingClientRect();
    line.remove();
    return height;
  }

  #click(event) {
    const key = event.target.closest("tr[data-key]")?.dataset.key;
    // Whoever marks a text to copy it opens nothing.
    if (key === undefined || !getSelection().isCollapsed) return;
    this.#active = key;
    this.onOpen(key);
  }

  #key(event) {
    if (event.target !== this.table || event.ctrlKey || event.altKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.#height) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves && this.#rows.length) {
      const at = this.#rows.findIndex((row) => row.key === this.#active);
      const to = at < 0 ? (event.key === "End" ? Infinity : 0) : at + moves[event.key];
      const index = Math.max(0, Math.min(this.#rows.length - 1, to));
      this.#active = this.#rows[index].key;
      this.#reveal(index);
    } else if ((event.key === "Enter" || event.key === " ") && this.#active !== null) {
      this.onOpen(this.#active);
    } else {
      return;
    }
    event.preventDefault();
  }

  #reveal(index) {
    const head = this.table.tHead.offsetHeight;
    const top = index * this.#height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.#height > scrollTop + clientHeight - head) {
      this.scroller.scrollTop = top + this.#height - clientHeight + head;
    }
    this.#paint();
  }
}
