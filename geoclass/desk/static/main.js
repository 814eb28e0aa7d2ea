/* The labelling desk: its acts, each with a key and a button. */
import { answer, choose, keepNote, kept, lost, next, onToken, refused, undo } from "./answering.js";
import * as dialogs from "./dialogs.js";
import { $, say } from "./dom.js";
import { onFocus } from "./gallery.js";
import { listen } from "./keys.js";
import { drawClasses, drawKept, drawScores } from "./panels.js";
import { act, blob, flush, get, onAnswers, post, query, Refused, setToken, takeToken, takeUp, unsent } from "./server.js";
import { PAGE, state } from "./state.js";
import { focus, load, look, move, select, toggle } from "./view.js";

const LOOK_MS = 1200;

// ---- the head

async function retrain() {
  if (state.training || state.status.stage !== "ready") return say("The head is not ready to be trained yet.");
  state.training = true;
  $("retrain").disabled = true;
  say("Retraining …");
  try {
    await flush();
    const words = drawScores(await post("/retrain", { act: act(), who: state.who }));
    await Promise.all([look(), load()]);
    say(words);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message);
    if (error.status === 401) opened.gate();
  } finally {
    state.training = false;
    $("retrain").disabled = false;
  }
}

/** Until the features are there the page looks now and then. */
async function watch() {
  while (state.status.stage === "features") {
    await new Promise((done) => setTimeout(done, LOOK_MS));
    await look().catch(lost);
    if (state.status.stage === "ready" && !state.tiles.some((tile) => tile.kind)) await load().catch(lost);
  }
}

// ---- exports

async function download(path, name) {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await blob(path));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    $("exported").textContent = `${name} is saved.`;
  } catch (error) {
    $("exported").textContent = error.message;
  }
}

async function writeDataset() {
  try {
    const { told, next: command } = await post("/dataset", { kind: "dataset" });
    $("exported").textContent = `${told}. Next: ${command}`;
  } catch (error) {
    $("exported").textContent = error.message;
  }
}

// ---- set-up

const ORDERS = ["uncertain", "disagreement", "design"];
function reorder(order = ORDERS[(ORDERS.indexOf(state.order) + 1) % ORDERS.length]) {
  state.order = order;
  $("order").value = order;
  say($("order").selectedOptions[0].textContent);
  return load().catch(lost);
}

function named(who) {
  state.who = who.trim() || state.status?.who || "anonymous";
  try {
    localStorage.setItem("geoclass-desk-who", state.who);
  } catch {
    // asked again next time
  }
  return Promise.all([look(), load()]).catch(lost);
}

function connect() {
  const acts = {
    choose, move, undo, retrain, toggle, mixed: () => answer("mixed"), skip: () => answer("skip"), note: dialogs.note, find: dialogs.find,
    keys: opened.keys, order: () => reorder(), all: () => select(state.tiles), none: () => select([]), next,
    page: (step) => load(Math.max(0, state.offset + step * PAGE)).catch(lost),
  };
  listen($("gallery"), acts);
  onFocus(focus);
  onAnswers({ kept, refused, lost, changed: drawKept });
  for (const name of ["mixed", "skip", "undo", "retrain"]) $(name).addEventListener("click", acts[name]);
  $("note-open").addEventListener("click", acts.note);
  $("more").addEventListener("click", () => acts.page(1));
  $("order").addEventListener("change", () => reorder($("order").value));
  $("who").addEventListener("change", () => named($("who").value));
  $("second").addEventListener("change", () => {
    state.second = $("second").checked;
    load().catch(lost);
  });
  $("select-mode").addEventListener("click", () => {
    state.picking = !state.picking;
    $("select-mode").setAttribute("aria-pressed", String(state.picking));
  });
  $("export-csv").addEventListener("click", () => download("/labels.csv", "labels.csv"));
  $("export-gpkg").addEventListener("click", () => download("/labels.gpkg", "labels.gpkg"));
  $("export-answers").addEventListener("click", () => download("/answers.csv", "answers.csv"));
  $("export-dataset").addEventListener("click", writeDataset);
  addEventListener("beforeunload", (event) => {
    if (unsent()) event.preventDefault();
  });
}

const remembered = () => {
  try {
    return localStorage.getItem("geoclass-desk-who");
  } catch {
    return null;
  }
};

async function start() {
  state.status = await get(query({ who: "-" }));
  state.order = state.status.order;
  $("order").value = state.order;
  $("who").value = remembered() || state.status.who;
  drawClasses(choose);
  takeUp(state.status.store);
  await named($("who").value);
  await flush();
  $("gallery").focus();
  await watch();
}

const opened = dialogs.setUp({
  choose, keepNote, back: () => $("gallery").focus(),
  useToken: (given) => {
    setToken(given);
    (state.status ? flush() : start()).catch(lost);
  },
});
onToken(opened.gate);
takeToken();
connect();
start().catch(lost);
