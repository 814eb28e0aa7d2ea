/* The access token: from the address's fragment, or typed. */

import { isRight, onUnknown, token } from "./api.js";

const $ = (id) => document.getElementById(id);
const WRONG = "This is not the token of this service. It prints a fresh one at each start, unless it is given one.";

/** Take a token out of the address. Resolves once it is known whether it is right. */
export async function takeFromAddress() {
  const given = /(?:^#|&)token=([^&]+)/.exec(location.hash)?.[1];
  if (!given) return show();
  history.replaceState(null, "", location.pathname); // neither history nor a bookmark shall keep it
  await use(decodeURIComponent(given));
}

async function use(value) {
  try {
    if (await isRight(value)) {
      token.set(value);
      show();
      return true;
    }
    token.forget();
    open(WRONG);
  } catch (error) {
    open(error.message);
  }
  show();
  return false;
}

function show() {
  $("access").textContent = token.get() ? "Forget token" : "Enter token";
}

function open(problem = "") {
  $("token-problem").textContent = problem;
  if (!$("token-dialog").open) $("token-dialog").showModal();
  $("token").focus();
}

/** Wire the dialog. `changed` is called when there is another token. */
export function start(changed) {
  $("access").addEventListener("click", () => {
    if (!token.get()) return open();
    token.forget();
    show();
    changed();
  });
  $("token-later").addEventListener("click", () => $("token-dialog").close());
  $("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const value = $("token").value.trim();
    if (!value) return open("Type or paste the token first.");
    if (!(await use(value))) return;
    $("token").value = "";
    $("token-dialog").close();
    changed();
  });
  onUnknown.call = () => {
    const had = token.get();
    token.forget();
    show();
    open(had ? WRONG : "This needs the access token.");
  };
}
