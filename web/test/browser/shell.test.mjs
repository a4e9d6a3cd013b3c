// What stands around the messages: channels, keys, the connection, and several tabs of one user.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fixture, makeUser, say } from "./harness.mjs";

const it = fixture();
const composer = (page) => page.getByRole("textbox", { name: /^Message #/ });
const heading = (page, name) => page.getByRole("heading", { level: 1, name, exact: true });

test("a private channel: made, somebody invited by name, left again", async () => {
  const [ada, bob] = [await makeUser(it.url, "ada"), await makeUser(it.url, "bob")];
  await bob.ask("GET", "/v1/me/channels");
  const page = await it.openAs(ada);
  await page.getByRole("button", { name: "Make a channel" }).first().click();
  await page.getByLabel("Name").fill("Book Club");
  await page.getByText("Only who is invited").click();
  await page.getByRole("button", { name: "Make channel" }).click();
  await heading(page, "book-club").waitFor();
  await page.getByRole("link", { name: "book-club, private" }).waitFor();

  await page.getByRole("button", { name: "Invite somebody by name" }).click();
  await page.getByLabel("Invite somebody").fill("nobody-at-all");
  await page.getByRole("button", { name: "Invite", exact: true }).click();
  await page.getByText("Nobody of this name has been here yet.").waitFor();
  await page.getByLabel("Invite somebody").fill("bob");
  await page.getByRole("button", { name: "Invite", exact: true }).click();
  await page.locator(".member-list").getByText("bob").waitFor();
  await page.keyboard.press("Escape");

  const bobs = await it.openAs(bob, "#book-club");
  await say(bobs, "thank you");
  await page.getByRole("log").getByText("thank you").waitFor();
  await bobs.getByRole("button", { name: "About this channel" }).click();
  await bobs.getByRole("button", { name: "Leave this channel" }).click();
  await bobs.getByText("#book-club cannot be shown").waitFor();
  assert.equal(await bobs.getByRole("link", { name: /book-club/ }).count(), 0, "it is there for its members only");
});

test("a channel is found by the switcher, looked at from outside, and joined", async () => {
  const [eve, kim] = [await makeUser(it.url, "eve"), await makeUser(it.url, "kim")];
  await eve.createChannel("gardening", { topic: "Tomatoes, mostly" });
  await eve.post("gardening", "they are ripe");
  const page = await it.openAs(kim, "#lobby");
  await heading(page, "lobby").waitFor();
  await page.keyboard.press("Control+k");
  await page.keyboard.type("garden");
  await page.getByRole("option", { name: /^gardening/ }).waitFor();
  await page.keyboard.press("Enter");
  await heading(page, "gardening").waitFor();
  await page.getByRole("log").getByText("they are ripe").waitFor();
  await page.getByRole("button", { name: "Join", exact: true }).click();
  await page.getByRole("button", { name: "Join", exact: true }).waitFor({ state: "detached" });
  const { channels } = await kim.ask("GET", "/v1/me/channels");
  assert.ok(channels.some(({ name }) => name === "gardening"));
});

test("drafts stay with their channels, and Alt with an arrow goes to what is new", async () => {
  const [lee, mia] = [await makeUser(it.url, "lee"), await makeUser(it.url, "mia")];
  for (const name of ["a-one", "b-two", "c-three"]) await lee.createChannel(name);
  await mia.join("c-three");
  const page = await it.openAs(lee, "#a-one");
  await heading(page, "a-one").waitFor();
  await composer(page).fill("half a sent");
  await page.getByRole("link", { name: "b-two" }).click();
  await heading(page, "b-two").waitFor();
  assert.equal(await composer(page).inputValue(), "");
  await page.keyboard.press("Alt+ArrowUp");
  await heading(page, "a-one").waitFor();
  assert.equal(await composer(page).inputValue(), "half a sent");
  await mia.post("c-three", "news");
  await page.getByRole("link", { name: "c-three, 1 unread" }).waitFor();
  assert.match(await page.title(), /^\(\d+\) #a-one · hubbub$/);
  await page.keyboard.press("Alt+ArrowDown");
  await heading(page, "c-three").waitFor();
  await page.getByRole("link", { name: "c-three", exact: true }).waitFor();
});

test("keys: help, a letter begins to write, Escape closes and the focus comes back", async () => {
  const zoe = await makeUser(it.url, "zoe");
  const page = await it.openAs(zoe, "#lobby");
  await heading(page, "lobby").waitFor();
  await page.getByRole("button", { name: "About this channel" }).focus();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), "About this channel");
  await page.keyboard.type("hello");
  assert.equal(await composer(page).inputValue(), "hello");
});

test("the server goes away and comes back: what was written meanwhile is there once", async () => {
  const [ann, ben] = [await makeUser(it.url, "ann"), await makeUser(it.url, "ben")];
  await ann.createChannel("storm");
  await ben.join("storm");
  const [anns, bens] = [await it.openAs(ann, "#storm"), await it.openAs(ben, "#storm")];
  await say(anns, "before");
  await bens.getByRole("log").getByText("before").waitFor();
  await it.server.down();
  await anns.locator(".banner").getByText(/Reconnecting/).waitFor();
  await say(anns, "while it was away");
  await it.server.up();
  await bens.getByRole("log").getByText("while it was away").waitFor();
  await anns.locator(".banner").waitFor({ state: "hidden" });
  await say(bens, "and after");
  await anns.getByRole("log").getByText("and after").waitFor();
  for (const page of [anns, bens]) assert.equal(await page.getByRole("log").getByText("while it was away").count(), 1);
  it.expectProblems(/WebSocket connection|Failed to load resource/);
});

test("two tabs share one session: both live after a reload, both leave together", async () => {
  const pat = await makeUser(it.url, "pat");
  const first = await it.openAs(pat, "#lobby");
  const second = await first.context().newPage();
  await second.goto(`${it.url}/#lobby`);
  await heading(second, "lobby").waitFor();
  await Promise.all([first.reload(), second.reload()]);
  for (const page of [first, second]) await page.locator(".you").getByText("live").waitFor();
  await say(first, "from the first");
  await second.getByRole("log").getByText("from the first").waitFor();

  await first.locator(".you").click();
  await first.getByRole("button", { name: "Sign out" }).click();
  await first.getByRole("heading", { name: "Sign in" }).waitFor();
  await second.getByText(/signed out in another tab/).waitFor();
  await second.reload();
  await second.getByRole("heading", { name: "Sign in" }).waitFor();
});

test("the theme is kept, and dark is dark", async () => {
  const tom = await makeUser(it.url, "tom");
  const page = await it.openAs(tom, "#lobby", { colorScheme: "light" });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.locator(".you").click();
  await page.getByLabel("Dark").check();
  const dark = await ground();
  assert.notEqual(dark, light);
  await page.reload();
  await page.locator(".sidebar").waitFor();
  assert.equal(await ground(), dark);
});

test("on a phone the channels are a sheet, and what is under it cannot be reached", async () => {
  const kay = await makeUser(it.url, "kay");
  await kay.createChannel("pocket");
  const page = await it.openAs(kay, "#lobby", { viewport: { width: 390, height: 844 }, hasTouch: true });
  await heading(page, "lobby").waitFor();
  await page.getByRole("button", { name: "Channels", exact: true }).click();
  await page.getByRole("link", { name: "pocket" }).waitFor();
  assert.equal(await page.evaluate(() => document.querySelector("main").inert), true);
  await page.getByRole("link", { name: "pocket" }).click();
  await heading(page, "pocket").waitFor();
  assert.equal(await page.evaluate(() => document.querySelector("main").inert), false);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than the window");
});
