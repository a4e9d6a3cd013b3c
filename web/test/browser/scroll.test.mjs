// A long channel of a real server, read from end to end; and messages that were never delivered.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fixture, makeUser, say, until } from "./harness.mjs";
import { traced } from "./trace.mjs";
import { commandsOf, proxy, readAll } from "./watch.mjs";

const ROWS_MAX = 200;
const SCRIPT_MS_MAX = 50;
const MESSAGES = 10_000;
const WHEEL_PX = 2_800;

const it = fixture();
const shown = (page, text) => page.getByRole("log").getByText(text, { exact: true }).waitFor();
const marked = (page, text) => page.locator(".row.marked").getByText(text, { exact: true }).waitFor();
const twoFrames = (page) => page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
const inView = (page, text) =>
  page.evaluate((text) => {
    const view = document.querySelector(".timeline-scroll").getBoundingClientRect();
    const row = [...document.querySelectorAll(".row")].find((row) => (row.querySelector(".body") ?? row).textContent === text);
    const { top, bottom } = row?.getBoundingClientRect() ?? { top: -1, bottom: 0 };
    return top >= view.top && bottom <= view.bottom;
  }, text);

/** Somebody who has read `read` of so many messages, and looks at the channel. */
async function openLong(name, channel, read, options = {}) {
  const user = await makeUser(it.url, name);
  await user.createChannel(channel);
  await it.server.fill(channel, 1, MESSAGES);
  const { channels } = await user.ask("GET", "/v1/me/channels");
  const { head } = channels.find((one) => one.name === channel);
  await user.ask("PUT", `/v1/channels/${channel}/read`, { epoch: head.epoch, sequence: read });
  const page = await it.openAs(user, `#${channel}`, { timezoneId: "UTC", ...options });
  await page.locator(".row.message").first().waitFor();
  return { user, page };
}

test("10,000 messages are scrolled through to the first: each is seen, in order, and no frame is long", async (t) => {
  const { page } = await openLong("roz", "archive", MESSAGES, { viewport: { width: 1280, height: 2_400 } });
  await shown(page, `number ${MESSAGES}`);
  await page.evaluate(() => {
    const seen = { sequences: new Set(), wrong: [], rows: 0 };
    window.seen = seen;
    const look = () => {
      const rows = document.querySelectorAll(".timeline-rows > .row");
      seen.rows = Math.max(seen.rows, rows.length);
      let before = 0;
      for (const row of rows) {
        const href = row.querySelector("a.time")?.getAttribute("href");
        if (href == null) continue;
        const sequence = Number(href.slice(href.indexOf("/") + 1));
        if (before !== 0 && sequence !== before + 1) seen.wrong.push(`${sequence} after ${before}`);
        if (row.querySelector(".body").textContent !== `number ${sequence}`) seen.wrong.push(`${sequence}: ${row.textContent}`);
        seen.sequences.add(sequence);
        before = sequence;
      }
    };
    new MutationObserver(look).observe(document.querySelector(".timeline-rows"), { childList: true });
    look();
  });

  const { result: steps, pieces, worst } = await traced(it.browser, page, async () => {
    await page.getByRole("log").getByText(`number ${MESSAGES}`, { exact: true }).click();
    const top = () => page.evaluate(() => document.querySelector(".timeline-scroll").scrollTop);
    for (let pages = 0; pages < 3; pages++) {
      const before = await top();
      await page.keyboard.press("PageUp");
      await until("PageUp scrolls", async () => (await top()) !== before);
    }
    await page.mouse.move(700, 300);
    let steps = 0;
    for (let isDone = false; !isDone; steps++) {
      assert.ok(steps < 1_000, "the beginning was not reached");
      await page.mouse.wheel(0, -WHEEL_PX);
      isDone = await page.evaluate(async () => {
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
        return document.querySelector(".row.top.beginning") !== null && document.querySelector(".timeline-scroll").scrollTop === 0;
      });
    }
    return steps;
  });
  const { count, missing, wrong, rows } = await page.evaluate((all) => {
    const { sequences, wrong, rows } = window.seen;
    const missing = [];
    for (let n = 1; n <= all; n++) if (!sequences.has(n)) missing.push(n);
    return { count: sequences.size, missing: missing.slice(0, 20), wrong: wrong.slice(0, 20), rows };
  }, MESSAGES);
  assert.deepEqual({ wrong, missing, count }, { wrong: [], missing: [], count: MESSAGES });
  assert.ok(rows < ROWS_MAX, `${rows} rows were elements`);
  t.diagnostic(`${steps} turns of the wheel, ${pieces.length} pieces of script, the longest of ${worst.toFixed(1)} ms, at most ${rows} rows`);
  assert.ok(pieces.length > steps, "the frames were traced");
  assert.ok(worst <= SCRIPT_MS_MAX, `the page was busy for ${worst} ms at once`);

  await page.locator(".timeline-pill").click();
  await shown(page, `number ${MESSAGES}`);
  assert.ok(await inView(page, `number ${MESSAGES}`));
  await page.locator(".timeline-pill").waitFor({ state: "hidden" });
});

test("a day, a link and the first unread message are found in 10,000, and the way back too", async () => {
  const { user, page } = await openLong("pip", "annals", 9_900);
  // Reading goes on at the first that is unread, and the pill counts what is below.
  await page.getByRole("separator", { name: "New since you left" }).waitFor();
  await until("the first unread message is in view", () => inView(page, "number 9901"));
  assert.ok(await inView(page, "New since you left"));
  assert.match(await page.locator(".timeline-pill").innerText(), /^[5-9]\d new$/);
  const unread = async () => (await user.ask("GET", "/v1/me/channels")).channels.find(({ name }) => name === "annals").unread_count;
  await until("the marker stands at what was in view", async () => (await unread()) < 100);
  assert.ok((await unread()) > 50, "what nobody saw is not read");

  await page.locator(".timeline-day button").click();
  await page.getByLabel("Day", { exact: true }).fill("2025-01-04");
  await page.getByRole("button", { name: "Go", exact: true }).click();
  await marked(page, "number 4320");
  await until("the first of that day is in view", () => inView(page, "number 4320"));

  await page.evaluate(() => (location.hash = "#annals/1234"));
  await marked(page, "number 1234");
  await until("the message of the link is in view", () => inView(page, "number 1234"));
  // What lies beside it loads as one scrolls there, without a hole.
  await page.mouse.move(700, 300);
  await until("its neighbours load", async () => {
    await page.mouse.wheel(0, 400);
    await twoFrames(page);
    return inView(page, "number 1400");
  });

  await page.locator(".timeline-pill").click();
  await until("the newest is in view", () => inView(page, `number ${MESSAGES}`));
  await until("all is read", async () => (await unread()) === 0);

  // The same link from outside.
  await page.goto("about:blank");
  await page.goto(`${it.url}/#annals/77`);
  await marked(page, "number 77");
  await until("the message of the link is in view", () => inView(page, "number 77"));
});

test("what was imported while somebody looks is offered, and loads in its place", async () => {
  const [uma, kit] = [await makeUser(it.url, "uma"), await makeUser(it.url, "kit")];
  await uma.createChannel("move");
  await kit.join("move");
  await uma.post("move", "we are moving");
  const page = await it.openAs(uma, "#move");
  await shown(page, "we are moving");
  await it.server.fill("move", 1, 5_000);
  await kit.post("move", "all boxes are here");
  await shown(page, "all boxes are here");
  const gap = page.locator(".row.gap");
  await gap.getByText("5,000 messages were not loaded").waitFor();
  await gap.getByRole("button", { name: "Load the first 200" }).click();
  await gap.getByText("4,800 messages were not loaded").waitFor();
  await page.mouse.move(700, 300);
  await gap.getByRole("button", { name: "the last 200" }).click();
  await shown(page, "number 5000");
  const order = await page.evaluate(() => [...document.querySelectorAll(".row .body")].slice(-3).map((it) => it.textContent));
  assert.deepEqual(order, ["number 4999", "number 5000", "all boxes are here"]);
  await until("the rest of the gap is offered above", async () => {
    await page.mouse.wheel(0, -500);
    await twoFrames(page);
    return gap.getByText("4,600 messages were not loaded").isVisible();
  });
  await say(page, "thank you");
  await page.locator(".row.message").getByText("thank you").waitFor();
  assert.equal(await page.locator(".row.outgoing").count(), 0);
});

test("on a slow network the page shows what it waits for, and asks for nothing twice", async (t) => {
  const [lou, max] = [await makeUser(it.url, "lou"), await makeUser(it.url, "max")];
  await lou.createChannel("dial-up");
  await max.join("dial-up");
  await it.server.fill("dial-up", 1, 400);
  // The browser's own throttling leaves WebSockets alone.
  const way = await proxy(it.url, { latencyMs: 400, bytesPerSecond: 50 * 1024 });
  t.after(way.close);
  let commands;
  const page = await it.openAs(lou, "#dial-up", { url: way.url, prepare: (page) => (commands = commandsOf(page)) });
  await shown(page, "number 400");

  await page.evaluate(() => {
    window.states = [];
    new MutationObserver(() => {
      const row = [...document.querySelectorAll(".row.outgoing, .row.message")].at(-1);
      if (!row.textContent.includes("slowly")) return;
      const state = row.matches(".pending") ? "pending" : row.matches(".outgoing") ? "sent" : "delivered";
      if (window.states.at(-1)?.state !== state) window.states.push({ state, at: performance.now() });
    }).observe(document.querySelector(".timeline-rows"), { childList: true, subtree: true, attributes: true });
  });
  await say(page, "slowly");
  await page.locator(".row.message").getByText("slowly").waitFor();
  const seen = await page.evaluate(() => window.states);
  assert.deepEqual([seen[0].state, seen.at(-1).state], ["pending", "delivered"]);
  assert.ok(seen.at(-1).at - seen[0].at > 300, "it was pending for as long as the way takes");

  await page.evaluate(() => (document.querySelector(".timeline-scroll").scrollTop = 0));
  await page.getByText("Loading earlier messages").waitFor();
  const { messages, wrong } = await readAll(page);
  assert.deepEqual(wrong, []);
  assert.equal(messages.length, 401);

  // The beginning of each stands for itself; the marker and who is writing are said again and again.
  const asked = commands.sent.filter(({ name }) => !["markRead", "sendTyping"].includes(name) && name !== "");
  const twice = asked.filter(({ name, bytes }, i) => asked.findIndex((other) => other.name === name && other.bytes === bytes) !== i);
  assert.deepEqual(twice.map(({ name, bytes }) => `${name} ${bytes}`), []);
  assert.equal(commands.of("publish").length, 1);
  assert.equal(commands.connections, 1);
});
