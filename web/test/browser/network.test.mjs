// The network and the server go away in every way there is, while people talk: nothing is lost, nothing is doubled,
// nothing moves under somebody's eyes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { DEADLINE_MS, fixture, makeUser, say, signIn, until } from "./harness.mjs";
import { noLuck, proxy, readAll, watchPlace, watchRows } from "./watch.mjs";

// A silent server is noticed within 2 seconds, and not within 35.
process.env.HUBBUB__LIMITS__PING_INTERVAL = "1s";
process.env.HUBBUB__LIMITS__PONG_TIMEOUT = "1s";

const it = fixture();
const banner = (page) => page.locator(".banner:not([hidden])");
const bannerGone = (page) => page.locator(".banner").waitFor({ state: "hidden" });
const shown = (page, text) => page.getByRole("log").getByText(text, { exact: true }).waitFor();
const delivered = (page, text) => page.locator(".row.message").getByText(text, { exact: true }).waitFor();
const unsent = (page) => page.locator(".row.outgoing").count();
const AWAY = /WebSocket connection|Failed to load resource/;

/** Presses "Now" as often as it is offered, until the page is connected. */
async function comeBack(page) {
  await until("the page is connected again", () =>
    page.evaluate(() => {
      const banner = document.querySelector(".banner");
      if (!banner.hidden) banner.querySelector("button:not([hidden])")?.click();
      return banner.hidden;
    }),
  );
}

test("a server that restarts while two people write loses, doubles and moves nothing", async (t) => {
  const names = ["una", "vic"];
  const users = await Promise.all(names.map((name) => makeUser(it.url, name)));
  const cat = await makeUser(it.url, "cat");
  await users[0].createChannel("relay");
  await users[1].join("relay");
  await it.server.fill("relay", 1, 300);
  const pages = await Promise.all([...users, cat].map((user) => it.openAs(user, "#relay", { prepare: (page) => noLuck(page) })));
  const writers = pages.slice(0, 2);
  const reader = pages[2];
  for (const page of pages) await shown(page, "number 300");
  await reader.evaluate(async () => {
    document.querySelector(".timeline-scroll").scrollTop -= 1_000;
    await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  });
  const strayed = await watchPlace(reader);
  const rows = [];
  for (const page of pages) rows.push(await watchRows(page));

  const written = [0, 0];
  let isOver = false;
  const writing = Promise.all(
    writers.map(async (page, i) => {
      while (!isOver) {
        await say(page, `${names[i]} ${written[i] + 1}`);
        written[i]++;
        // Somebody who types very fast.
        await new Promise((resolve) => setTimeout(resolve, 40));
      }
    }),
  );
  const bothWrote = (more) => {
    const [a, b] = written;
    return until("both have written", () => written[0] >= a + more && written[1] >= b + more);
  };
  for (const signal of ["SIGTERM", "SIGKILL", "SIGKILL"]) {
    await bothWrote(5);
    await it.server.down(signal);
    for (const page of writers) await banner(page).getByText(/^Reconnecting in \d+ s$/).waitFor();
    await bothWrote(3);
    for (const page of writers) assert.ok((await unsent(page)) > 0, "what was written meanwhile is shown");
    await it.server.up();
    for (const page of pages) await comeBack(page);
  }
  await bothWrote(5);
  isOver = true;
  await writing;
  for (const page of writers) await until("all is sent", async () => (await unsent(page)) === 0);

  const log = (await cat.log("relay")).filter(({ body }) => body !== undefined);
  const said = log.map(({ sequence, body }) => [sequence, body]);
  for (const [i, name] of names.entries()) {
    const own = Array.from({ length: written[i] }, (_, n) => `${name} ${n + 1}`);
    assert.deepEqual(log.map(({ body }) => body).filter((body) => body.startsWith(name)), own, "each once, in the order of writing");
    await shown(writers[i], said.at(-1)[1]);
  }
  assert.equal(await strayed(), 0, "what was read did not move");
  for (const look of rows) {
    const { atFirst, fewest, isSame } = await look();
    assert.ok(isSame && fewest > atFirst / 2, `the list flickered: ${fewest} of ${atFirst} rows, ${isSame ? "the same" : "another"} list`);
  }
  for (const { messages, wrong } of await Promise.all(pages.map(readAll))) {
    assert.deepEqual(wrong, []);
    assert.deepEqual(messages, said);
  }
  t.diagnostic(`${written.join(" and ")} messages over 3 restarts`);
  it.expectProblems(AWAY);
});

test("offline and back: what is written waits, is sent once, and nobody has to wait for it", async (t) => {
  const [dan, ira] = [await makeUser(it.url, "dan"), await makeUser(it.url, "ira")];
  await dan.createChannel("tunnel");
  await ira.join("tunnel");
  const way = await proxy(it.url);
  t.after(way.close);
  const page = await it.openAs(dan, "#tunnel", { url: way.url, prepare: (page) => noLuck(page) });
  const other = await it.openAs(ira, "#tunnel");
  await say(page, "before");
  await shown(other, "before");
  await delivered(page, "before");

  // A browser that knows that it is offline, and a connection that died without a word.
  way.hold();
  await page.context().setOffline(true);
  await banner(page).getByText("Offline. What you write waits here.").waitFor();
  for (const n of [1, 2, 3]) await say(page, `offline ${n}`);
  await until("all three are shown as pending", async () => (await page.locator(".row.outgoing.pending").count()) === 3);
  await page.evaluate(() => (window.luck = 30));
  way.release();
  // The wait is 15 s or more by now: only the event ends it.
  const back = Date.now();
  await page.context().setOffline(false);
  await bannerGone(page);
  assert.ok(Date.now() - back < 5_000, `it took ${Date.now() - back} ms`);
  await shown(other, "offline 3");

  // A browser that knows nothing of it: the network takes everything and answers nothing.
  way.hold();
  await say(page, "half-open");
  await banner(page).getByText(/^Reconnecting/).waitFor();
  assert.equal(await page.locator(".row.outgoing.pending").count(), 1);
  // An attempt that gets no answer takes 15 s, and so does the wait that follows.
  await banner(page).getByText(/^Reconnecting in \d\d s$/).waitFor({ timeout: 2 * DEADLINE_MS });
  way.release();
  await page.getByRole("button", { name: "Now" }).click();
  await bannerGone(page);
  await shown(other, "half-open");

  // It arrives, and the answer that says so is lost: it is sent again, and is there once.
  await until("the first are sent", async () => (await unsent(page)) === 0);
  way.hold("answers");
  await say(page, "unanswered");
  await shown(other, "unanswered");
  assert.equal(await page.locator(".row.outgoing.pending").count(), 1);
  await banner(page).getByText(/^Reconnecting in/).waitFor();
  way.release();
  await comeBack(page);
  await delivered(page, "unanswered");

  await until("all is sent", async () => (await unsent(page)) === 0);
  const bodies = (await ira.log("tunnel")).flatMap(({ body }) => body ?? []);
  assert.deepEqual(bodies, ["before", "offline 1", "offline 2", "offline 3", "half-open", "unanswered"]);
  it.expectProblems(AWAY);
});

test("a session that was ended meanwhile: what was written is still there after signing in", async (t) => {
  const [sam, tia] = [await makeUser(it.url, "sam"), await makeUser(it.url, "tia")];
  for (const name of ["alpha", "beta"]) await sam.createChannel(name);
  await tia.join("beta");
  const way = await proxy(it.url);
  t.after(way.close);
  const page = await it.openAs(sam, "#alpha", { url: way.url, prepare: (page) => noLuck(page) });
  await page.getByRole("heading", { level: 1, name: "alpha" }).waitFor();
  const box = page.getByRole("textbox", { name: /^Message #/ });
  await box.fill("a draft of alpha");
  await page.getByRole("link", { name: "beta" }).click();
  await page.getByRole("textbox", { name: "Message #beta" }).waitFor();
  await say(page, "arrived");
  await delivered(page, "arrived");
  way.hold();
  await say(page, "on its way");
  await box.fill("a draft of beta");
  await banner(page).getByText(/^Reconnecting/).waitFor();
  await it.server.admin("POST", "/v1/admin/accounts/sam/logout");
  await until("the hub knows it", () => sam.ask("GET", "/v1/me/channels").then(() => false, () => true));
  way.release();
  await until("it says that the session is over", async () => {
    await page.evaluate(() => document.querySelector(".banner:not([hidden]) button:not([hidden])")?.click());
    return page.getByRole("heading", { name: "Sign in" }).isVisible();
  });
  await page.getByText("Your session is over. Sign in again: what you had not sent is kept here until then.").waitFor();

  await signIn(page, sam);
  await page.getByRole("textbox", { name: "Message #beta" }).waitFor();
  assert.equal(await box.inputValue(), "a draft of beta");
  const failed = page.locator(".row.outgoing.failed");
  await failed.getByText("Not sent: you were signed out").waitFor();
  await failed.getByRole("button", { name: "Try again" }).click();
  await delivered(page, "on its way");
  await page.getByRole("link", { name: "alpha" }).click();
  await page.getByRole("textbox", { name: "Message #alpha" }).waitFor();
  assert.equal(await box.inputValue(), "a draft of alpha");
  const bodies = (await tia.log("beta")).flatMap(({ body }) => body ?? []);
  assert.deepEqual(bodies, ["arrived", "on its way"]);
  it.expectProblems(AWAY);
});
