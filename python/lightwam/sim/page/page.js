// SPDX-License-Identifier: Apache-2.0
// Draws all that the filters choose, again after each change.

function together(some, key) {
  const found = distinct(some.map((trial) => valueOf(trial, key)));
  return found.length > 1 ? found.length : 0;
}

// Trials of several perturbations are not counted together where some are unperturbed: those, and what to say of it.
function plainOf(rated) {
  const perturbed = together(rated, "perturbation");
  const plain = rated.filter((trial) => trial.entry.perturbation === "none");
  if (!perturbed) return [rated, ""];
  if (plain.length) return [plain, "Unperturbed trials; choose a perturbation to see its own."];
  return [rated, `${perturbed} perturbations together: choose one to see it alone.`];
}

function showRates(rated) {
  const perturbed = together(rated, "perturbation");
  const tasks = distinct(rated.map((trial) => `${trial.entry.suite} ${trial.entry.task}`)).length;
  const [plain, told] = plainOf(rated);
  const order = "A square is a trial, in order: full where it was solved.";
  byId("s-perturbation").hidden = !perturbed;
  byId("n-perturbation").textContent = tasks > 1 ? `${tasks} tasks together.` : "";
  byId("by-perturbation").replaceChildren(
    successPlot("plot-perturbation", "perturbation", rated, (trial) => trial.entry.perturbation, (trial) => trial.entry.perturbation, false));
  byId("s-task").hidden = rated.length === 0;
  byId("n-task").textContent = `${order} ${told}`;
  byId("by-task").replaceChildren(successPlot(
    "plot-task", "task", plain, (trial) => `${trial.entry.suite} ${trial.entry.task}`,
    (trial) => `${trial.entry.suite} ${trial.entry.task}: ${trial.entry.instruction}`, true));
  byId("s-steps").hidden = rated.length === 0;
  byId("n-steps").textContent = `Share of all trials that were solved within so many control steps; a curve ends at its step limit. ${told}`;
  showSteps(plain);
}

function showStatus(rated, chosen) {
  const left = unknown.length ? ` Not in these reports, left out: ${unknown.join(", ")}.` : "";
  const among = filters.outcome ? ` Listed: ${chosen.length} with the outcome ${filters.outcome}.` : "";
  const alone = !together(rated, "report") && !together(rated, "perturbation");
  const told = alone ? `: ${solved(rated)} solved, ${rate(solved(rated), rated.length)}` : "";
  byId("status").textContent = `${rated.length} of ${trials.length} trials${told}.${among}${left}`;
}

function show() {
  const rated = trials.filter((trial) => passes(trial, RATED));
  const chosen = rated.filter((trial) => passes(trial, ["outcome"]));
  showFilters();
  hideRows();
  showStatus(rated, chosen);
  showRates(rated);
  showLatency(rated);
  showFilms(chosen);
  byId("s-trials").hidden = chosen.length === 0;
  showTrials(chosen);
}

function changeTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  writeAddress();
}

readAddress();
buildFilters(show);
if (matchMedia("(max-width: 44rem)").matches) byId("filter-box").open = false;
byId("filters").hidden = false;
byId("s-grid").hidden = distinct(data.tasks.map((entry) => entry.perturbation)).length < 2; // else that of tasks says it
byId("theme").hidden = false;
byId("theme").textContent = "Light/dark";
byId("theme").addEventListener("click", changeTheme);
addEventListener("hashchange", () => {
  readAddress();
  show();
});
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // a phone's bars change the height alone
  width = innerWidth;
  showSteps(plainOf(trials.filter((trial) => passes(trial, RATED)))[0]);
});
show();
