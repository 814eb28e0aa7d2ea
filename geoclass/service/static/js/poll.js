/* Ask again and again, while somebody looks. */

/** Call `step` now and `seconds` after each answer, until it returns false or the signal aborts. A failure is passed to
    `failed`, and asking goes on slower. */
export async function poll(step, seconds, signal, failed) {
  while (!signal.aborted) {
    let wait = seconds;
    try {
      if ((await step()) === false) return;
      failed(null);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      failed(error);
      if (error.status === 401 || error.status === 404) return;
      wait = 5 * seconds;
    }
    await new Promise((done) => {
      const timer = setTimeout(done, 1000 * wait);
      signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
    });
  }
}
