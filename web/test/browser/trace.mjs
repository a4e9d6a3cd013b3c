// What the page's thread did while something went on. Other programs share the machine, so a task counts by
// the time that the thread had, and not by the time that passed.

/** The names under which Chromium runs the page's own code. */
const SCRIPT = new Set(["FireAnimationFrame", "FunctionCall", "EvaluateScript", "TimerFire"]);

/** Runs `work`, and answers with what it gave and how many milliseconds each piece of the page's script took. */
export async function traced(browser, page, work, names = SCRIPT) {
  await browser.startTracing(page, { categories: ["devtools.timeline"] });
  const result = await work();
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString());
  const pieces = traceEvents.filter(({ name, tdur }) => names.has(name) && tdur !== undefined).map(({ tdur }) => tdur / 1_000);
  return { result, pieces, worst: Math.max(0, ...pieces) };
}
