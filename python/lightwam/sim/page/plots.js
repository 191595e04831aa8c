// SPDX-License-Identifier: Apache-2.0
// Tables with a plot in each row: success with its interval, latency with its percentiles.

function axis(labels) {
  const made = el("div", { class: "axis", "aria-hidden": "true" });
  labels.forEach(([at, text]) => made.append(placed(el("span", {}, text), { left: `${at}%` })));
  return made;
}

function plotTable(id, first, scale, figures, last) {
  const columns = el("colgroup", {}, el("col", { class: "who" }), el("col"), el("col", { class: "figures" }), el("col", { class: "median" }));
  const heads = [
    el("th", { scope: "col" }, first), el("th", { scope: "col", class: "scale" }, scale),
    el("th", { scope: "col" }, figures), el("th", { scope: "col" }, last),
  ];
  const table = el("table", { class: "plot", id }, columns, el("thead", {}, el("tr", {}, ...heads)));
  return table;
}

function track(...marks) {
  return el("div", { class: "track", "aria-hidden": "true" }, ...marks);
}

function span(className, from, to) {
  return placed(el("span", { class: className }), { left: `${from}%`, width: `${to - from}%` });
}

function at(className, place) {
  return placed(el("span", { class: className }), { left: `${place}%` });
}

// A square for each trial, in order: full where it was solved.
function strip(some) {
  if (some.length > 60) return null;
  const squares = some.map((trial) => {
    const told = `trial ${trial.index}: ${trial.success ? "solved" : "failed"} after ${trial.steps} steps`;
    return el("i", { class: trial.success ? "" : "failed", title: told });
  });
  return el("div", { class: "strip", "aria-hidden": "true" }, ...squares);
}

function successRow(head, number, some, withStrip, member) {
  const count = solved(some);
  const [low, high] = wilson(count, some.length);
  const middle = median(some.filter((trial) => trial.success).map((trial) => trial.steps));
  return el(
    "tr", { class: `${colour(number)}${member ? " member" : ""}`, "data-report": data.reports[number].letter },
    el("th", { scope: "row" }, ...head),
    el("td", {}, track(span("whisker", 100 * low, 100 * high), at("dot", (100 * count) / some.length)), withStrip ? strip(some) : null),
    el("td", { class: "figures" }, `${count} of ${some.length}: ${rate(count, some.length)}`),
    el("td", { class: "median" }, middle === null ? "" : String(middle)),
  );
}

// Groups of rows: a group for each value of `keyOf`, in it a row for each report.
function successPlot(id, first, some, keyOf, labelOfKey, withStrip) {
  const ticks = axis([[0, "0"], [50, "50"], [100, "100 %"]]);
  const table = plotTable(id, first, ticks, "solved, 95 % interval", "median steps");
  const several = distinct(some.map((trial) => trial.entry.report)).length > 1;
  const groups = new Map();
  for (const trial of some) {
    const key = keyOf(trial);
    if (!groups.has(key)) groups.set(key, new Map());
    const reports = groups.get(key);
    if (!reports.has(trial.entry.report)) reports.set(trial.entry.report, []);
    reports.get(trial.entry.report).push(trial);
  }
  for (const reports of groups.values()) {
    const label = labelOfKey([...reports.values()][0][0]);
    const body = el("tbody");
    const here = reports.size > 1;
    if (here) body.append(el("tr", {}, el("th", { class: "group", colspan: "4", scope: "rowgroup" }, label)));
    for (const [number, members] of [...reports].sort((a, b) => a[0] - b[0])) {
      const head = here ? [mark(number), ` ${data.reports[number].label}`] : several ? [mark(number), ` ${label}`] : [label];
      body.append(successRow(head, number, members, withStrip, here));
    }
    table.append(body);
  }
  return table;
}

function latencyRow(head, number, latency, most) {
  const place = (value) => (100 * value) / most;
  const whole = "p50_ms" in latency;
  const mean = "mean_ms" in latency;
  const marks = whole ? [span("whisker", place(latency.p50_ms), place(latency.p99_ms)), at("tick", place(latency.p95_ms)), at("dot", place(latency.p50_ms))]
    : mean ? [at("tick", place(latency.mean_ms))] : [];
  const short = (value) => String(Number(value.toPrecision(4)));
  const told = whole ? `p50 ${short(latency.p50_ms)}, p95 ${short(latency.p95_ms)}, p99 ${short(latency.p99_ms)} ms`
    : mean ? `mean ${short(latency.mean_ms)} ms; no percentiles` : "not said";
  return el(
    "tr", { class: colour(number) }, el("th", { scope: "row" }, ...head), el("td", {}, track(...marks)),
    el("td", { class: "figures" }, told), el("td", { class: "chunks" }, latency.chunks ? String(latency.chunks) : "-"),
  );
}

function niceMost(values) {
  const most = Math.max(...values, 0);
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return Math.ceil(most / unit) * unit;
}

function latencyPlot(id, first, lines) {
  const most = niceMost(lines.map(([, , latency]) => latency.p99_ms ?? latency.mean_ms ?? 0));
  const ticks = axis([[0, "0"], [50, String(Number((most / 2).toPrecision(6)))], [100, `${Number(most.toPrecision(6))} ms`]]);
  const table = plotTable(id, first, ticks, "percentiles", "chunks");
  table.append(el("tbody", {}, ...lines.map(([head, number, latency]) => latencyRow(head, number, latency, most))));
  return table;
}

function showLatency(some) {
  const entries = distinct(some.map((trial) => trial.entry));
  const shown = data.reports.map((_, number) => number).filter((number) => {
    const report = data.reports[number];
    return ["report", "policy", "states"].every((key) => !filters[key] || (key === "report" ? report.letter : report[key]) === filters[key]);
  });
  const whole = shown.map((number) => [[mark(number), ` ${data.reports[number].label}`], number, data.reports[number].latency]);
  const note = "Milliseconds from images to actions: dot p50, tick p95, end of the bar p99; a tick alone is the mean. "
    + "Of whole reports, without the very first chunk.";
  const parts = [el("p", { class: "note" }, note), latencyPlot("latency-reports", "evaluation", whole)];
  if (entries.length > 1) {
    const tasks = entries.map((entry) => {
      const perturb = entry.perturbation === "none" ? "" : `, ${entry.perturbation}`;
      return [[mark(entry.report), ` ${entry.suite} ${entry.task}${perturb}`], entry.report, entry.latency];
    });
    const details = el("details", {}, el("summary", {}, `Task by task (${tasks.length})`));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(latencyPlot("latency-tasks", "task", tasks));
    });
    parts.push(details);
  }
  byId("latency").replaceChildren(...parts);
}
