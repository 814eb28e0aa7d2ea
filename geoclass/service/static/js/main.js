/* The pages and how the address chooses one: #/, #/models, #/jobs/ID, #/map/ID, #/map/ID/ID. */

import { start, takeFromAddress } from "./access.js";
import { fill, make } from "./dom.js";
import { jobPage } from "./job.js";
import { mapPage } from "./map.js";
import { modelsPage } from "./models.js";
import { scenesPage } from "./scenes.js";

const ID = "([0-9a-f]{16})";
const PAGES = [
  [/^#?\/?$/, "scenes", scenesPage],
  [/^#\/models$/, "models", modelsPage],
  [new RegExp(`^#/jobs/${ID}$`), "scenes", jobPage],
  [new RegExp(`^#/map/${ID}(?:/${ID})?$`), "scenes", mapPage],
];
const main = document.getElementById("main");
let current = null;

async function show() {
  current?.abort();
  const own = (current = new AbortController());
  const [pattern, name, page] = PAGES.find(([each]) => each.test(location.hash)) || [];
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const place = make("div", { class: `page page-${page ? page.name : "lost"}` });
  fill(main, place);
  try {
    if (!page) fill(place, make("h1", {}, "There is no such page"), make("p", {}, make("a", { href: "#/" }, "To the scenes")));
    else await page(place, own.signal, ...pattern.exec(location.hash).slice(1));
  } catch (error) {
    if (own.signal.aborted || error.name === "AbortError") return;
    place.prepend(make("p", { class: "problem", role: "alert" }, error.message));
  }
  if (own.signal.aborted) return;
  const heading = place.querySelector("h1");
  document.title = heading ? `${heading.textContent} · geoclass` : "geoclass";
}

/** After a click on a link the next Tab starts in the new page. */
function moved() {
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  show();
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
start(show);
await takeFromAddress();
window.addEventListener("hashchange", moved);
show();
