/**
 * What the charts share: a canvas that is sharp on every screen, and a paint for each priority.
 *
 * A priority has a colour and a pattern: plain for high, slanted for medium, level for low.
 */

import { PRIORITIES } from "./dom.js";

/** A context to draw with, in CSS pixels, over a clean canvas. */
export function begin(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = devicePixelRatio;
  const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** A rectangle; its pattern moves along with it. */
export function fillBar(context, paint, x, y, width, height) {
  context.save();
  context.translate(x, y);
  context.fillStyle = paint;
  context.fillRect(0, 0, width, height);
  context.restore();
}

/** Colours and patterns, as the style sheet has them for the light or the dark. */
export function paints() {
  current ??= mix();
  return current;
}

let current = null;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (current = null));

function mix() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const made = { ink: colour("ink"), muted: colour("muted"), line: colour("line") };
  for (const priority of PRIORITIES) {
    made[priority] = { line: colour(priority), fill: pattern(priority, colour(priority)) };
  }
  return made;
}

function pattern(priority, colour) {
  if (priority === "high") return colour;
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const context = tile.getContext("2d");
  context.globalAlpha = 0.35;
  context.fillStyle = colour;
  context.fillRect(0, 0, 6, 6);
  context.globalAlpha = 1;
  if (priority === "low") {
    context.fillRect(0, 0, 6, 2);
    context.fillRect(0, 3, 6, 1.5);
  } else {
    context.strokeStyle = colour;
    context.lineWidth = 2.5;
    for (const shift of [-6, 0, 6]) {
      context.moveTo(shift - 1, 7);
      context.lineTo(shift + 7, -1);
    }
    context.stroke();
  }
  return context.createPattern(tile, "repeat");
}
