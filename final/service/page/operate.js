/**
 * Pause and resume, of the queue, of a lane, of what else is paused; and how many workers there are.
 *
 * But: what the page shows of it comes from /stats, so it is right also where somebody else did it.
 */

import { ask } from "./connection.js";
import { PRIORITIES, element, fillRows, find, tell, unseen, write } from "./dom.js";

export class Operation {
  #queue = new Switch(find("#pause"), {}, "The queue");
  #lanes = new Map(
    PRIORITIES.map((priority) => {
      const button = find(`[data-lane=${priority}] .switch`);
      return [priority, new Switch(button, { priority }, `The ${priority} lane`)];
    }),
  );
  #workers = 0; // that the field was last told

  constructor() {
    find("#scale").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#scale(event.target.elements.workers);
    });
  }

  show({ paused, workers }) {
    this.#queue.show(paused.some(isQueue));
    for (const [priority, lane] of this.#lanes) {
      lane.show(paused.some((part) => part.priority === priority));
    }
    showOthers(paused.filter(({ type, group }) => type ?? group));
    const field = find("#workers-wanted");
    if (workers !== this.#workers && document.activeElement !== field) {
      field.value = workers;
      this.#workers = workers;
    }
  }

  async #scale(field) {
    try {
      const { workers } = await ask("PUT", "workers", { workers: field.valueAsNumber });
      tell(`Workers: ${workers}.`);
    } catch (error) {
      tell(`The workers stay as they are: ${error.message}`);
    }
  }
}

const isQueue = ({ type, priority, group }) => (type ?? priority ?? group) === null;

/** Whether jobs of this lane are kept from starting, by a pause of it or of the queue. */
export const isHeld = (paused, priority) =>
  paused.some((part) => part.priority === priority || isQueue(part));

/** A button that pauses what it is for, and then resumes it. */
class Switch {
  #isPaused = false;
  #isBusy = false;

  constructor(button, part, what) {
    this.part = part;
    this.what = what;
    this.text = element("span", {}, "Pause");
    button.replaceChildren(this.text, unseen(` ${what.toLowerCase()}`));
    button.addEventListener("click", () => this.#press());
  }

  show(isPaused) {
    this.#isPaused = isPaused;
    if (!this.#isBusy) write(this.text, isPaused ? "Resume" : "Pause");
  }

  async #press() {
    if (this.#isBusy) return;
    this.#isBusy = true;
    const wasPaused = this.#isPaused;
    if (await change(wasPaused ? "resume" : "pause", this.part, this.what)) this.#isPaused = !wasPaused;
    this.#isBusy = false;
    this.show(this.#isPaused);
  }
}

async function change(action, part, what) {
  try {
    await ask("POST", action, part);
    tell(action === "pause" ? `${what} is paused.` : `${what} goes on.`);
    return true;
  } catch (error) {
    tell(`${what} stays as it was: ${error.message}`);
    return false;
  }
}

function showOthers(parts) {
  const items = parts.map(({ type, group }) => {
    const part = type === null ? { group } : { type };
    const what = type === null ? `Group ${group}` : `Type ${type}`;
    return { id: JSON.stringify(part), part, what };
  });
  fillRows(find("#paused"), items, ({ part, what }) => {
    const button = element("button", { type: "button" }, "Resume", unseen(` ${what.toLowerCase()}`));
    button.addEventListener("click", () => change("resume", part, what));
    const title = element("th", { scope: "row" }, `${what} is paused`);
    return element("tr", {}, title, element("td", { class: "number" }, button));
  });
}
