/* What stands around the tiles: progress, the head, labels, agreement. */
import { $, element, number, percent, plural, swatch } from "./dom.js";
import { unsent } from "./server.js";
import { keyOf, state } from "./state.js";

export function drawClasses(choose) {
  $("classes").parentElement.classList.toggle("many", state.status.classes.length > 10);
  $("classes").replaceChildren(...state.status.classes.map((one, k) => classButton(one, k, choose)));
}

export function classButton(one, k, choose) {
  const made = element("button", "class");
  made.type = "button";
  if (keyOf(k)) made.append(element("kbd", "", keyOf(k)));
  made.append(swatch(one.colour), element("span", "", one.name));
  made.addEventListener("click", () => choose(k));
  return made;
}

export function drawStatus() {
  const { status } = state;
  $("title").textContent = status.name;
  document.title = `${status.name} · labelling desk`;
  const share = status.asked ? status.mine / status.asked : 0;
  $("bar").style.width = `${100 * share}%`;
  $("progress").setAttribute("aria-valuemax", status.asked);
  $("progress").setAttribute("aria-valuenow", status.mine);
  $("count").textContent = `${number(status.mine)} of ${number(status.asked)} labelled by you`;
  drawKept();
  drawHead();
  drawLabels();
  drawAgreement();
  $("export-gpkg").hidden = !status.placed;
  const said = [];
  if (status.gone) said.push(`${plural(status.gone, "answered tile no longer exists", "answered tiles no longer exist")}: the answers are kept, and left out of exports.`);
  if (status.missing) said.push(`${plural(status.missing, "tile of the sample is", "tiles of the sample are")} not in the data.`);
  if (status.stage === "failed") said.push(`There will be no head: ${status.problem}`);
  $("notes").dataset.standing = said.join(" ");
  if (!unsent()) {
    $("notes").textContent = said.join(" ");
    $("notes").hidden = !said.length;
  }
}

export function drawKept() {
  $("kept").textContent = unsent() ? `${plural(unsent(), "answer", "answers")} not on the disk yet` : "Every answer is on the disk";
}

function drawHead() {
  const { stage, features, total, head, judged } = state.status;
  $("retrain").disabled = stage !== "ready" || state.training;
  const words = {
    features: `Looking at the tiles: ${number(features)} of ${number(total)}. Label meanwhile.`,
    failed: "There is no head.",
    ready: head ? "" : "No head yet: label a few tiles of each class, then retrain.",
  };
  $("head-now").textContent = words[stage] || told(head);
  $("head-words").textContent = judged ? `Accuracy on ${number(judged)} held-out tiles whose labels are known.` : "No labels are known to judge it on: accuracy is in cross-validation.";
}

export const told = (head) => `${head.labels ? `The head of ${plural(head.labels, "label", "labels")}` : "The model"}: ${percent(head.accuracy ?? head.own_accuracy)} right.`;

export function drawScores({ before, after, seconds, moved }) {
  $("scores").hidden = false;
  $("before").textContent = before ? percent(before.accuracy ?? before.own_accuracy) : "no head";
  $("after").textContent = percent(after.accuracy ?? after.own_accuracy);
  return `Retrained on ${plural(after.labels, "label", "labels")} in ${seconds.toFixed(1)} s: ${$("before").textContent} → ${$("after").textContent}. ${plural(moved, "tile", "tiles")} changed place in the queue.`;
}

function drawLabels() {
  const { classes, counts, labelled, mixed, apart } = state.status;
  const most = Math.max(1, ...classes.map((one) => counts[one.name] ?? 0));
  $("shares").replaceChildren(...classes.map((one) => {
    const row = element("li");
    const bar = element("i", "bar");
    bar.style.setProperty("--share", `${(100 * (counts[one.name] ?? 0)) / most}%`);
    bar.style.setProperty("--swatch", one.colour);
    row.append(element("span", "", one.name), bar, element("b", "", number(counts[one.name] ?? 0)));
    return row;
  }));
  const more = [mixed && `${number(mixed)} mixed`, apart && `${number(apart)} on which people differ`].filter(Boolean);
  $("label-words").textContent = `${plural(labelled, "tile has", "tiles have")} a label${more.length ? `, ${more.join(", ")}` : ""}.`;
}

function drawAgreement() {
  const { agreements, people } = state.status;
  const others = Object.keys(people).length > 1;
  if (!agreements.length) {
    const words = others ? "No two people have labelled the same tile yet." : "When somebody else labels the same tiles, this says how far you agree.";
    $("agreement").replaceChildren(element("p", "quiet-text", words));
    return;
  }
  const table = element("table");
  const head = table.appendChild(element("thead")).appendChild(element("tr"));
  for (const name of ["Who", "Tiles", "Same", "Kappa"]) head.append(Object.assign(element("th", "", name), { scope: "col" }));
  const body = table.appendChild(element("tbody"));
  for (const pair of agreements) {
    const row = body.appendChild(element("tr"));
    row.append(element("td", "", `${pair.first}, ${pair.second}`), element("td", "num", number(pair.tiles)), element("td", "num", `${Math.round(100 * pair.agreed)} %`), element("td", "num", pair.kappa === null ? "–" : pair.kappa.toFixed(2)));
  }
  $("agreement").replaceChildren(table);
}
