// SPDX-License-Identifier: Apache-2.0
// Share of trials that were solved within so many control steps, a curve for each evaluation.

const HEIGHT = 260;
const LEFT = 44;
const RIGHT = 28;
const BOTTOM = 36;
const TOP = 12;

function limitOf(number, some) {
  const limits = distinct(some.map((trial) => trial.entry.suite)).map((suite) => {
    const known = data.reports[number].limits;
    return known[suite] ?? known["*"] ?? 0;
  });
  return Math.max(...limits, ...some.map((trial) => trial.steps));
}

// Corners of the curve: [steps, share].
function corners(some, limit) {
  const steps = some.filter((trial) => trial.success).map((trial) => trial.steps).sort((a, b) => a - b);
  const found = [[0, 0]];
  steps.forEach((step, number) => {
    found.push([step, found[found.length - 1][1]], [step, (number + 1) / some.length]);
  });
  found.push([limit, found[found.length - 1][1]]);
  return found;
}

function frame(picture, width, most, x, y) {
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    picture.append(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }));
    picture.append(svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`));
  }
  const count = width < 500 ? 4 : 8;
  const raw = most / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * unit >= raw) * unit);
  for (let tick = 0; tick <= most; tick += step) {
    picture.append(svg("text", { x: x(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(tick)));
  }
  picture.append(svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "control steps"));
}

// The same as a table, at quarters of the largest limit.
function stepTable(groups, most) {
  const marks = [0.25, 0.5, 0.75, 1].map((part) => Math.round(part * most));
  const head = el("tr", {}, el("th", { scope: "col" }, "solved within"), ...marks.map((steps) => el("th", { scope: "col" }, `${steps} steps`)));
  const lines = groups.map(([number, some]) => {
    const cells = marks.map((steps) => {
      const count = some.filter((trial) => trial.success && trial.steps <= steps).length;
      return el("td", {}, `${percent(count / some.length)} %`);
    });
    return el("tr", {}, el("th", { scope: "row" }, mark(number), ` ${data.reports[number].label}`), ...cells);
  });
  return el("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Solved within so many steps" },
    el("table", { id: "steps-table" }, el("thead", {}, head), el("tbody", {}, ...lines)));
}

function showSteps(some) {
  const numbers = distinct(some.map((trial) => trial.entry.report)).sort((a, b) => a - b);
  const groups = numbers.map((number) => [number, some.filter((trial) => trial.entry.report === number)]);
  const holder = byId("steps");
  if (groups.length === 0) {
    holder.replaceChildren();
    return;
  }
  const limits = groups.map(([number, members]) => limitOf(number, members));
  const most = Math.max(...limits, 1);
  const width = Math.max(280, Math.min(holder.clientWidth || 720, 900));
  const x = (steps) => LEFT + ((width - LEFT - RIGHT) * steps) / most;
  const y = (share) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);
  const told = groups.map(([number, members]) => `${data.reports[number].label}: ${percent(solved(members) / members.length)} % in the end`);
  const picture = svg("svg", { class: "curves", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `Solved by control steps. ${told.join("; ")}` });
  picture.style.maxWidth = `${width}px`;
  frame(picture, width, most, x, y);
  const taken = []; // heights of letters at the curves' ends
  groups.forEach(([number, members], at) => {
    const points = corners(members, limits[at]);
    const path = points.map(([steps, share]) => `${x(steps).toFixed(1)},${y(share).toFixed(1)}`).join(" ");
    const [lastSteps, lastShare] = points[points.length - 1];
    let place = y(lastShare) + 4;
    while (taken.some(([other, end]) => Math.abs(other - place) < 12 && end === lastSteps)) place -= 12;
    taken.push([place, lastSteps]);
    picture.append(svg("g", { class: colour(number) },
      svg("polyline", { class: "line", points: path }),
      svg("text", { class: "mark-text", x: x(lastSteps) + 4, y: place }, data.reports[number].letter)));
  });
  holder.replaceChildren(picture, stepTable(groups, most));
}
