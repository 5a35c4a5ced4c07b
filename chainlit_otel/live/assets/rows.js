// The sessions or the turns that are known, by their key. A row stays the same object while it
// changes, so that what is sorted once is nearly sorted ever after.

export class Rows extends EventTarget {
  #rows = new Map();
  #waiting = null;
  #added = 0;

  get size() {
    return this.#rows.size;
  }

  get(key) {
    return this.#rows.get(key);
  }

  has(row) {
    return this.#rows.get(row.key) === row;
  }

  values() {
    return this.#rows.values();
  }

  /** How many have come since all were asked for. */
  get added() {
    return this.#added;
  }

  /** Put aside what the stream brings from now on, until everything has been asked for. */
  expect() {
    this.#waiting ??= [];
  }

  /** Take rows as all there are, and what came by the stream meanwhile on top of them. */
  replace(rows) {
    const keys = new Set(rows.map((row) => row.key));
    for (const key of this.#rows.keys()) if (!keys.has(key)) this.#rows.delete(key);
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    this.#added = -rows.filter((row) => !this.#rows.has(row.key)).length;
    this.#put([...rows, ...waiting]);
  }

  /** Take rows that have changed. */
  update(rows) {
    if (this.#waiting === null) this.#put(rows);
    else this.#waiting.push(...rows);
  }

  #put(rows) {
    for (const row of rows) {
      if (row.state === "gone") this.#rows.delete(row.key);
      else if (this.#rows.has(row.key)) Object.assign(this.#rows.get(row.key), row);
      else {
        this.#rows.set(row.key, row);
        this.#added += 1;
      }
    }
    this.dispatchEvent(new CustomEvent("change", { detail: rows }));
  }
}
