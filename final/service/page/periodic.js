/**
 * Periodic jobs: when each comes next, and a button to pause it.
 *
 * But: to add one takes the API or the command line.
 */

import { ask } from "./connection.js";
import { duration, element, fillRows, find, tell, unseen, write } from "./dom.js";

const OLD = 5_000; // milliseconds after which others may have changed something

export class Periodic {
  #entries = [];
  #askedAt = -Infinity;

  /** Ask again if the last answer is old, or a tick has passed since. now: the service's clock. */
  async load(now) {
    const passed = this.#entries.some(({ next }) => next !== null && Date.parse(next) <= now);
    if (!passed && performance.now() - this.#askedAt < OLD) return;
    const { periodic } = await ask("GET", "periodic");
    this.#askedAt = performance.now();
    this.#entries = periodic.map((entry) => ({ ...entry, id: entry.name }));
  }

  /** Every time that the clock has moved on. */
  show(now) {
    find("#periodic-card").hidden = this.#entries.length === 0;
    fillRows(
      find("#periodic"),
      this.#entries,
      (entry) => this.#row(entry),
      (row, { name, schedule, timezone, priority, type, paused, next }) => {
        write(find(".schedule", row), schedule);
        write(find(".note", row), timezone === "UTC" ? "" : timezone);
        write(find(".tag", row), `${priority} ${type}`);
        const seconds = next === null ? Infinity : Math.max(0, (Date.parse(next) - now) / 1000);
        write(row.cells[2], paused ? "paused" : seconds < Infinity ? `in ${rough(seconds)}` : "never");
        const [button] = row.getElementsByTagName("button");
        write(button.firstChild, paused ? "Resume" : "Pause");
        write(button.lastElementChild, ` ${name}`);
      },
    );
  }

  #row({ name }) {
    const button = element("button", { type: "button" }, "Pause", unseen(""));
    button.addEventListener("click", () => this.#toggle(name, button));
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name, element("span", { class: "tag" })),
      element("td", {}, element("code", { class: "schedule" }), element("p", { class: "note" })),
      element("td", { class: "number" }),
      element("td", { class: "number" }, button),
    );
  }

  async #toggle(name, button) {
    const entry = this.#entries.find((each) => each.name === name);
    const verb = entry?.paused ? "resume" : "pause";
    button.disabled = true;
    try {
      Object.assign(entry, await ask("POST", `periodic/${encodeURIComponent(name)}/${verb}`));
      tell(`${name} is ${entry.paused ? "paused" : "resumed"}.`);
    } catch (error) {
      tell(`${name} stays as it is: ${error.message}`);
    }
    this.#askedAt = -Infinity;
    button.disabled = false;
    button.focus();
    this.show(Date.now());
  }
}

/** Without parts of a second, and in days where there are some. */
function rough(seconds) {
  return seconds < 2 * 86_400 ? duration(Math.ceil(seconds)) : `${Math.round(seconds / 86_400)} days`;
}
