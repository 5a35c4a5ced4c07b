// The language of the filter box: `state:disconnected turns:>5 doing:tool age:>10m -client:copilot`.
//
// A field has a kind, and a function that gets its value from a row:
//   word      contains what is written, whatever the case
//   choice    is one of a few words, `choices`; `is` says what each means
//   number    is, or is more or less than, a number
//   duration  the same in seconds, with a unit if wanted: 500ms, 10s, 5m, 2h, 1d

const TERM = /(-?)(?:([a-z_]+):)?("[^"]*"?|[^\s"]+)?/giy;
const UNITS = { ms: 0.001, s: 1, m: 60, min: 60, h: 3600, d: 86400 };
const COMPARE = {
  "": (a, b) => a === b,
  "=": (a, b) => a === b,
  ">": (a, b) => a > b,
  "<": (a, b) => a < b,
  ">=": (a, b) => a >= b,
  "<=": (a, b) => a <= b,
};

/** What is written is not understood; the message says what, and what would be. */
export class FilterError extends Error {}

/**
 * Return a test of a row, and whether it depends on the time.
 *
 * @param fields what may stand before a colon
 * @param free gets the texts of a row that words without a colon are looked for in
 */
export function parse(text, fields, free) {
  const tests = [];
  let timed = false;
  for (const [not, name, value] of terms(text)) {
    let test;
    if (name === null) {
      test = (row) => free(row).some((each) => contains(each, value));
    } else {
      const field = fields[name];
      if (field === undefined) {
        throw new FilterError(`There is no “${name}:”. There are: ${Object.keys(fields).join(", ")}.`);
      }
      timed ||= field.timed ?? false;
      test = KINDS[field.kind](name, value, field);
    }
    tests.push(not ? (row, now) => !test(row, now) : test);
  }
  return { timed, test: (row, now) => tests.every((test) => test(row, now)) };
}

function* terms(text) {
  let at = 0;
  while (at < text.length) {
    if (/\s/.test(text[at])) {
      at += 1;
      continue;
    }
    TERM.lastIndex = at;
    const [whole, not, name, value = ""] = TERM.exec(text);
    if (value.startsWith('"') && (value.length < 2 || !value.endsWith('"'))) {
      throw new FilterError(`The quotation mark before “${value.slice(1)}” is not closed.`);
    }
    if (not && name === undefined && value === "") throw new FilterError("What is not wanted must stand behind the “-”.");
    yield [not === "-", name?.toLowerCase() ?? null, value.replaceAll('"', "")];
    at += whole.length;
  }
}

const contains = (text, part) => (text ?? "").toLowerCase().includes(part.toLowerCase());

const KINDS = {
  word(name, value, { get }) {
    if (value === "") throw new FilterError(`“${name}:” wants a word behind it.`);
    return (row) => contains(get(row), value);
  },

  choice(name, value, { choices, get }) {
    const wanted = value.toLowerCase();
    if (!choices.includes(wanted)) throw new FilterError(`“${name}:” is one of ${choices.join(", ")}.`);
    return (row) => get(row).includes(wanted);
  },

  number(name, value, { get }) {
    const [, sign, digits] = /^([<>]=?|=)?(\d+(?:\.\d+)?)$/.exec(value) ?? [];
    if (digits === undefined) throw new FilterError(`“${name}:” wants a number, such as ${name}:>5.`);
    return compared(sign, Number(digits), get);
  },

  duration(name, value, { get }) {
    const [, sign, digits, unit = "s"] = /^([<>]=?|=)?(\d+(?:\.\d+)?)(ms|s|m|min|h|d)?$/i.exec(value) ?? [];
    if (digits === undefined) throw new FilterError(`“${name}:” wants a time, such as ${name}:>10s, 5m, 2h or 1d.`);
    return compared(sign, Number(digits) * UNITS[unit.toLowerCase()], get);
  },
};

function compared(sign = "", wanted, get) {
  return (row, now) => {
    const value = get(row, now);
    return value !== null && value !== undefined && COMPARE[sign](value, wanted);
  };
}
