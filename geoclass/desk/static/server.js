/* The way to the desk: the token, requests, and answers that are sent again until they are kept. */

const TOKEN = "geoclass-desk-token";
let unsentName = "geoclass-desk-unsent";

const store = {
  read(area, name) {
    try {
      return area().getItem(name);
    } catch {
      return null; // a browser that keeps nothing
    }
  },
  write(area, name, value) {
    try {
      area().setItem(name, value);
    } catch {
      // kept in memory only
    }
  },
};

let token = store.read(() => sessionStorage, TOKEN) ?? "";

/** The token comes behind the # of the address, which browsers send nowhere, and leaves it at once. */
export function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!found) return;
  setToken(found);
  history.replaceState(null, "", location.pathname);
}

export function setToken(given) {
  token = given.trim();
  store.write(() => sessionStorage, TOKEN, token);
}

/** What the desk refused: `status`, and a message with the remedy. status 0: it cannot be reached. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask the desk; `read` takes what is asked for out of its answer. One that breaks off is one that did not come. */
async function send(read, path, body) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/v1/desk${path}`, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body) });
    if (answer.ok) return await read(answer);
  } catch {
    throw new Refused(0, "The desk does not answer.");
  }
  const told = await answer.json().catch(() => ({ error: answer.statusText, remedy: "see its log" }));
  throw new Refused(answer.status, `${told.error}; ${told.remedy}`);
}

const json = (answer) => answer.json();
export const get = (path) => send(json, path);
export const post = (path, body) => send(json, path, body);
export const blob = (path) => send((answer) => answer.blob(), path);
export const query = (values) => `?${new URLSearchParams(values)}`;

/** A name for one press of a key: sent again under it, an answer is kept once. */
export const act = () => (crypto.randomUUID ? crypto.randomUUID() : [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""));

// ---- answers on their way, in the order in which they were given

const waiting = [];
const listeners = { kept: () => {}, refused: () => {}, lost: () => {}, changed: () => {} };

export function onAnswers(given) {
  Object.assign(listeners, given);
}

export const unsent = () => waiting.length;

/** Take up what an earlier page of the same desk could not send. */
export function takeUp(desk) {
  unsentName = `geoclass-desk-unsent ${desk}`;
  waiting.push(...JSON.parse(store.read(() => localStorage, unsentName) ?? "[]"));
}

function remember() {
  store.write(() => localStorage, unsentName, JSON.stringify(waiting));
  listeners.changed();
}

/** Give an answer: {who, tiles, kind, label, note}, or {who} under path /undo. It is sent until the desk has kept or refused it. */
export function give(path, body) {
  waiting.push({ path, body: { act: act(), ...body } });
  remember();
  return flush();
}

let draining = null;

/** Send what waits; resolves once it is kept, or refused, or the desk cannot be reached. */
export const flush = () => (draining ??= drain().finally(() => (draining = null)));

async function drain() {
  while (waiting.length) {
    const { path, body } = waiting[0];
    try {
      const told = await post(path, body);
      waiting.shift();
      remember();
      listeners.kept(path, body, told);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if ([0, 401, 429, 503, 507].includes(error.status)) return listeners.lost(error);
      waiting.shift(); // this one will never be taken
      remember();
      listeners.refused(path, body, error);
    }
  }
}
