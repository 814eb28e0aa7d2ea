/* The first page: start a map, and the list of those there are. */

import { ask, send } from "./api.js";
import { chooser } from "./files.js";
import { field, fill, make } from "./dom.js";
import { jobList } from "./list.js";
import { percent, size } from "./words.js";

const SMOOTHING = [["", "None"], ["plurality", "Plurality of 3 × 3 tiles"], ["potts", "Potts, weighs probabilities"]];
const option = ([value, text]) => make("option", { value }, text);

/** What the form says, as the service takes it; nothing for what is left empty. */
function options(form) {
  const data = new FormData(form);
  const given = ["model", "name", "date", "smooth"].map((key) => [key, String(data.get(key) || "").trim()]);
  return Object.fromEntries([...given, ["force", data.get("force") ? "true" : ""]].filter(([, value]) => value));
}

function modelField(models) {
  const select = make("select", { name: "model" }, models.map((each) => option([each.name, each.name])));
  const note = make("small", {});
  const tell = () => {
    const model = models.find((each) => each.name === select.value);
    const accuracy = model.accuracy === null ? "" : `, ${percent(model.accuracy)} right in its test`;
    note.textContent = `${model.scheme}, for ${model.sensor} imagery${accuracy}`;
  };
  select.addEventListener("change", tell);
  tell();
  const whole = field("Model", select);
  whole.append(note);
  return whole;
}

/** Send a form's files, with a bar and a button to stop. Resolves with the job. */
async function upload(place, files, chosen) {
  const form = new FormData();
  for (const [name, value] of Object.entries(chosen)) form.append(name, value);
  for (const file of files) form.append("file", file);
  const meter = make("progress", { max: "1", value: "0", "aria-label": "Sending" });
  const text = make("span", { class: "muted" });
  const { answer, stop } = send("/v1/classify", form, (sent, total) => {
    meter.value = sent / total;
    text.textContent = sent < total ? `${size(sent)} of ${size(total)} sent` : "Sent; the service looks at it";
  });
  fill(place, meter, make("div", { class: "row" }, text, make("button", { type: "button", class: "quiet", onclick: stop }, "Stop sending")));
  try {
    return await answer;
  } finally {
    fill(place);
  }
}

function byName(text, chosen) {
  const sources = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return ask("/v1/classify", { method: "POST", json: { sources, ...chosen, force: Boolean(chosen.force) } });
}

function startForm(models) {
  const files = chooser((chosen) => (submit.textContent = chosen.length > 1 ? "Map the mosaic" : "Make the map"));
  const named = make("textarea", { rows: "2", spellcheck: "false", autocomplete: "off", placeholder: "naip/2022/county.tif" });
  const name = make("input", { name: "name", maxlength: "64", pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]{0,63}", title: "Letters, digits, - and _", autocomplete: "off" });
  const date = make("input", { name: "date", pattern: "[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?", title: "2022, 2022-07 or 2022-07-14", placeholder: "2022-07-14", autocomplete: "off", inputmode: "numeric" });
  const smooth = make("select", { name: "smooth" }, SMOOTHING.map(option));
  const submit = make("button", { type: "submit", class: "primary" }, "Make the map");
  const problem = make("p", { class: "problem", role: "alert" });
  const sending = make("div", { class: "progress" });
  const form = make("form", { class: "card start", "aria-label": "New map" },
    make("h2", {}, "New map"),
    files.element,
    make("details", {},
      make("summary", {}, "Or name a scene that the service can read"),
      field("Paths or URLs, one a line", named, "Under a folder of --allow-root, or beginning with an address of --allow-url.")),
    modelField(models),
    make("div", { class: "two" }, field("Name", name, "Empty: the file's."), field("Date of the imagery", date, "Year, month or day.")),
    field("Smoothing", smooth),
    make("label", { class: "check" }, make("input", { type: "checkbox", name: "force", value: "true" }), "Classify even if the check finds the scene unfit"),
    problem, sending, submit);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    fill(problem);
    const text = named.value.trim();
    if (files.files().length > 0 === Boolean(text)) return fill(problem, text ? "Either send files or name a scene, not both." : "Choose a scene first.");
    submit.disabled = true;
    try {
      const job = text ? await byName(text, options(form)) : await upload(sending, files.files(), options(form));
      location.hash = `#/jobs/${job.id}`;
    } catch (error) {
      fill(problem, error.name === "AbortError" ? "Stopped; nothing was started." : error.message);
    } finally {
      submit.disabled = false;
    }
  });
  return form;
}

export async function scenesPage(place, signal) {
  fill(place, make("h1", {}, "Scenes"), make("p", { class: "lead" }, "Send imagery, follow its classification, and look at the map."));
  const { models } = await ask("/v1/models", { signal });
  place.append(make("div", { class: "columns" }, startForm(models),
    make("section", { class: "card", "aria-label": "Maps and jobs" }, make("h2", {}, "Maps and jobs"), jobList(signal))));
}
