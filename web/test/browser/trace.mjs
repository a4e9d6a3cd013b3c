// How long the page's own thread was busy, by Chromium's trace. Other programs share the machine, so what counts is the
// time that the thread had, and not the time that passed.

/** Runs `work` and answers how long each callback of the page took meanwhile, in milliseconds: `frames` and all `calls`. */
export async function traced(browser, page, work) {
  await browser.startTracing(page, { categories: ["devtools.timeline"] });
  let result;
  let trace;
  try {
    result = await work();
  } finally {
    trace = await browser.stopTracing();
  }
  const { traceEvents } = JSON.parse(trace.toString());
  const times = (...names) => traceEvents.filter(({ name, tdur }) => names.includes(name) && tdur !== undefined).map(({ tdur }) => tdur / 1_000);
  return { result, frames: times("FireAnimationFrame"), calls: times("FireAnimationFrame", "FunctionCall", "TimerFire", "RunMicrotasks") };
}
