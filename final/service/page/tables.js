/**
 * The tables: what runs, who shares the database, whose jobs wait, what waits for a retry, what failed
 * for good, how long it takes.
 */

import { ask, jobPath } from "./connection.js";
import {
  PRIORITIES, count, duration, element, errorCell, fillRows, find, jobCell, tell, unseen, write, writeError,
} from "./dom.js";

const SHOWN = 10; // rows of retries and of dead letters

// ---- running ----------------------------------------------------------------------------------

export function showRunning({ running, at }) {
  const now = Date.parse(at);
  const byWorker = [...running].sort((one, other) => one.worker - other.worker);
  fillRows(
    find("#running"),
    byWorker,
    (job) =>
      element(
        "tr",
        {},
        element("td"),
        jobCell(job),
        element("td"),
        element("td", {}, progressBar(job), element("span", { class: "note" })),
        element("td", { class: "number" }),
      ),
    (row, job) => {
      write(row.cells[0], String(job.worker));
      write(row.cells[2], String(job.attempt));
      writeProgress(row.cells[3], job.progress);
      write(row.cells[4], duration((now - Date.parse(job.started_at)) / 1000));
    },
  );
}

/** How far it is, as its handler says; hidden where that says nothing. */
function progressBar({ id }) {
  return element("progress", { max: "1", "aria-label": `progress of job ${id}` });
}

function writeProgress(cell, progress) {
  const bar = find("progress", cell);
  bar.hidden = !progress;
  bar.value = progress?.fraction ?? 0;
  write(find(".note", cell), progress ? `${Math.floor(100 * progress.fraction)} % ${progress.message}` : "");
}

// ---- processes that share a database ----------------------------------------------------------

export function showProcesses({ processes }) {
  find("#processes-card").hidden = processes.length === 0;
  fillRows(
    find("#processes"),
    processes.map((process) => ({ ...process, id: String(process.id) })),
    () =>
      element(
        "tr",
        {},
        element("td"),
        element("td"),
        element("td", { class: "number" }),
        element("td"),
      ),
    (row, { name, here, alive, lease, workers, running }) => {
      write(row.cells[0], here ? `${name} (this one)` : name);
      write(row.cells[1], alive ? `alive, ${duration(lease)} left` : "ran out");
      write(row.cells[2], String(workers));
      const jobs = Object.entries(running).map(([type, number]) => `${type} ${count(number)}`);
      write(row.cells[3], jobs.join(", ") || "–");
    },
  );
}

// ---- groups -----------------------------------------------------------------------------------

/** Once there was one, the table stays: what is below it would jump. */
export async function loadGroups() {
  const { groups } = await ask("GET", "groups");
  if (groups.length > 0) find("#groups-card").hidden = false;
  fillRows(
    find("#groups"),
    groups.map((group) => ({ ...group, id: group.group })),
    ({ group }) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, group),
        ...Array.from({ length: 3 }, () => element("td", { class: "number" })),
      ),
    (row, { queued, running, oldest_queued }) => {
      write(row.cells[1], count(queued));
      write(row.cells[2], count(running));
      write(row.cells[3], queued ? duration(oldest_queued) : "–");
    },
  );
}

// ---- waiting to be retried --------------------------------------------------------------------

export class Retries {
  #jobs = [];

  /** Whether the list is as long as the figures say: else they are of another moment. */
  async load(total) {
    const { jobs } = await ask("GET", `jobs?status=retrying&limit=${SHOWN}`);
    this.#jobs = jobs.sort((one, other) => Date.parse(one.due_at) - Date.parse(other.due_at));
    showCount("retries", total);
    return jobs.length === Math.min(total, SHOWN);
  }

  /** Every time that the clock has moved on. */
  show(now) {
    fillRows(
      find("#retries"),
      this.#jobs,
      (job) =>
        element(
          "tr",
          {},
          jobCell(job),
          element("td", {}, errorCell(), element("p", { class: "note" })),
          element("td", { class: "number" }),
        ),
      (row, job) => {
        writeError(row, job.error);
        write(find(".note", row), `attempt ${job.attempts} failed`);
        const seconds = Math.ceil((Date.parse(job.due_at) - now) / 1000);
        const left = seconds < 60 ? `${seconds} s` : duration(seconds);
        write(row.cells[2], seconds > 0 ? `in ${left}` : "now");
      },
    );
  }
}

// ---- dead letters -----------------------------------------------------------------------------

/** Whether the list is as long as the figures say. */
export async function loadDeadLetters(total) {
  const { jobs } = await ask("GET", `dead-letters?limit=${SHOWN}`);
  showCount("dead", total);
  fillRows(find("#dead"), jobs, deadLetterRow, (row, job) => {
    writeError(row, job.error);
    write(find(".attempts summary", row), `${job.attempts} ${job.attempts === 1 ? "attempt" : "attempts"}`);
    const attempts = find(".attempts", row);
    // It may have been retried elsewhere, and have failed anew, before its row was gone.
    if (attempts.open && attempts.dataset.endedAt !== job.ended_at) showAttempts(job.id, attempts);
    attempts.dataset.endedAt = job.ended_at;
  });
  return jobs.length === Math.min(total, SHOWN);
}

function deadLetterRow(job) {
  const about = element("p", { class: "note about" });
  const attempts = element("details", { class: "attempts" }, element("summary"), about, element("ol"));
  attempts.addEventListener("toggle", () => attempts.open && showAttempts(job.id, attempts));
  const button = element("button", { type: "button" }, "Retry", unseen(` job ${job.id}`));
  const row = element(
    "tr",
    {},
    jobCell(job),
    element("td", {}, errorCell(), attempts),
    element("td", { class: "number" }, button),
  );
  button.addEventListener("click", () => retry(job.id, row, button));
  return row;
}

async function showAttempts(id, place) {
  try {
    const { failures, group, meta } = await ask("GET", jobPath(id));
    const entries = [...(group ? [["group", group]] : []), ...Object.entries(meta)];
    const about = entries.map(([name, value]) => `${name}: ${value}`);
    write(find(".about", place), about.join(", "));
    const lines = failures.map(({ started_at, ended_at, error, number }) => {
      const took = duration((Date.parse(ended_at) - Date.parse(started_at)) / 1000);
      const when = new Date(started_at).toLocaleString();
      return element("li", { value: number }, `${when}, after ${took}: ${error}`);
    });
    find("ol", place).replaceChildren(...lines);
  } catch (error) {
    tell(`The attempts cannot be shown: ${error.message}`);
  }
}

async function retry(id, row, button) {
  button.disabled = true;
  try {
    await ask("POST", `${jobPath(id)}/retry`);
  } catch (error) {
    tell(`Job ${id} is not retried: ${error.message}`);
    button.disabled = false;
    button.focus();
    return;
  }
  tell(`Job ${id} is back in its lane.`);
  // The next button is where the keyboard goes on; without one, the heading.
  const next = find("button", row.nextElementSibling ?? row.previousElementSibling ?? document.body);
  const following = row.parentElement?.contains(next) ? next : find("#dead-title");
  row.remove();
  following.focus();
}

// ---- how long it takes ------------------------------------------------------------------------

export function showLatency({ lanes, totals }) {
  for (const what of ["wait", "run"]) {
    const rows = PRIORITIES.map((priority) => ({ id: priority, spread: lanes[priority][what] }));
    rows.push({ id: "all", spread: totals[what] });
    fillRows(find(`#${what}`), rows, latencyRow, (row, { spread: { p50, p95, p99 } }) => {
      [p50, p95, p99].forEach((seconds, n) => write(row.cells[n + 1], seconds ? duration(seconds) : "–"));
    });
  }
}

function latencyRow({ id }) {
  const title = element("th", { scope: "row" });
  if (id !== "all") title.append(element("i", { class: `swatch ${id}` }));
  title.append(id);
  const cells = Array.from({ length: 3 }, () => element("td", { class: "number" }));
  return element("tr", {}, title, ...cells);
}

/** How many there are; and where there are more than a list shows, the way to all of them. */
function showCount(list, total) {
  write(find(`#${list}-count`), howMany(total));
  find(`#${list}-all`).hidden = total <= SHOWN;
}

function howMany(total) {
  if (total === 0) return "";
  return total > SHOWN ? `the newest ${SHOWN} of ${count(total)}` : count(total);
}
