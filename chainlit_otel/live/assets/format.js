// Numbers and times as people read them. What is not known is a dash.

export const NOTHING = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const dateFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** A number of things. */
export function count(value) {
  if (!known(value)) return NOTHING;
  return (Math.abs(value) >= 100 || Number.isInteger(value) ? whole : tenth).format(value);
}

/** A short time in its best unit: `320 ms`, `1.24 s`, `12.4 s`, `4 min 10 s`. */
export function seconds(value) {
  if (!known(value)) return NOTHING;
  if (value === 0) return "0 s";
  if (value < 0.001) return "<1 ms";
  if (value < 1) return `${(value * 1000).toPrecision(value < 0.1 ? 2 : 3).replace(/\.0+$/, "")} ms`;
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 60) return `${value.toFixed(1)} s`;
  return age(value);
}

/** How long ago or how old, in two units at most: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`. */
export function age(value) {
  if (!known(value)) return NOTHING;
  const s = Math.max(0, Math.floor(value));
  if (s < 60) return `${s} s`;
  const [big, small, a, b] =
    s < 3600 ? [60, 1, "min", "s"] : s < 86400 ? [3600, 60, "h", "min"] : [86400, 3600, "d", "h"];
  const rest = Math.floor((s % big) / small);
  return rest ? `${Math.floor(s / big)} ${a} ${rest} ${b}` : `${Math.floor(s / big)} ${a}`;
}

/** US dollars, with the digits that say something. */
export function dollars(value) {
  if (!known(value)) return NOTHING;
  if (value > 0 && value < 0.0001) return "<$0.0001";
  return `$${value.toFixed(value < 0.1 ? 4 : 2)}`;
}

/** A size in memory. */
export function bytes(value) {
  if (!known(value)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${count(value)} ${units[unit]}`;
}

/** A share, as percent. */
export function ratio(value) {
  if (!known(value)) return NOTHING;
  return `${Number((value * 100).toPrecision(value < 0.1 ? 2 : 3))} %`;
}

/** A figure with its unit, in two parts: the unit is shown smaller. */
export function measured(value, unit) {
  if (!known(value)) return [NOTHING, ""];
  if (unit === "s" || unit === "seconds") return split(value < 60 ? seconds(value) : single(value));
  if (unit === "bytes") return split(bytes(value));
  if (unit === "ratio") return split(ratio(value));
  if (unit === "1/min") return [count(value), "/min"];
  return [count(value), unit];
}

/** A long time in one unit. */
const single = (value) => (value < 3600 ? `${count(value / 60)} min` : `${count(value / 3600)} h`);

function split(text) {
  const at = text.indexOf(" ");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

/** The time of the day, of an epoch time in seconds; with the date if that is another day. */
export function clock(at) {
  if (!known(at)) return NOTHING;
  const date = new Date(at * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clockFormat.format(date) : `${dateFormat.format(date)} ${clockFormat.format(date)}`;
}

/** The time of the day to the minute. */
export const minute = (at) => minuteFormat.format(new Date(at * 1000));

/** `1 turn`, `2 turns`. */
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
