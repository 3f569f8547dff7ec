/**
 * Small helpers for elements, and how figures are written.
 *
 * What comes from the service is put in as text, never as HTML.
 */

import { jobPath } from "./connection.js";

const SHORT_ERROR = 90; // characters that take three lines, also on a phone

export const PRIORITIES = ["high", "medium", "low"];

export const find = (selector, inside = document) => inside.querySelector(selector);

/** A new element: its attributes, then what is in it (elements and text). */
export function element(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

/** Change a text only where it is another one: what is selected stays selected. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Text that only screen readers get. */
export const unseen = (text) => element("span", { class: "unseen" }, text);

/** Tell what has happened, also to those who do not see the page. Only for what is worth it. */
export function tell(text) {
  find("#news").textContent = text;
}

/** A job: a link to all that is known about it, with its type, priority and group. */
export function jobCell({ id, type, priority, group }) {
  const link = element("a", { href: jobPath(id), title: id }, shortId(id));
  const tag = element("span", { class: "tag" }, element("i", { class: `swatch ${priority}` }));
  tag.append(group ? `${priority} ${type}, ${group}` : `${priority} ${type}`);
  return element("th", { scope: "row" }, link, tag);
}

/** A place for an error: three lines of it, and the rest behind a click. */
export const errorCell = () =>
  element("div", { class: "error" }, element("p"), element("details", {}, element("summary")));

export function writeError(row, error) {
  const [short, long] = find(".error", row).children;
  const isLong = (error ?? "").length > SHORT_ERROR;
  short.hidden = isLong;
  long.hidden = !isLong;
  write(isLong ? long.firstElementChild : short, error ?? "");
}

/** The ids that the queue makes begin with the time: their ends differ. */
export function shortId(id) {
  return id.length > 20 ? `…${id.slice(-8)}` : id;
}

/**
 * Let the rows of a table be those of `items`, by their ids. A row that stays is not made anew,
 * so that it keeps the focus and what is open in it.
 */
export function fillRows(table, items, makeRow, updateRow = () => {}) {
  const body = find("tbody", table);
  const old = new Map([...body.rows].map((row) => [row.dataset.id, row]));
  const rows = items.map((item) => {
    const row = old.get(item.id) ?? makeRow(item);
    row.dataset.id = item.id;
    updateRow(row, item);
    return row;
  });
  const same = rows.length === body.rows.length && rows.every((row, n) => row === body.rows[n]);
  if (!same) {
    const focused = document.activeElement;
    body.replaceChildren(...rows);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  table.hidden = items.length === 0;
  const empty = table.nextElementSibling;
  if (empty?.classList.contains("empty")) empty.hidden = items.length > 0;
}

// ---- figures ----------------------------------------------------------------------------------

export const count = (number) => number.toLocaleString("en");

/** 0.012 is 12 ms, 1.234 is 1.2 s, 75 is 1 min 15 s. */
export function duration(seconds) {
  if (seconds <= 0) return "0 s";
  if (seconds < 0.001) return "< 1 ms";
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
