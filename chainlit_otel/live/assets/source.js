// Where the data comes from: a stream of events, and requests for all that was before it.

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30_000;
// A tick comes every second. A connection that is lost without a word says nothing at all.
const SILENCE = 8000;
const PATIENCE = 30_000;
// Seconds from which on the clock of the server was set, or is that of another server.
const STEP = 30;

/** The server lets nobody in; its message is for the reader. */
export class Denied extends Error {}

/** Get JSON from below the page's own address. */
export async function get(path) {
  const answer = await ask(path, AbortSignal.timeout(PATIENCE));
  return answer.json();
}

/** Return the answer; one that is a refusal is raised with what it says. */
async function ask(path, signal) {
  const options = { credentials: "same-origin", cache: "no-store", signal };
  const answer = await fetch(`live/data/${path}`, options);
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const message = said.error ?? `The server answered ${answer.status}.`;
  throw answer.status === 401 || answer.status === 403 ? new Denied(message) : new Error(message);
}

/**
 * The stream, which comes back by itself, and pauses while nobody looks.
 *
 * Events: `status` with `state`, one of connecting, live, lost, paused; `open` after each
 * connection; `step` when the time at the server has jumped; `denied` with the reason; and the server's own: `tick`, `sessions`, `turns`.
 */
export class Source extends EventTarget {
  #stream = null;
  #retry = 0;
  #silence = 0;
  #wait = FIRST_WAIT;
  /** When the last tick came, by `performance.now()`, and what time it was at the server. */
  #tick = null;

  state = "connecting";
  /** Since when it is not live, and when it tries again; epoch milliseconds. */
  since = Date.now();
  next = 0;
  /** What the server said when it refused; empty if it said nothing. */
  why = "";

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.#connect()));
    addEventListener("online", () => this.state === "lost" && this.#connect());
    // A page that comes back from the cache of the browser has lost its stream.
    addEventListener("pageshow", (event) => event.persisted && this.#connect());
    if (document.hidden) this.#pause();
    else this.#connect();
  }

  /** The time at the server, in epoch seconds: the browser's own clock may be wrong. */
  now() {
    if (this.#tick === null) return Date.now() / 1000;
    return this.#tick.at + (performance.now() - this.#tick.received) / 1000;
  }

  /** What was asked for after the connection did not come: do as if the stream had ended. */
  fail(error) {
    if (error instanceof Denied) this.#deny(error);
    this.#lose();
  }

  #connect() {
    this.#close();
    if (this.state !== "lost") this.#say("connecting");
    const stream = new EventSource("live/data/stream");
    this.#stream = stream;
    stream.addEventListener("open", () => {
      this.#watch();
      this.dispatchEvent(new Event("open"));
    });
    // The browser's own way of coming back has no back-off, and gives up at an error status.
    stream.addEventListener("error", () => {
      const refused = stream.readyState === EventSource.CLOSED;
      this.#lose();
      if (refused) this.#askWhy();
    });
    for (const name of ["tick", "sessions", "turns"]) {
      stream.addEventListener(name, (event) => {
        this.#watch();
        const data = JSON.parse(event.data);
        if (name === "tick") {
          const jump = this.#tick === null ? 0 : data.at - this.now();
          this.#tick = { at: data.at, received: performance.now() };
          this.#wait = FIRST_WAIT;
          this.why = "";
          if (Math.abs(jump) > STEP) {
            this.dispatchEvent(new Event("step"));
            this.#connect();
            return;
          }
          this.#say("live");
        }
        this.dispatchEvent(new CustomEvent(name, { detail: data }));
      });
    }
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lose(), SILENCE);
  }

  #lose() {
    if (this.state === "paused") return;
    this.#close();
    // Not all pages come back at the same moment.
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    this.next = Date.now() + wait;
    this.#retry = setTimeout(() => this.#connect(), wait);
    this.#say("lost");
  }

  #pause() {
    this.#close();
    this.#wait = FIRST_WAIT;
    this.#say("paused");
  }

  #close() {
    clearTimeout(this.#retry);
    clearTimeout(this.#silence);
    this.#stream?.close();
    this.#stream = null;
  }

  #say(state) {
    if (state === this.state) return;
    if (this.state === "live") this.since = Date.now();
    this.state = state;
    this.dispatchEvent(new Event("status"));
  }

  // An `EventSource` does not say why it was refused.
  async #askWhy() {
    const asking = new AbortController();
    try {
      await ask("stream", asking.signal);
    } catch (error) {
      if (error instanceof Denied) this.#deny(error);
      // A server that is not there has nothing to say.
      if (error instanceof TypeError) return;
      this.why = error.message;
      this.dispatchEvent(new Event("status"));
    } finally {
      asking.abort();
    }
  }

  #deny(error) {
    this.dispatchEvent(new CustomEvent("denied", { detail: error.message }));
  }
}
