/**
 * A card for each lane: how full it is, how it was in the last minute, and whether it starves.
 *
 * The chart has the number of waiting jobs as an area, and below it a mark for every half second
 * in which a job of this lane was started. A lane that starves has an area and no marks.
 */

import { PRIORITIES, count, duration, element, find, tell, write } from "./dom.js";
import { isHeld } from "./operate.js";
import { begin, paints } from "./paint.js";

const MINUTE = 60_000;
// So many more urgent jobs started in a row, while a job was waiting here: then it starves.
const STARVING = 20;
const MARKS = 7; // the height of the marks, in pixels

export class Lanes {
  constructor(place) {
    this.lanes = new Map(PRIORITIES.map((priority) => [priority, new Lane(priority)]));
    place.append(...[...this.lanes.values()].map((lane) => lane.card));
  }

  /** The last minute of every lane, which a reload need not forget. */
  get past() {
    return Object.fromEntries([...this.lanes].map(([priority, lane]) => [priority, lane.past]));
  }

  set past(past) {
    for (const [priority, lane] of this.lanes) lane.past = past[priority];
  }

  hear({ priority, status, at }) {
    if (status !== "processing") return;
    this.lanes.get(priority).start(Date.parse(at));
    const lessUrgent = PRIORITIES.slice(PRIORITIES.indexOf(priority) + 1);
    for (const passed of lessUrgent) this.lanes.get(passed).passOver();
  }

  show({ lanes, capacity, at, paused, limited }) {
    const now = Date.parse(at);
    for (const [priority, lane] of this.lanes) {
      lane.showPaused(isHeld(paused, priority));
      lane.mayBeHeld = limited || paused.some(({ type, group }) => (type ?? group) !== null);
      lane.show(lanes[priority], capacity, now);
    }
  }

  draw(now) {
    for (const lane of this.lanes.values()) lane.draw(now);
  }
}

class Lane {
  #figures = {};
  #history = []; // {at, queued, starts}, one for each answer of /stats
  #starts = 0; // since the last of them
  #queued = 0;
  #passedOver = 0;
  #starves = false;
  mayBeHeld = false; // something of it, by a pause or a limit that is not for lanes

  constructor(priority) {
    this.priority = priority;
    this.tag = element("strong", { class: "starving", hidden: "" }, "starving");
    this.paused = element("strong", { class: "paused", hidden: "" }, "paused");
    this.full = element("i", { class: priority });
    this.meter = element("div", { role: "meter", class: "meter", "aria-label": `${priority} lane` });
    this.meter.append(this.full);
    this.canvas = element("canvas", { role: "img" });
    this.card = element(
      "article",
      { class: "card lane", "data-lane": priority },
      element(
        "div",
        { class: "bar" },
        element("h3", {}, element("i", { class: `swatch ${priority}` }), priority),
        this.tag,
        this.paused,
        element("button", { type: "button", class: "switch" }, "Pause"),
      ),
      element(
        "p",
        { class: "waiting" },
        this.#figure("queued", "b"),
        " of at most ",
        this.#figure("capacity", "span"),
        " waiting",
      ),
      this.meter,
      this.canvas,
      element(
        "dl",
        {},
        this.#pair("Longest wait", "oldest"),
        this.#pair("Passed over", "passed"),
        this.#pair("Running", "processing"),
        this.#pair("Scheduled", "scheduled"),
        this.#pair("Waits for others", "waiting"),
        this.#pair("Completed", "completed"),
        this.#pair("Dead letters", "failed"),
      ),
    );
  }

  #figure(name, tag) {
    this.#figures[name] = element(tag, { "data-figure": name }, "0");
    return this.#figures[name];
  }

  #pair(title, name) {
    return element("div", {}, element("dt", {}, title), this.#figure(name, "dd"));
  }

  get past() {
    return this.#history;
  }

  set past(samples) {
    this.#history = samples;
  }

  start() {
    this.#starts += 1;
    this.#passedOver = 0;
  }

  passOver() {
    if (this.#queued > 0 && this.paused.hidden && !this.mayBeHeld) this.#passedOver += 1;
  }

  /** A lane that is paused is not passed over, nor, for all that is known, one of held types. */
  showPaused(isPaused) {
    this.paused.hidden = !isPaused;
    if (isPaused) this.#passedOver = 0;
  }

  show(lane, capacity, now) {
    this.#queued = lane.queued;
    if (lane.queued === 0) this.#passedOver = 0;
    this.#history.push({ at: now, queued: lane.queued, starts: this.#starts });
    this.#starts = 0;
    while (this.#history[0].at < now - MINUTE) this.#history.shift();

    for (const name of ["queued", "processing", "scheduled", "waiting", "completed", "failed"]) {
      write(this.#figures[name], count(lane[name]));
    }
    write(this.#figures.capacity, count(capacity));
    write(this.#figures.oldest, duration(lane.oldest_queued));
    write(this.#figures.passed, count(this.#passedOver));
    this.full.style.width = `${Math.min(100, (100 * lane.queued) / capacity)}%`;
    this.meter.ariaValueMax = capacity;
    this.meter.ariaValueNow = Math.min(lane.queued, capacity);
    this.meter.ariaValueText = `${lane.queued} of ${capacity}`;
    this.#describe();
    this.#showStarving(this.#passedOver >= STARVING);
  }

  #describe() {
    const queued = this.#history.map((sample) => sample.queued);
    const starts = this.#history.reduce((sum, sample) => sum + sample.starts, 0);
    this.canvas.ariaLabel =
      `The last minute of the ${this.priority} lane: ${Math.min(...queued)} to ` +
      `${Math.max(...queued)} waiting, ${queued.at(-1)} now; ${starts} started.`;
  }

  #showStarving(starves) {
    if (starves === this.#starves) return;
    this.#starves = starves;
    this.tag.hidden = !starves;
    this.card.classList.toggle("starves", starves);
    tell(starves ? `The ${this.priority} lane starves.` : `The ${this.priority} lane moves again.`);
  }

  /** now: milliseconds, by the clock of the service. */
  draw(now) {
    const { context, width, height } = begin(this.canvas);
    const paint = paints();
    const floor = height - MARKS - 3;
    const peak = Math.max(10, ...this.#history.map((sample) => sample.queued));
    const x = (time) => width + ((time - now) * width) / MINUTE;
    const y = (queued) => floor - (queued / peak) * (floor - 14);
    context.fillStyle = paint.line;
    context.fillRect(0, floor, width, 1);
    if (this.#history.length > 0) {
      const line = new Path2D();
      line.moveTo(x(this.#history[0].at), y(this.#history[0].queued));
      for (const { at, queued } of this.#history) line.lineTo(x(at), y(queued));
      line.lineTo(width, y(this.#queued));
      const area = new Path2D(line);
      area.lineTo(width, floor);
      area.lineTo(x(this.#history[0].at), floor);
      context.fillStyle = paint[this.priority].fill;
      context.fill(area);
      context.strokeStyle = paint[this.priority].line;
      context.lineWidth = 1.5;
      context.stroke(line);
    }
    context.fillStyle = paint.ink;
    for (const { at, starts } of this.#history) {
      if (starts > 0) context.fillRect(x(at) - 2, height - MARKS, 2, MARKS);
    }
    context.fillStyle = paint.muted;
    context.font = "11px system-ui, sans-serif";
    context.fillText(`most: ${Math.max(0, ...this.#history.map(({ queued }) => queued))}`, 0, 9);
  }
}
