/* How far a job is, as a bar and in words. */

import { fill, make } from "./dom.js";
import { count, span, STATES } from "./words.js";

export const badge = (state) => make("span", { class: `state state-${state}` }, STATES[state]);

/** "1,280 of 67,200 tiles, about 25 min left" */
export function words(job) {
  if (job.state === "queued") return "It waits for its turn.";
  if (job.state !== "running") return "";
  const done = job.total ? `${count(job.done)} of ${count(job.total)} tiles` : "";
  const left = job.eta_s === null ? "" : `${job.eta_s < 10 ? "" : "about "}${span(job.eta_s)} left`;
  return [job.stage, done, left].filter(Boolean).join(", ");
}

/** A bar that `update(job)` moves. */
export function bar(name) {
  const meter = make("progress", { max: "1", value: "0", "aria-label": `Progress of ${name}` });
  const text = make("p", { class: "muted" });
  const element = make("div", { class: "progress" }, meter, text);
  const update = (job) => {
    element.hidden = !["queued", "running"].includes(job.state);
    if (job.state === "running" && !job.total) meter.removeAttribute("value"); // no telling yet
    else meter.value = job.progress;
    fill(text, words(job));
  };
  return { element, update };
}
