/**
 * The way to the service: questions, and the stream of events with /stats beside it.
 *
 * A lost connection is tried again, first after half a second, then ever less often. A token is
 * not our business: the browser has asked for it, and sends it with everything.
 *
 * But: nothing here knows what is on the page.
 */

const STATS_EVERY = 500; // milliseconds
const PATIENCE = 10_000;
const STATS_PATIENCE = 3_000; // who has not answered by then is lost
const FIRST_RETRY = 500;
const LAST_RETRY = 8_000;

/** The service said no. `message` says why, for people. */
export class Refused extends Error {}

/**
 * The answer as an object. Throws Refused, or what fetch throws when nobody answers.
 *
 * Paths are relative to the page: a proxy may offer it under a path of its own. A body is an object,
 * or the text of one.
 */
export async function ask(method, path, body, patience = PATIENCE) {
  const options = { method, signal: AbortSignal.timeout(patience) };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = typeof body === "string" ? body : JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const said = await answer.json();
  if (answer.ok) return said;
  const wrong = (said.errors ?? []).map(({ field, message }) => `${field}: ${message}`);
  throw new Refused(wrong.join(" ") || said.detail);
}

export const jobPath = (id) => `jobs/${encodeURIComponent(id)}`;

/**
 * Stay connected. Calls `connected()` and `lost(seconds until the next try)`, and in between
 * `stats(figures)`, `refused(why there are none)`, `transition(change)` and `missed(count)`.
 */
export function watch(listener) {
  let pause = FIRST_RETRY;

  function connect() {
    const events = new EventSource("events");
    let lost = false;

    function lose() {
      if (lost) return;
      lost = true;
      events.close(); // a browser gives up on some errors by itself, and not on others
      listener.lost(pause / 1000);
      setTimeout(connect, pause);
      pause = Math.min(2 * pause, LAST_RETRY);
    }

    async function askForStats() {
      let stats;
      try {
        stats = await ask("GET", "stats", undefined, STATS_PATIENCE);
      } catch (error) {
        if (error instanceof Refused) listener.refused(error.message);
        else lose();
      }
      if (lost) return;
      if (stats) listener.stats(stats);
      setTimeout(askForStats, STATS_EVERY);
    }

    events.onopen = () => {
      pause = FIRST_RETRY;
      listener.connected();
      askForStats();
    };
    events.onerror = lose;
    events.addEventListener("transition", (event) => listener.transition(JSON.parse(event.data)));
    events.addEventListener("missed", (event) => listener.missed(JSON.parse(event.data).count));
  }

  connect();
}
