/* The run page of a job: how far it is, what it was asked for, how the result was made, and its log. */

import { ask } from "./api.js";
import { downloads } from "./downloads.js";
import { fill, make, terms, toast } from "./dom.js";
import { poll } from "./poll.js";
import { badge, bar } from "./progress.js";
import { area, count, percent, span, tiles, time, when } from "./words.js";

const OVER = ["done", "failed", "cancelled"];

function actions(job, refresh) {
  const path = `/v1/jobs/${job.id}`;
  const act = (text, method, address, said) => {
    const button = make("button", { type: "button", class: "quiet" }, text);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await ask(address, { method });
        toast(said);
        await refresh(method);
      } catch (error) {
        toast(error.message);
        button.disabled = false;
      }
    });
    return button;
  };
  if (!OVER.includes(job.state)) return [act("Cancel", "POST", `${path}/cancel`, "Cancelled. What it did is kept; resume goes on from there.")];
  return [
    job.state !== "done" && act("Resume", "POST", `${path}/resume`, "It goes on where it stopped."),
    removal(act("Yes, delete it", "DELETE", path, `Deleted ${job.name}.`)),
  ];
}

/** Deleting asks once more, in place. */
function removal(sure) {
  const place = make("span", { class: "row" });
  const first = make("button", { type: "button", class: "quiet danger" }, "Delete…");
  const keep = make("button", { type: "button", class: "quiet" }, "Keep it");
  first.addEventListener("click", () => {
    fill(place, make("span", {}, "With its imagery and results?"), sure, keep);
    sure.focus();
  });
  keep.addEventListener("click", () => {
    fill(place, first);
    first.focus();
  });
  sure.classList.add("danger");
  return fill(place, first);
}

const asked = (run) => [
  [run.uploaded ? "Files sent" : "Scenes read", run.sources.join(", ")],
  ...Object.entries(run.options).filter(([, value]) => value !== null && value !== false && value !== "")
    .map(([key, value]) => [{ smooth: "Smoothing", gsd_m: "Pixel (m)", crs: "CRS", min_valid: "Least data" }[key] || key[0].toUpperCase() + key.slice(1), String(value)]),
];

const facts = (job, run) => terms([
  ["Model", make("a", { href: "#/models" }, job.model)],
  ...asked(run),
  ["Accepted", when(job.created)],
  ["Begun", when(job.started)],
  ["Ended", when(job.finished)],
  ["Tries", job.attempts > 1 ? count(job.attempts) : ""],
  ["Id", make("code", {}, job.id)],
]);

/** The file's name of a path: where the service keeps it says nothing to a reader. */
const file = (path) => String(path || "").split(/[/\\]/).at(-1);

function provenance({ info, summary, timings, geoclass }) {
  return terms([
    ["Tiles", `${tiles(summary.tiles)} of ${summary.tile_side_m} m, ${area(summary.area_ha)} ha`],
    ["Left out", summary.below_min_valid ? `${tiles(summary.below_min_valid)} with too little data` : ""],
    ["Mean confidence", summary.mean_confidence === null ? "" : percent(summary.mean_confidence)],
    ["Imagery", (info.inputs || []).map((each) => file(typeof each === "string" ? each : each.path || each.name)).join(", ")],
    ["Read as", info.sensor],
    ["Model file", file(info.model)],
    ["Model hash", info.bundle && make("code", {}, info.bundle)],
    ["Network", info.backbone],
    ["Ran on", info.runtime],
    ["Grid", info.grid && make("code", {}, info.grid)],
    ["Note", info.note],
    ["Took", timings.seconds_total ? span(timings.seconds_total) : ""],
    ["geoclass", geoclass],
  ]);
}

function log(lines) {
  return lines.map(({ at, line }) => make("li", {}, make("time", { datetime: at }, time(at)), make("span", {}, line)));
}

export async function jobPage(place, signal, id) {
  const [job, run] = await Promise.all([ask(`/v1/jobs/${id}`, { signal }), ask(`/v1/jobs/${id}/run`, { signal })]);
  const progress = bar(job.name);
  const parts = Object.fromEntries(["state", "problem", "actions", "open", "facts", "made", "files"].map((name) => [name, make("div", { class: `part-${name}` })]));
  const lines = make("ol", {});
  const said = make("div", { class: "log", tabindex: "0", role: "log", "aria-label": "Log" }, lines);
  const lost = make("p", { class: "problem", role: "alert" });
  const state = { shown: "", over: "" };
  fill(place,
    make("p", {}, make("a", { href: "#/" }, "← Scenes")),
    make("div", { class: "row title" }, make("h1", {}, job.name), parts.state),
    lost, parts.problem, progress.element,
    make("div", { class: "row actions" }, parts.open, parts.actions),
    make("div", { class: "columns" },
      make("div", { class: "stack" },
        make("section", { class: "card", "aria-label": "Run" }, make("h2", {}, "Run"), parts.facts),
        parts.made),
      make("div", { class: "stack" }, parts.files,
        make("section", { class: "card", "aria-label": "What it said" }, make("h2", {}, "Log"), said))));

  async function finished(found) {
    if (found.state !== "done" || state.over === "done") return;
    const summary = await ask(found.results.summary, { signal });
    fill(parts.made, make("section", { class: "card", "aria-label": "How it was made" }, make("h2", {}, "How the map was made"), provenance(summary)));
    fill(parts.files, make("section", { class: "card", "aria-label": "Downloads" }, make("h2", {}, "Downloads"), downloads(found)));
    fill(parts.open, make("a", { class: "button primary", href: `#/map/${found.id}` }, "Open the map"));
  }

  function show(found) {
    fill(parts.state, badge(found.state));
    fill(parts.problem, found.error && make("p", { class: "problem", role: "alert" }, `${found.error}; ${found.remedy}`));
    progress.update(found);
    if (state.over !== found.state) fill(parts.actions, make("div", { class: "row" }, actions(found, again)));
    fill(parts.facts, facts(found, run));
    const atEnd = said.scrollTop + said.clientHeight >= said.scrollHeight - 8;
    if (lines.childElementCount !== found.log.length) fill(lines, log(found.log));
    if (atEnd) said.scrollTop = said.scrollHeight;
  }

  async function refresh() {
    const found = await ask(`/v1/jobs/${id}`, { signal });
    show(found);
    await finished(found);
    state.over = found.state;
    return !OVER.includes(found.state);
  }

  async function again(method) {
    if (method === "DELETE") location.hash = "#/";
    else follow();
  }

  const follow = () => poll(refresh, 1, signal, (error) => fill(lost, error?.message));
  show(job);
  follow();
}
