"use strict";
// SPDX-License-Identifier: Apache-2.0
// Elements from text (never from HTML), numbers, and the data of the page.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 6;

// Trials as objects, each with its task's entry and report.
const trials = data.trials.map(([task, index, success, steps, chunks, film]) => ({
  entry: data.tasks[task], report: data.reports[data.tasks[task].report], index, success: success === 1, steps, chunks, film,
}));

function byId(id) {
  return document.getElementById(id);
}

// An element; attributes as given, children are elements or text.
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Set styles: through the object, which the page's own policy lets pass.
function placed(element, styles) {
  for (const [key, value] of Object.entries(styles)) element.style[key] = value;
  return element;
}

function colour(reportNumber) {
  return `c${reportNumber % COLOURS}`;
}

function mark(reportNumber) {
  return el("b", { class: `mark ${colour(reportNumber)}` }, data.reports[reportNumber].letter);
}

function distinct(values) {
  return [...new Set(values)];
}

// Wilson's 95 % interval of a success rate, rounded to four digits as reports have it.
function wilson(successes, count) {
  if (count === 0) return [0, 1];
  const z2 = 1.959963984540054 ** 2;
  const centre = (successes + z2 / 2) / (count + z2);
  const half = (Math.sqrt(z2) * Math.sqrt((successes * (count - successes)) / count + z2 / 4)) / (count + z2);
  return [Math.max(0, centre - half), Math.min(1, centre + half)].map((end) => Math.round(1e4 * end) / 1e4);
}

function percent(share) {
  return (100 * share).toFixed(1);
}

// "90.0 % (69.9-97.2)"
function rate(successes, count) {
  if (count === 0) return "no trial";
  const [low, high] = wilson(successes, count);
  return `${percent(successes / count)} % (${percent(low)}\u2013${percent(high)})`;
}

function solved(some) {
  return some.filter((trial) => trial.success).length;
}

function median(numbers) {
  if (numbers.length === 0) return null;
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
