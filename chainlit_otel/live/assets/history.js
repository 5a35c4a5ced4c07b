// The figures over time, at one step from value to value, in arrays that do not grow.

/** What happens, rather than is: drawn as how many in a minute. */
const EVENTS = new Set([
  "starts", "reconnects", "ends", "refused", "turns_ok", "turns_error", "turns_cancelled",
  "chunks", "undelivered", "data_layer_operations", "data_layer_errors", "access_attempts",
  "access_denied", "loop_blocked", "tokens_input", "tokens_output",
]);

export class History {
  #figures = new Map();
  #loaded = false;

  /**
   * @param step seconds from value to value
   * @param shown how many values are looked at
   */
  constructor(step, shown) {
    this.step = step;
    this.shown = shown;
    // What happened in the minute before the first value counts there, too.
    this.before = Math.max(0, 60 / step - 1);
    this.start = null;
    this.length = 0;
  }

  /** The time of the last value, or null. */
  get last() {
    return this.length ? this.start + (this.length - 1) * this.step : null;
  }

  /** Forget all values: their times are wrong. */
  clear() {
    this.#clear(null);
  }

  /** Take values as the server keeps them; they come in the place of those at the same time. */
  load({ start, figures }) {
    const all = Object.values(figures);
    // Before the first value that is known, nobody has looked yet.
    const empty = Math.min(...all.map((values) => values.findIndex((value) => value !== null)).map((i) => (i < 0 ? Infinity : i)));
    const length = Math.max(0, ...all.map((values) => values.length)) - empty;
    if (!(length > 0)) return;
    start += empty * this.step;
    const first = this.length ? Math.round((start - this.start) / this.step) : -1;
    if (first < 0 || first > this.length + this.shown) this.#clear(start);
    const offset = Math.max(0, first);
    for (const [name, values] of Object.entries(figures)) {
      for (let i = empty; i < values.length; i += 1) this.#set(name, offset + i - empty, values[i]);
    }
    this.#extend(Math.max(this.length, offset + length));
    this.#loaded = true;
  }

  /** Take the values of one moment. */
  add(at, figures) {
    if (!this.length) this.#clear(at);
    let index = Math.floor((at - this.start) / this.step);
    // A tick comes some time after its second began, and not always the same time after it.
    if (!this.#loaded && Math.abs(index - this.length) <= 1) index = this.length;
    this.#loaded = false;
    // A clock that was set back, or a server that begins anew. What was asked for may be a little
    // ahead of the stream.
    if (index < this.length - 10 || index > this.length + this.shown) {
      this.#clear(at);
      return this.add(at, figures);
    }
    for (const [name, value] of Object.entries(figures)) this.#set(name, index, value);
    this.#extend(Math.max(this.length, index + 1));
  }

  /** The times of the values that are looked at. */
  times() {
    const from = this.#from();
    return Array.from({ length: this.length - from }, (_, i) => this.start + (from + i) * this.step);
  }

  /** A figure's values at those times; what happens is counted by the minute. Null without any. */
  values(name) {
    const all = this.#figures.get(name);
    if (all === undefined) return null;
    const values = EVENTS.has(name) && this.step < 60 ? this.#byTheMinute(all) : all;
    const shown = values.slice(this.#from());
    return shown.some((value) => value !== null) ? shown : null;
  }

  #byTheMinute(values) {
    const window = 60 / this.step;
    // The server kept no more than this: what came in the minute before is not known.
    const cut = this.length >= this.shown && this.length < this.shown + this.before;
    let sum = 0;
    return values.map((value, i) => {
      sum += value ?? 0;
      if (i >= window) sum -= values[i - window] ?? 0;
      return value === null || (cut && i < window - 1) ? null : Math.max(0, sum);
    });
  }

  #from() {
    return Math.max(0, this.length - this.shown);
  }

  #clear(start) {
    this.#figures.clear();
    this.start = start;
    this.length = 0;
  }

  #set(name, index, value) {
    let values = this.#figures.get(name);
    if (values === undefined) this.#figures.set(name, (values = []));
    while (values.length < index) values.push(null);
    values[index] = value ?? null;
  }

  // All figures have the same length, and no more than is needed.
  #extend(length) {
    const extra = Math.max(0, length - this.shown - this.before);
    for (const values of this.#figures.values()) {
      while (values.length < length) values.push(null);
      values.splice(0, extra);
    }
    this.start += extra * this.step;
    this.length = length - extra;
  }
}
