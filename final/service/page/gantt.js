/**
 * The workers as a live Gantt chart: a row for each, a bar for each attempt.
 *
 * Events say when an attempt starts and ends, but not which worker has it. A new bar goes into the
 * row that has been free the longest; /stats names the worker, and if that is another row, the bar
 * moves there. So rows are right for all that takes longer than a moment.
 *
 * But: very short jobs are handed to a worker many at a time. A row shows one of them.
 */

import { PRIORITIES } from "./dom.js";
import { begin, fillBar, paints } from "./paint.js";

const WINDOW = 30_000; // milliseconds on a wide screen
const ROW = 30;
const AXIS = 18;
const NUMBERS = 20; // the width of the column with the workers' numbers
// Which priority a bar has can be seen from its height, too.
const HEIGHT = { high: 16, medium: 12, low: 8 };
const KEPT = 500; // bars per row

export class Gantt {
  constructor(canvas) {
    this.canvas = canvas;
    this.rows = [];
  }

  /** A job has changed its status. */
  hear({ id, priority, status, attempts, at }) {
    const time = Date.parse(at);
    if (status !== "processing") this.#end(id, status, time);
    else if (!this.#knows(id, time)) this.#start({ id, priority, attempt: attempts, from: time });
  }

  /** What the service says is running: takes in what was not heard of. */
  compare({ workers, running, at }) {
    while (this.rows.length < workers) this.rows.push({ bars: [], freeSince: 0 });
    this.rows.length = workers; // a service that has come back may have fewer
    this.canvas.style.height = `${workers * ROW + AXIS}px`;
    const now = Date.parse(at);
    const ids = new Set(running.map(({ id }) => id));
    for (const { bars } of this.rows) {
      const last = bars.at(-1);
      // Twice in a row: an event may still be on its way when the figures are here.
      if (!last || last.to) continue;
      if (last.doubtful && !ids.has(last.id)) this.#end(last.id, "unknown", now);
      last.doubtful = !ids.has(last.id);
    }
    for (const { worker, id, priority, attempt, started_at } of running) {
      const from = Date.parse(started_at);
      if (!this.#knows(id, from)) this.#start({ id, priority, attempt, from });
      this.#move(id, worker);
    }
    this.canvas.ariaLabel = describe(running, workers);
  }

  #start(bar) {
    const free = this.rows.filter((row) => !isBusy(row));
    const [row] = free.sort((one, other) => one.freeSince - other.freeSince);
    if (!row) return; // it waits in the hands of a worker for its turn
    row.bars.push(bar);
    if (row.bars.length > KEPT) row.bars.shift();
  }

  #end(id, fate, time) {
    const row = this.rows.find((each) => isBusy(each) && each.bars.at(-1).id === id);
    if (!row) return;
    Object.assign(row.bars.at(-1), { to: time, fate });
    row.freeSince = time;
  }

  /** Whether there is a bar for what this job did then. */
  #knows(id, time) {
    const covers = (bar) => bar.id === id && (!bar.to || bar.to > time);
    return this.rows.some(({ bars }) => bars.some(covers));
  }

  /** Let a running bar be in this worker's row, by changing places with what is there. */
  #move(id, worker) {
    const here = this.rows.find((row) => isBusy(row) && row.bars.at(-1).id === id);
    const there = this.rows[worker]; // none, once a worker has been replaced after a time-out
    if (!here || !there || here === there) return;
    const bar = here.bars.pop();
    const other = isBusy(there) ? there.bars.pop() : null;
    there.bars.push(bar);
    if (other) here.bars.push(other);
  }

  /** now: milliseconds, by the clock of the service. */
  draw(now) {
    const { context, width } = begin(this.canvas);
    const paint = paints();
    const left = NUMBERS;
    const window = Math.min(WINDOW, (width - left) * 33);
    const scale = (width - left) / window;
    const x = (time) => left + (time - (now - window)) * scale;
    this.#drawAxis(context, paint, width, window, x, now);
    this.rows.forEach((row, number) => {
      const bottom = (number + 1) * ROW - 4;
      context.fillStyle = paint.muted;
      context.textAlign = "left";
      context.fillText(String(number), 0, bottom - 3);
      context.fillStyle = paint.line;
      context.fillRect(left, bottom, width - left, 1);
      row.bars = row.bars.filter((bar) => !bar.to || bar.to > now - WINDOW);
      for (const bar of row.bars) {
        if (x(bar.to ?? now) > left) drawBar(context, paint, bar, x, left, bottom, now);
      }
    });
  }

  #drawAxis(context, paint, width, window, x, now) {
    const bottom = this.rows.length * ROW;
    context.font = "11px system-ui, sans-serif";
    for (let ago = 0; ago <= window; ago += 5_000) {
      const at = x(now - ago);
      context.fillStyle = paint.line;
      context.fillRect(Math.min(at, width - 1), 0, 1, bottom);
      context.fillStyle = paint.muted;
      context.textAlign = ago === 0 ? "right" : "center";
      if (at > NUMBERS + 12) context.fillText(ago ? `${ago / 1000} s ago` : "now", at, bottom + 13);
    }
  }
}

function describe(running, workers) {
  if (running.length === 0) return "No worker is busy.";
  const parts = PRIORITIES.map((priority) => {
    const number = running.filter((job) => job.priority === priority).length;
    return `${number} with ${priority} jobs`;
  });
  return `${running.length} of ${workers} workers are busy: ${parts.join(", ")}.`;
}

function isBusy(row) {
  return row.bars.length > 0 && !row.bars.at(-1).to;
}

function drawBar(context, paint, bar, x, left, bottom, now) {
  const from = Math.max(left, x(bar.from));
  const to = Math.max(from + 2, x(bar.to ?? now) - 1); // a gap to the next one
  const height = HEIGHT[bar.priority];
  context.globalAlpha = bar.fate === "unknown" ? 0.4 : 1;
  fillBar(context, paint[bar.priority].fill, from, bottom - height, to - from, height);
  context.globalAlpha = 1;
  context.fillStyle = paint.ink;
  context.textAlign = "right";
  const mark = { retrying: "▲", failed: "✕" }[bar.fate];
  if (mark) context.fillText(mark, to + 2, bottom - HEIGHT.high + 1);
  context.textAlign = "left";
  if (bar.attempt > 1 && !mark) context.fillText(bar.attempt, from, bottom - HEIGHT.high + 2);
}
