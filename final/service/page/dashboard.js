/**
 * The dashboard. Read this first.
 *
 * Twice a second /stats says how things are (connection.js); in between, events say what has
 * changed. Every part of the page takes from them what it shows: lanes.js and gantt.js draw,
 * tables.js lists, controls.js and operate.js send what is clicked.
 *
 * But: events may be missed. They make the page lively; what counts comes from /stats.
 */

import { watch } from "./connection.js";
import { Creation, Lab } from "./controls.js";
import { count, find, tell, write } from "./dom.js";
import { Gantt } from "./gantt.js";
import { Lanes } from "./lanes.js";
import { Operation } from "./operate.js";
import { Periodic } from "./periodic.js";
import { Retries, loadDeadLetters, loadGroups, showLatency, showProcesses, showRunning } from "./tables.js";

const FRAME = 33; // milliseconds from one drawing to the next
const CALM_FRAME = 1_000; // for those who asked for less motion

const lanes = new Lanes(find("#lanes"));
const gantt = new Gantt(find("#gantt"));
const lab = new Lab();
const operation = new Operation();
const creation = new Creation();
const retries = new Retries();
const periodic = new Periodic();

// ---- what the service says --------------------------------------------------------------------

let wasConnected = false;
let stale = { retries: true, dead: true }; // which lists have to be asked for again
let loading = false;
let totals = {};
let clock = 0; // what the clock of the service is ahead of ours, in milliseconds

watch({
  connected() {
    showConnection("live", "Live");
    if (wasConnected) tell("Connected again.");
    wasConnected = true;
    catchUp();
  },

  lost(seconds) {
    if (find("#connection").dataset.state === "live") tell("The connection is lost.");
    showConnection("lost", `No connection; next try in ${seconds} s`);
  },

  refused(why) {
    showTrouble({ storage_error: null, stopping: false, refusal: why });
  },

  missed: catchUp,

  transition(change) {
    lanes.hear(change);
    gantt.hear(change);
    creation.hear(change);
    if (change.status === "failed") stale.dead = true;
    if (change.status === "retrying" || change.attempts > 1) stale.retries = true;
  },

  stats(stats) {
    clock = Date.parse(stats.at) - Date.now();
    if (stats.totals.failed !== totals.failed) stale.dead = true;
    if (stats.totals.retrying !== totals.retrying) stale.retries = true;
    totals = stats.totals;
    showFigures(stats);
    showTrouble(stats);
    lab.show(stats);
    operation.show(stats);
    lanes.show(stats);
    gantt.compare(stats);
    showRunning(stats);
    showProcesses(stats);
    showLatency(stats);
    loadLists();
    find("main").setAttribute("aria-busy", "false");
  },
});

function catchUp() {
  stale = { retries: true, dead: true };
  creation.catchUp();
}

/** One at a time, or an answer of before could come last. What is stale meanwhile waits its turn. */
async function loadLists() {
  if (!loading) {
    loading = true;
    const { retries: retriesToo, dead } = stale;
    stale = { retries: false, dead: false };
    try {
      // A job may come and go between two figures: until both agree, the list is asked for again.
      if (retriesToo && !(await retries.load(totals.retrying))) stale.retries = true;
      if (dead && !(await loadDeadLetters(totals.failed))) stale.dead = true;
      await periodic.load(Date.now() + clock);
      await loadGroups();
    } catch {
      stale = { retries: true, dead: true }; // with the next figures
    }
    loading = false;
  }
  retries.show(Date.now() + clock);
  periodic.show(Date.now() + clock);
}

function showConnection(state, text) {
  const place = find("#connection");
  place.dataset.state = state;
  write(place.lastElementChild, text);
}

function showFigures({ throughput, running, workers, totals: { queued, completed, retrying, failed } }) {
  const figures = {
    throughput: throughput.toFixed(throughput < 10 ? 1 : 0),
    busy: `${running.length} of ${workers}`,
    queued: count(queued),
    completed: count(completed),
    retrying: count(retrying),
    failed: count(failed),
  };
  for (const [name, text] of Object.entries(figures)) write(find(`#now [data-figure=${name}]`), text);
}

function showTrouble({ storage_error, stopping, refusal = "" }) {
  const trouble = find("#trouble");
  const broken = storage_error && `Nothing can be stored at the moment: ${storage_error}`;
  const text = broken || (stopping ? "The service is stopping: it takes no more jobs." : refusal);
  write(trouble, text);
  trouble.hidden = !text;
}

// ---- a reload ---------------------------------------------------------------------------------

const PAST = "the last minute";

addEventListener("pagehide", () => {
  sessionStorage.setItem(PAST, JSON.stringify({ lanes: lanes.past, rows: gantt.rows }));
});

function recall() {
  try {
    const past = JSON.parse(sessionStorage.getItem(PAST));
    if (past) [lanes.past, gantt.rows] = [past.lanes, past.rows];
  } catch {
    sessionStorage.removeItem(PAST); // of an older page
  }
}

recall();

// ---- drawing ----------------------------------------------------------------------------------

const calm = matchMedia("(prefers-reduced-motion: reduce)");
let drawn = 0;

function draw(time) {
  if (time - drawn >= (calm.matches ? CALM_FRAME : FRAME)) {
    drawn = time;
    lanes.draw(Date.now() + clock);
    gantt.draw(Date.now() + clock);
  }
  requestAnimationFrame(draw);
}

requestAnimationFrame(draw);
