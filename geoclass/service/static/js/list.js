/* The list of jobs, kept up to date. */

import { ask } from "./api.js";
import { fill, make } from "./dom.js";
import { poll } from "./poll.js";
import { badge, bar } from "./progress.js";
import { when } from "./words.js";

const PAGE = 25;

function row(job) {
  const progress = bar(job.name);
  progress.update(job);
  const done = job.state === "done";
  return make("li", { class: "job", "data-job": job.id },
    make("div", { class: "job-name" },
      make("a", { href: done ? `#/map/${job.id}` : `#/jobs/${job.id}` }, job.name), badge(job.state)),
    make("p", { class: "muted" }, `${when(job.created)} · model ${job.model}`),
    job.error && make("p", { class: "problem" }, job.error),
    progress.element,
    make("p", { class: "links" },
      done && make("a", { href: `#/map/${job.id}`, "aria-label": `Map of ${job.name}` }, "Map"),
      make("a", { href: `#/jobs/${job.id}`, "aria-label": `Run of ${job.name}` }, "Run and downloads")));
}

/** The list as an element, which asks every two seconds. */
export function jobList(signal) {
  const list = make("ul", { class: "jobs" });
  const problem = make("p", { class: "problem", role: "alert" });
  const more = make("button", { type: "button", class: "quiet", hidden: true }, "Show more");
  const state = { many: PAGE, shown: "" };
  more.addEventListener("click", () => {
    state.many += PAGE;
    refresh();
  });

  async function refresh() {
    const { jobs } = await ask(`/v1/jobs?limit=${Math.min(500, state.many + 1)}`, { signal });
    more.hidden = jobs.length <= state.many;
    const text = JSON.stringify(jobs);
    if (text !== state.shown) {
      state.shown = text;
      const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      fill(list, jobs.slice(0, state.many).map(row));
      if (!jobs.length) fill(list, make("li", { class: "muted" }, "None yet. Send a scene, and its map appears here."));
      if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    }
  }

  poll(refresh, 2, signal, (error) => fill(problem, error?.message));
  return make("div", {}, problem, list, more);
}
