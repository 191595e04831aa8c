// SPDX-License-Identifier: Apache-2.0
// The filters: their values live in the address, after "#", as in #task=3&outcome=failure.

const KEYS = ["report", "policy", "states", "suite", "task", "perturbation", "outcome"];
const OUTCOMES = ["success", "failure"];

const filters = Object.fromEntries(KEYS.map((key) => [key, ""]));
let unknown = []; // of the address

function valueOf(trial, key) {
  if (key === "report") return trial.report.letter;
  if (key === "policy" || key === "states") return trial.report[key];
  if (key === "outcome") return trial.success ? "success" : "failure";
  return String(trial.entry[key]);
}

// All values of a filter, those of reports without trials too.
function valuesOf(key) {
  if (key === "outcome") return OUTCOMES;
  if (key === "report") return data.reports.map((report) => report.letter);
  if (key === "policy" || key === "states") return distinct(data.reports.map((report) => report[key]));
  const found = distinct(data.tasks.map((entry) => String(entry[key])));
  if (key === "task") return found.sort((a, b) => Number(a) - Number(b));
  // The rows of the table of success of reports without trials have perturbations too.
  if (key !== "perturbation") return found;
  return distinct([...found, ...[...document.querySelectorAll("#published tbody tr")].map((row) => row.dataset.perturbation)]);
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  unknown = [];
  for (const key of KEYS) {
    const value = given.get(key) ?? "";
    const known = value === "" || valuesOf(key).includes(value);
    filters[key] = known ? value : "";
    if (!known) unknown.push(`${key} ${value}`);
  }
  const theme = given.get("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}

function writeAddress() {
  const told = new URLSearchParams();
  for (const key of KEYS) if (filters[key]) told.set(key, filters[key]);
  const theme = document.documentElement.dataset.theme;
  if (theme) told.set("theme", theme);
  history.replaceState(null, "", `#${told}`);
}

function labelOf(key, value) {
  if (key === "report") return `${value}: ${data.reports.find((report) => report.letter === value).label}`;
  if (key !== "task" || distinct(data.tasks.map((entry) => entry.suite)).length > 1) return value;
  return `${value}: ${data.tasks.find((entry) => String(entry.task) === value).instruction}`;
}

// The controls; a filter with one value has none.
function buildFilters(onChange) {
  const form = byId("filter-form");
  for (const key of KEYS) {
    const values = valuesOf(key);
    if (values.length < 2) continue;
    const select = el("select", { name: key }, el("option", { value: "" }, "all"));
    for (const value of values) select.append(el("option", { value }, labelOf(key, value)));
    select.addEventListener("change", () => {
      filters[key] = select.value;
      unknown = [];
      writeAddress();
      onChange();
    });
    form.append(el("label", {}, key, select));
  }
  const reset = el("button", { type: "button" }, "reset");
  reset.addEventListener("click", () => {
    for (const key of KEYS) filters[key] = "";
    unknown = [];
    writeAddress();
    onChange();
  });
  form.append(reset);
}

function showFilters() {
  for (const select of byId("filter-form").querySelectorAll("select")) select.value = filters[select.name];
  const active = KEYS.filter((key) => filters[key]).map((key) => `${key} ${filters[key]}`);
  byId("active").textContent = active.length ? `(${active.join(", ")})` : "(none)";
}

// Whether filters let a trial pass; `keys`: those that are looked at.
function passes(trial, keys) {
  return keys.every((key) => !filters[key] || valueOf(trial, key) === filters[key]);
}

// Rates are of solved and failed trials, so the outcome does not choose among those.
const RATED = KEYS.filter((key) => key !== "outcome");

function hideRows() {
  for (const cell of document.querySelectorAll("#published tbody tr, #grid tbody tr, #grid [data-perturbation]")) {
    const told = cell.dataset;
    cell.hidden = RATED.some((key) => filters[key] && key in told && told[key] !== filters[key]);
  }
}
