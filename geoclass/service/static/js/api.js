/* Speaks to the service. The token is in sessionStorage and in headers, never in a cookie or an address. */

const KEY = "geoclass-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What the service refused, with its remedy. `status` is 0 where it did not answer. */
export class Refused extends Error {
  constructor(status, what, remedy = "") {
    super(remedy ? `${what}; ${remedy}` : what);
    Object.assign(this, { status, what, remedy });
  }
}

/** Called with each answer of 401. */
export const onUnknown = { call: () => {} };

export const headers = () => (token.get() ? { authorization: `Bearer ${token.get()}` } : {});

export function refusal(status, text) {
  try {
    const { error, remedy } = JSON.parse(text);
    return new Refused(status, error, remedy);
  } catch {
    return new Refused(status, `the service answered ${status}`);
  }
}

/** What `read` takes out of the answer to a request. Throws Refused, also where the answer breaks off. */
async function request(read, path, { method = "GET", json, signal } = {}) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  const more = json === undefined ? {} : { "content-type": "application/json" };
  let answer;
  let told;
  try {
    answer = await fetch(path, { method, body, signal, headers: { ...headers(), ...more }, credentials: "omit" });
    told = await (answer.ok ? read(answer) : answer.text());
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the service does not answer", "check that geoclass serve still runs");
  }
  if (answer.ok) return told;
  if (answer.status === 401) onUnknown.call();
  throw refusal(answer.status, told);
}

/** The JSON of an answer; null where it has none. */
export const ask = (path, options) => request((answer) => (answer.status === 204 ? null : answer.json()), path, options);

/** Whether a token is the service's. Throws Refused for everything but yes and no. */
export async function isRight(value) {
  const answer = await fetch("/v1/token", { method: "POST", headers: { authorization: `Bearer ${value}` }, credentials: "omit" }).catch(() => null);
  if (!answer) throw new Refused(0, "the service does not answer", "check that geoclass serve still runs");
  if (answer.status === 401) return false;
  if (answer.ok) return true;
  throw refusal(answer.status, await answer.text());
}

/** Fetch a result with the token, then hand it to the browser to save. Resolves with its size in bytes. */
export async function save(path, fallback) {
  const [blob, disposition] = await request(async (answer) => [await answer.blob(), answer.headers.get("content-disposition")], path);
  const name = /filename="?([^";]+)"?/.exec(disposition || "")?.[1] || fallback;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return blob.size;
}

/** Send a form with files. `progress(sent, total)` is called on the way; returns { answer, stop }. */
export function send(path, form, progress) {
  const http = new XMLHttpRequest(); // fetch does not tell how much is sent
  const answer = new Promise((resolve, reject) => {
    http.upload.addEventListener("progress", (event) => progress(event.loaded, event.total));
    http.addEventListener("load", () => {
      if (http.status < 300) return resolve(JSON.parse(http.responseText));
      if (http.status === 401) onUnknown.call();
      reject(refusal(http.status, http.responseText));
    });
    http.addEventListener("error", () => reject(new Refused(0, "sending broke off", "check the line and the service, then send again")));
    http.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
  });
  http.open("POST", path);
  for (const [name, value] of Object.entries(headers())) http.setRequestHeader(name, value);
  http.send(form);
  return { answer, stop: () => http.abort() };
}
