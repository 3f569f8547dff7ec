/**
 * What one can do here: choose the rule, flood the queue, create a job and follow it.
 */

import { ask, jobPath } from "./connection.js";
import { element, errorCell, fillRows, find, jobCell, tell, write, writeError } from "./dom.js";

const ENDED = new Set(["completed", "failed", "cancelled", "dropped"]);
const FOLLOWED = 5; // jobs that were created here
const RULES = {
  strict: "Strict priority: always the most urgent lane.",
  fair: "Token fairness: every lane has its turn.",
};

// ---- the demo ---------------------------------------------------------------------------------

/** Only where the service has the demo: with handlers of somebody's own there is no flood. */
export class Lab {
  #fairness = 10; // what "fair" means here, where the rule is strict at the moment
  #busy = false;

  constructor() {
    find("#flood").addEventListener("click", flood);
    find("#fairness").addEventListener("change", (event) => this.#choose(event.target.value));
  }

  show({ demo, fairness }) {
    find("#lab").hidden = !demo;
    if (demo && find("#payload-hint").hidden) introduceDemo();
    if (fairness !== null) this.#fairness = fairness;
    write(find("#turns"), String(this.#fairness + 1)); // see final/lanes.py
    const rule = fairness === null ? "strict" : "fair";
    if (!this.#busy) find(`#fairness [value=${rule}]`).checked = true;
  }

  async #choose(rule) {
    this.#busy = true;
    try {
      await ask("PUT", "demo/fairness", { fairness: rule === "fair" ? this.#fairness : null });
      tell(RULES[rule]);
    } catch (error) {
      tell(`The rule stays as it was: ${error.message}`);
    }
    this.#busy = false;
  }
}

async function flood() {
  try {
    const { accepted } = await ask("POST", "demo/flood", {});
    const parts = Object.entries(accepted).map(([priority, number]) => `${number} ${priority}`);
    tell(`Jobs in: ${parts.join(", ")}.`);
  } catch (error) {
    tell(`No flood: ${error.message}`);
  }
}

function introduceDemo() {
  find("#payload-hint").hidden = false;
  const form = find("#create");
  if (!form.elements.type.value) form.elements.type.value = "email";
  if (!form.elements.payload.value) form.elements.payload.value = '{"seconds": 2, "fails": 0}';
  const types = ["email", "webhook", "thumbnail"];
  find("#types").replaceChildren(...types.map((value) => element("option", { value })));
}

// ---- create and follow ------------------------------------------------------------------------

export class Creation {
  #mine = []; // the newest first

  constructor() {
    find("#create").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create(event.target.elements);
    });
  }

  async #create({ type, priority, group, delay, payload }) {
    const refusal = find("#refusal");
    refusal.textContent = "";
    payload.ariaInvalid = null;
    const job = { type: type.value, priority: priority.value };
    if (group.value) job.group = group.value;
    if (delay.value) job.run_at = delay.valueAsNumber;
    const typed = payload.value.trim();
    try {
      if (typed) JSON.parse(typed);
    } catch (error) {
      payload.ariaInvalid = "true";
      payload.focus();
      refusal.textContent = `The payload is not JSON: ${error.message}.`;
      return;
    }
    try {
      const created = await ask("POST", "jobs", typed ? withPayload(job, typed) : job);
      tell(`Job ${created.id} is ${created.status}.`);
      this.#mine = [created, ...this.#mine].slice(0, FOLLOWED);
      this.#show();
      this.catchUp(); // it may have ended before we knew its name
    } catch (error) {
      refusal.textContent = error.message;
    }
  }

  hear({ id, status, attempts, error }) {
    const job = this.#mine.find((each) => each.id === id);
    if (job) this.#change(job, { status, attempts, error });
  }

  /** Ask after those that may have changed: news of them may have been missed. */
  async catchUp() {
    const open = this.#mine.filter(({ status }) => !ENDED.has(status) || status === "failed");
    await Promise.all(
      open.map(async (job) => {
        const before = job.status;
        const now = await ask("GET", jobPath(job.id)).catch(() => job);
        if (job.status === before) this.#change(job, now); // else an event was faster
      }),
    );
  }

  #change(job, { status, attempts, error }) {
    const ends = ENDED.has(status) && job.status !== status;
    Object.assign(job, { status, attempts, error });
    this.#show();
    if (ends) tell(`Job ${job.id} is ${status}.`);
  }

  #show() {
    fillRows(
      find("#mine"),
      this.#mine,
      (job) =>
        element(
          "tr",
          {},
          jobCell(job),
          element("td", {}, element("b"), element("p", { class: "note" }), errorCell()),
        ),
      (row, { status, attempts, error }) => {
        write(find("b", row), status);
        write(find(".note", row), attempts > 1 ? `attempt ${attempts}` : "");
        writeError(row, error);
      },
    );
  }
}

/** As it was typed: JSON.parse rounds large numbers, and forgets the first of two equal keys. */
function withPayload(job, typed) {
  return `${JSON.stringify(job).slice(0, -1)},"payload":${typed}}`;
}
