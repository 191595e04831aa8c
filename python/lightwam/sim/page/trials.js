// SPDX-License-Identifier: Apache-2.0
// Films, and trials one by one; both in pages.

const FILMS_A_PAGE = 12;
const TRIALS_A_PAGE = 50;
const WHY = { missing: "file missing", another: "file replaced", over: "left out" };
let addresses = []; // of films that are shown; freed when others are

function outcome(trial) {
  return el("span", { class: `outcome ${trial.success ? "solved" : "failed"}` }, trial.success ? "\u2713 solved" : "\u2717 failed");
}

function about(trial) {
  const perturb = trial.entry.perturbation === "none" ? "" : `, ${trial.entry.perturbation}`;
  return `${trial.entry.suite} ${trial.entry.task}${perturb}, trial ${trial.index}`;
}

// A film as an address of this page; the bytes are decoded when it is shown.
function filmAddress(number) {
  const text = atob(byId(`film-${number}`).textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  addresses.push(address);
  return address;
}

function filmCard(trial) {
  const label = `${trial.report.label}, ${about(trial)}, ${trial.success ? "solved" : "failed"} after ${trial.steps} steps`;
  const video = el("video", { controls: true, loop: true, playsinline: true, preload: "metadata", "aria-label": label });
  video.muted = true;
  video.src = filmAddress(trial.film);
  return el(
    "li", {}, video,
    el("p", {}, mark(trial.entry.report), " ", outcome(trial), ` after ${trial.steps} steps`),
    el("p", {}, about(trial)),
    el("p", {}, trial.entry.instruction),
  );
}

// Appends pages of `lines` to `list`, and a button for the next one while there is more.
function paged(lines, size, make, list) {
  const button = el("button", { type: "button" });
  let done = 0;
  const more = () => {
    lines.slice(done, done + size).forEach((line) => list.append(make(line)));
    done = Math.min(done + size, lines.length);
    button.textContent = `show ${Math.min(size, lines.length - done)} more of ${lines.length - done}`;
    button.hidden = done === lines.length;
  };
  button.addEventListener("click", more);
  more();
  return button;
}

function showFilms(some) {
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  const filmed = some.filter((trial) => typeof trial.film === "number").sort((a, b) => Number(a.success) - Number(b.success));
  const all = trials.filter((trial) => typeof trial.film === "number").length;
  if (all === 0) {
    byId("films").replaceChildren();
    return;
  }
  const list = el("ul", { class: "films" });
  const button = paged(filmed, FILMS_A_PAGE, filmCard, list);
  const told = filmed.length === 0 ? "No film of the trials that the filters choose." : `${filmed.length} of ${all} films; failures first.`;
  byId("films").replaceChildren(el("p", { class: "note" }, told), list, button);
}

function trialRow(trial) {
  const film = typeof trial.film === "number" ? "in this page" : trial.film ? WHY[trial.film] : "none";
  const cells = [
    trial.entry.suite, String(trial.entry.task), trial.entry.perturbation, String(trial.index), outcome(trial),
    String(trial.steps), String(trial.chunks), film,
  ];
  return el("tr", {}, el("th", { scope: "row" }, mark(trial.entry.report)), ...cells.map((cell) => el("td", {}, cell)));
}

function showTrials(some) {
  const names = ["", "suite", "task", "perturbation", "trial", "outcome", "steps", "chunks", "film"];
  const body = el("tbody");
  const head = el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name))));
  const button = paged(some, TRIALS_A_PAGE, trialRow, body);
  byId("trials").replaceChildren(el("table", { id: "trial-table" }, head, body), button);
}
